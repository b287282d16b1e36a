"""Waiting until everything that was accepted has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.core.dispatch.stream_call import StreamCall

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.call import Call
    from claude_throttle.core.dispatch.lane import Lane

#: Seconds between looks for streams that nobody reads any more.
FORGOTTEN_LOOK_SECONDS = 0.25


def wait_until_done(
    lanes: Sequence[Lane],
    now: Callable[[], float],
    timeout: Optional[float],
    why: Callable[[Call], BaseException],
) -> int:
    """Wait, *timeout* seconds at most; return how many calls have not ended.

    Without one, streams whose reader's thread has ended are stopped: they would be waited for for
    ever.
    """
    if timeout is not None:
        return _wait(lanes, now() + timeout)
    while left := _wait(lanes, now() + FORGOTTEN_LOOK_SECONDS):
        for lane in lanes:
            _stop_forgotten(lane, why)
    return left


def _wait(lanes: Sequence[Lane], give_up_at: float) -> int:
    return sum(lane.wait_until_done(give_up_at) for lane in lanes)


def _stop_forgotten(lane: Lane, why: Callable[[Call], BaseException]) -> None:
    with lane.mutex:
        out = list(lane.out)
    for attempts in out:
        call = attempts.call
        if isinstance(call, StreamCall) and call.forgotten:
            attempts.stop(why(call))

"""Waiting until everything that was accepted has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.stream_call import StreamCall

#: Seconds between looks for streams whose reader's thread has ended.
ORPHAN_LOOK_SECONDS = 0.25


def wait_until_done(
    lanes: Sequence[Lane],
    now: Callable[[], float],
    timeout: Optional[float],
    why: Callable[[Call], BaseException],
) -> int:
    """Wait, *timeout* seconds at most; return how many calls have not ended.

    Without a timeout, streams whose reader's thread has ended are stopped: their end would never
    come.
    """
    if timeout is not None:
        return _wait(lanes, now() + timeout)
    while left := _wait(lanes, now() + ORPHAN_LOOK_SECONDS):
        for lane in lanes:
            _stop_orphans(lane, why)
    return left


def _wait(lanes: Sequence[Lane], give_up_at: float) -> int:
    return sum(lane.wait_until_done(give_up_at) for lane in lanes)


def _stop_orphans(lane: Lane, why: Callable[[Call], BaseException]) -> None:
    for attempt in list(lane.out):
        call = attempt.call
        if isinstance(call, StreamCall) and call.is_orphan:
            attempt.stop(why(call))

"""Where every call ends, exactly once, on every path.

The only place that resolves a future; never while a lane's mutex is held, because a done-callback
that submits would hang the worker.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from claude_throttle.flow.call import Call
from claude_throttle.flow.cost import NO_COST, NO_USAGE, Cost, Usage
from claude_throttle.flow.events import CallFailed, CallSucceeded, Event
from claude_throttle.flow.heard import Heard
from claude_throttle.flow.per_thread import PerThread

if TYPE_CHECKING:
    from claude_throttle.flow.lane import Lane

logger = logging.getLogger("claude_throttle")


class Outcome(NamedTuple):
    """How the last attempt of a call ended."""

    value: Any = None
    error: Optional[BaseException] = None
    #: None if the server did not say.
    usage: Optional[Usage] = None
    status: Optional[int] = None
    request_id: Optional[str] = None
    #: The server did not take this attempt (429, 529, no connection): its tokens come back.
    #: Else, without usage, the estimate stays booked.
    refused: bool = False
    #: For the pace. What a refusal said was heard when it came.
    heard: Heard = Heard()


class _Busy(PerThread):
    """The calls this thread is in the midst of, in a listener or a done-callback perhaps."""

    __slots__ = ()

    @property
    def calls(self) -> list[Call]:
        return self.list_of_mine("calls")


busy = _Busy()


class busy_with:  # noqa: N801 - contextlib's spelling, at a third of its cost in every submit
    """Note that this thread cannot wait for *call* to end: it is what has to end it."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        busy.calls.append(self._call)

    def __exit__(self, *_error: object) -> None:
        busy.calls.remove(self._call)


def settle(call: Call, outcome: Outcome) -> None:
    """End *call* with *outcome*; does nothing if it has ended already.

    Whatever fails on the way, the future is resolved.
    """
    lane = call.home
    with lane.mutex:
        if call.ended:
            return
        call.ended = True
    with busy_with(call):
        try:
            lane.accounts.close(call, _final_cost(call, outcome), _answer(outcome))
            lane.observe(_event(call, outcome, lane.now()), call)
        except BaseException:
            # The answer was paid for; a bug here must not lose it.
            logger.exception("accounting for call %d failed; this is a bug", call.number)
        finally:
            _return_permit(call)
            _resolve(call, outcome)
            lane.backlog.settled(call)
            call.let_go()


def _answer(outcome: Outcome) -> Optional[Heard]:
    return outcome.heard if outcome.status is not None and outcome.status < 400 else None


def _return_permit(call: Call) -> None:
    """A stage of its own: a permit lost to a bug elsewhere would be lost for good."""
    if call.attempts is None:
        return
    try:
        call.home.accounts.return_permit(call.attempts)
    except BaseException:
        logger.exception("the permit of call %d was not given back; this is a bug", call.number)


def _final_cost(call: Call, outcome: Outcome) -> Optional[Cost]:
    """What the call really took of what it holds; None if the estimate is all we know."""
    attempts = call.attempts
    if attempts is None:
        return NO_COST
    if outcome.usage is not None:
        usage = outcome.usage
        counted = usage.counted_input_tokens(call.home.counts_cache_reads)
        return Cost(attempts.held.requests, counted - attempts.counted, usage.output_tokens)
    return Cost(attempts.held.requests, 0.0, 0.0) if outcome.refused else None


def _event(call: Call, outcome: Outcome, now: float) -> Event:
    attempts = call.attempts.number if call.attempts is not None else 0
    if outcome.error is not None:
        name = type(outcome.error).__name__
        return CallFailed(call.number, call.model, attempts, name, outcome.status)
    latency = now - (call.sent_at if call.sent_at is not None else now)
    usage = outcome.usage or NO_USAGE
    return CallSucceeded(call.number, call.model, attempts, latency, usage, outcome.request_id)


def _resolve(call: Call, outcome: Outcome) -> None:
    future = call.future
    try:
        future.forget()
        future.claim()
        if future.cancelled():
            return
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
    except BaseException:
        logger.exception("a done-callback of call %d raised", call.number)


def settle_cancelled(lane: Lane, call: Call) -> None:
    """End a call whose future was cancelled while it waited."""
    with lane.mutex:
        if call.ended:
            return
        call.ended = True
        lane.backlog.take_locked(call)
        lane.backlog.forget_deadline_locked(call)
    try:
        with busy_with(call):
            lane.observe(CallFailed(call.number, call.model, 0, "CancelledError", None), call)
    finally:
        lane.backlog.settled(call)
        call.let_go()

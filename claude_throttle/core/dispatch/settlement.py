"""Where every call ends, exactly once, on every path.

The only place that resolves a future; never while a lane's mutex is held, because a done-callback
that submits would hang the worker.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.domain.cost import NO_COST, NO_USAGE, Cost, Usage
from claude_throttle.core.domain.events import CallFailed, CallSucceeded, Event
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.core.threads.thread_local import ThreadLocal

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.attempt import Attempt

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
    feedback: Feedback = Feedback()


class _InProgress(ThreadLocal):
    """The calls this thread is in the midst of, in a listener or a done-callback perhaps."""

    __slots__ = ()

    @property
    def calls(self) -> list[Call]:
        return self.list_of_mine("calls")

    def forget(self, call: Call) -> None:
        """Ctrl-C cut this thread off in the midst of it."""
        self.calls[:] = [other for other in self.calls if other is not call]


in_progress = _InProgress()


class mark_in_progress:  # noqa: N801 - contextlib's spelling, at a third of its cost in every submit
    """Note that this thread cannot wait for *call* to end: it is what has to end it."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        in_progress.calls.append(self._call)

    def __exit__(self, *_error: object) -> None:
        in_progress.calls.remove(self._call)


def settle(call: Call, outcome: Outcome) -> None:
    """End *call* with *outcome*; does nothing if it has ended already.

    Whatever fails on the way, the future is resolved.
    """
    is_ours = False
    try:
        with call.home.mutex:
            is_ours = not call.ended
            call.ended = True
        if is_ours:
            with mark_in_progress(call):
                _account_for(call, outcome)
                _let_go(call, outcome)
    except KeyboardInterrupt:  # a stream is settled by its reader, maybe in the main thread
        in_progress.forget(call)
        if is_ours:
            _let_go(call, outcome)
        raise


def _account_for(call: Call, outcome: Outcome) -> None:
    lane = call.home
    try:
        lane.accounting.close(call, _final_cost(call, outcome), _answer(outcome))
        lane.observe(_event(call, outcome, lane.now()), call)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # The answer was paid for; a bug here must not lose it.
        logger.exception("accounting for call %d failed; this is a bug", call.number)


def _let_go(call: Call, outcome: Outcome) -> None:
    """Have nothing of it left; what was done already is not done again."""
    lane, attempts = call.home, call.attempts
    if attempts is not None:
        _return_permit(call, attempts)
    _resolve(call, outcome)
    with lane.mutex:
        if attempts is not None:
            lane.out.discard(attempts)
        lane.backlog.settled(call)
    call.detach()


def _answer(outcome: Outcome) -> Optional[Feedback]:
    return outcome.feedback if outcome.status is not None and outcome.status < 400 else None


def _return_permit(call: Call, attempts: Attempt) -> None:
    """A stage of its own: a permit lost to a bug elsewhere would be lost for good."""
    try:
        call.home.accounting.return_permit(attempts)
    except KeyboardInterrupt:
        raise
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
        if future.done():  # cancelled, or resolved before Ctrl-C
            return
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        logger.exception("a done-callback of call %d raised", call.number)

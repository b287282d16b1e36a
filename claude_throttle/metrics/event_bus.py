"""The delivery of events: to the counters, to the log and to listeners.

The lanes report what happened as one of :mod:`claude_throttle.core.domain.events`; this module is
the only place from which the user's listeners are called. A listener is foreign code: it may raise,
block, or call the throttler. So it must be called without any lock held, and never in the worker,
whose pace it would disturb; both are up to the caller of :meth:`EventBus.observe`.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterable
from logging import DEBUG, INFO, WARNING
from typing import Any, Callable, Optional, Protocol

from claude_throttle.core.domain.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    CircuitOpened,
    Event,
    IterationBooked,
    PausedByHand,
    PermitClosed,
    PermitGranted,
    StoreLost,
    Suspended,
)
from claude_throttle.core.threads.clock import Clock
from claude_throttle.errors import ThrottleError
from claude_throttle.metrics.recorder import Recorder

logger = logging.getLogger("claude_throttle")

Listener = Callable[[Event], None]

#: One line each for a call and a permit would be thousands a minute, and what keeps all from being
#: sent should be seen where only warnings are. All else is logged as INFO.
_LEVELS = {
    **dict.fromkeys((CallQueued, CallSent, CallSucceeded, IterationBooked), DEBUG),
    **dict.fromkeys((PermitGranted, PermitClosed), DEBUG),
    **dict.fromkeys((CircuitOpened, PausedByHand, StoreLost, Suspended), WARNING),
}

#: Characters of a text in a log line.
LONGEST_TEXT = 200


class Submission(Protocol):
    """A call, as far as events need it: with the context of the thread that submitted it."""

    @property
    def context(self) -> Optional[contextvars.Context]:
        """What :meth:`EventBus.context` returned when it was submitted."""
        ...


class EventBus:
    """Delivers the events of one process. Thread-safe; a listener's exception is logged.

    Holds no lock while listeners run. Each is called with one event at a time per thread, but
    possibly by several threads at once, and must be safe for that.
    """

    def __init__(self, recorder: Recorder, listeners: Iterable[Listener], clock: Clock) -> None:
        self._record = recorder.record
        self._count_refusal = recorder.turned_away
        self._listeners = tuple(listeners)
        self._now = clock.monotonic

    def context(self) -> Optional[contextvars.Context]:
        """A copy of the submitter's context, for the listeners; None if there are none.

        Copying a context takes well under a microsecond, but keeps its values alive as long as the
        call.
        """
        return contextvars.copy_context() if self._listeners else None

    def observe(self, event: Event, call: Optional[Submission]) -> None:
        """Count and log *event*, then call the listeners in the context of the call's submitter.

        *call* caused the event; None if no call did. A BaseException of a listener, such as
        SystemExit, is not caught. Counters come first: a listener that reads ``stats()`` finds its
        event counted.
        """
        self._record(event, self._now())
        level = _LEVELS.get(type(event), INFO)
        if type(event) in (CallFailed, PermitClosed):
            level = _level_of_end(event)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", line_of(event))
        for listener in self._listeners:
            context = call.context if call is not None else None
            try:
                # A copy: a context can be entered only once at a time.
                (context or contextvars.Context()).copy().run(listener, event)
            except Exception:
                logger.exception("the event listener raised")

    def turned_away(self, model: str, error: ThrottleError) -> None:
        """Count and log a refusal at the door: nothing was queued, granted or sent.

        No event: its caller is told by the exception, and a listener that submits would go round
        in circles.
        """
        self._count_refusal(type(error).__name__, self._now())
        if logger.isEnabledFor(INFO):
            seconds = error.retry_after
            again = "" if seconds is None else f", again in {seconds:,.1f} s"
            name = type(error).__name__
            logger.info("turned away: %s for %r%s", name, model[:LONGEST_TEXT], again)


def _level_of_end(event: Any) -> int:
    """A refusal is seen; an answer, and a call that its caller took back, are one of many."""
    refused = event.refused if isinstance(event, PermitClosed) else event.error != "CancelledError"
    return INFO if refused else DEBUG


def line_of(event: tuple[Any, ...]) -> str:
    """An event as one line: numbers rounded to thousandths, texts cut, no control characters."""
    names = event._fields  # type: ignore[attr-defined]
    told = ", ".join(f"{name}={_shown(value)}" for name, value in zip(names, event))
    return f"{type(event).__name__}({told})"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0!r}"  # no -0.0
    if isinstance(value, str):
        return repr(value[:LONGEST_TEXT])
    return line_of(value) if isinstance(value, tuple) else repr(value)

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
from typing import Callable, Optional, Protocol

from claude_throttle.core.domain.events import Event
from claude_throttle.core.threads.clock import Clock
from claude_throttle.metrics.recorder import Recorder

logger = logging.getLogger("claude_throttle")

Listener = Callable[[Event], None]


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
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", event)
        for listener in self._listeners:
            context = call.context if call is not None else None
            try:
                # A copy: a context can be entered only once at a time.
                (context or contextvars.Context()).copy().run(listener, event)
            except Exception:
                logger.exception("the event listener raised")

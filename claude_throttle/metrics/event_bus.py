"""The delivery of events: to the counters, to the log and to listeners."""

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
    """Delivers the events of one process. Thread-safe; a listener's exception is logged."""

    def __init__(self, recorder: Recorder, listeners: Iterable[Listener], clock: Clock) -> None:
        self._record = recorder.record
        self._listeners = tuple(listeners)
        self._now = clock.monotonic

    def context(self) -> Optional[contextvars.Context]:
        """A copy of the submitter's context, for the listeners; None if there are none."""
        return contextvars.copy_context() if self._listeners else None

    def observe(self, event: Event, call: Optional[Submission]) -> None:
        """Count and log *event*, then call the listeners in the context of the call's submitter.

        *call* caused the event; None if no call did.
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

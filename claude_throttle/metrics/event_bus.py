"""Who hears of events: the counters, the log, the listener."""

from __future__ import annotations

import contextvars
import logging
from typing import Callable, Optional

from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.domain.events import Event
from claude_throttle.core.threads.clock import Clock
from claude_throttle.metrics.recorder import Recorder

logger = logging.getLogger("claude_throttle")

Listener = Callable[[Event], None]


class EventBus:
    """Of one process. Thread-safe."""

    def __init__(self, recorder: Recorder, listener: Optional[Listener], clock: Clock) -> None:
        self._record = recorder.record
        self._listener = listener
        self._now = clock.monotonic

    def context(self) -> Optional[contextvars.Context]:
        """What a listener should find of the submitter's context; None if there is no listener."""
        return None if self._listener is None else contextvars.copy_context()

    def observe(self, event: Event, call: Optional[Call]) -> None:
        """Count and log an event, and tell the listener in the submitter's context.

        *call* is the one that brought it about; None if none did.
        """
        self._record(event, self._now())
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", event)
        if self._listener is None:
            return
        context = call.context if call is not None else None
        try:
            # A copy: a context can be entered only once at a time.
            (context or contextvars.Context()).copy().run(self._listener, event)
        except Exception:
            logger.exception("the event listener raised")

"""Whether the server can be reached, told from a throttler's events.

A throttler waits out an outage, however long: that is right in the middle of a run, with a person
asleep. But a run that never got a single answer has most likely been given a wrong address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from claude_throttle import (
    SYSTEM_CLOCK,
    CallFailed,
    CallSucceeded,
    CircuitClosed,
    CircuitOpened,
    Event,
    RetryScheduled,
)

#: Seconds of probes without one answer ever: longer than a server takes to restart, shorter than
#: a newcomer's patience.
GIVE_UP_SECONDS = 30.0


class OutageWatch:
    """A listener for ``on_event``. Thread-safe: every field is set in one step."""

    def __init__(self) -> None:
        #: Told of outages and their ends.
        self.say: Callable[[str], None] = lambda _: None
        self._answered = False
        self._silent_since: Optional[float] = None
        #: What became of the last failed attempt, in one or two words.
        self._reason = "no answer"

    def __call__(self, event: Event) -> None:
        if isinstance(event, (RetryScheduled, CallFailed)):
            self._answered = self._answered or event.status is not None
        elif isinstance(event, CallSucceeded):
            self._answered = True
        if isinstance(event, RetryScheduled):
            self._reason = event.reason
        elif isinstance(event, CallFailed):
            self._reason = event.error
        elif isinstance(event, CircuitOpened):
            self._silent_since = SYSTEM_CLOCK.monotonic()
            self.say(
                f"{event.lane}: the server keeps failing ({self._reason}); "
                "one request at a time tries it"
            )
        elif isinstance(event, CircuitClosed):
            self._silent_since = None
            self.say(f"{event.lane}: the server answers again")

    def given_up(self, now: float) -> Optional[str]:
        """Why there is no hope, or None."""
        since = self._silent_since
        if self._answered or since is None or now - since < GIVE_UP_SECONDS:
            return None
        return f"nothing answers ({self._reason}), in {now - since:.0f} s of trying"

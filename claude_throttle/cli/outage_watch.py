"""Decides from a throttler's events whether a run should give up on its server.

A throttler waits for the end of an outage, however long. That is right for a run in the middle of
the night; but a run that never got an answer most likely has a wrong address.
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

#: Seconds of probes without any answer: longer than a restart of a server takes, and not too long
#: for a user who mistyped an address.
GIVE_UP_SECONDS = 30.0


class OutageWatch:
    """A listener for ``on_event``. Thread-safe: each field is set in one step.

    Events come from sender threads; :meth:`give_up_reason` is asked by the main thread a few times
    a second. Any HTTP status counts as an answer, a 529 too: then the address is right.
    """

    def __init__(self) -> None:
        #: Called with a message when an outage begins or ends.
        self.say: Callable[[str], None] = lambda _: None
        self._answered = False
        self._silent_since: Optional[float] = None
        # The reason of the last failed attempt, in one or two words.
        self._reason = "no answer"

    def __call__(self, event: Event) -> None:
        """Note one event; called by the throttler's sender threads.

        Messages are printed at the opening and the closing of a circuit only: one for each failed
        attempt would be too many.
        """
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
                "one request at a time is sent as a probe"
            )
        elif isinstance(event, CircuitClosed):
            self._silent_since = None
            self.say(f"{event.lane}: the server answers again")

    @property
    def never_answered(self) -> bool:
        """Whether there is an outage that no answer came before."""
        return self._silent_since is not None and not self._answered

    def give_up_reason(self, now: float) -> Optional[str]:
        """Why the run should end; None if it should go on."""
        since = self._silent_since
        if self._answered or since is None or now - since < GIVE_UP_SECONDS:
            return None
        return f"no answer ({self._reason}) in {now - since:.0f} s of retries"

"""Interfaces that dispatching requires of parts that lie above it, or of which there are several.

A class here is a ``typing.Protocol``: the parts need not import it, and imports still go downwards
only.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Protocol

from claude_throttle.core.domain.cost import Cost, Usage
from claude_throttle.core.domain.feedback import Dispatch, Feedback, ResponseReport

Step = Callable[[], None]

#: Returns what the first few behind the head will cost, at most so many. Requires the lane's mutex.
Ahead = Callable[[int], list[Cost]]


class HeldSlot(Protocol):
    """A slot that a dispatched request holds: one of the concurrency limiter, its own or lent.

    Releasing is idempotent, because Ctrl-C may come between a release and the note of it.
    """

    @property
    def notify_waiters(self) -> Step:
        """Wakes the lanes that wait for a slot. Call it with no lane's mutex held."""
        ...

    def release(self) -> None:
        """Give it back, and wake those that wait for it. Call it with no lane's mutex held."""
        ...

    def release_nowait(self) -> None:
        """Give it back without waking anything; takes no lock, for the garbage collector."""
        ...


class FeedbackReader(Protocol):
    """Reads what other clients were answered by the server. Thread-safe."""

    #: The process that it, and each of its permits, belongs to.
    pid: int

    def read_outcome(
        self, response: Any, usage: Any, headers: Any, status: Any, body: Any
    ) -> tuple[Optional[ResponseReport], Optional[Usage]]:
        """Read an answer in another library's form, or parts of one.

        Raises TypeError for what cannot be read, and nothing for odd headers or bodies.
        """
        ...

    def permit_unsettled(self) -> None:
        """Note that nobody said what came of a request. Called with no mutex held."""
        ...

    def own_usage(self, lane: str, usage: Usage) -> Usage:
        """What of *usage* the models of *lane* took; the rest is booked where it belongs."""
        ...

    def weigh_refusal(self, lane: str, feedback: Feedback, dispatch: Dispatch) -> Feedback:
        """Note that the API refused the account; return what the pacer has to take it for.

        Called with no mutex held.
        """
        ...

    def request_accepted(self, lane: str, left_at: float) -> None:
        """Note that a request which left at *left_at* was accepted. Called with no mutex held."""
        ...

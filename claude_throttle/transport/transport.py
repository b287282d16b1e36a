"""What sends a call: the wire, or canned answers in testing mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.call import Attempt, Call, Outcome
    from claude_throttle.transport.response_stream import EventStream


class Transport(Protocol):
    """Sends calls. One per process. Thread-safe."""

    def send(self, call: Call, attempt: Attempt) -> Outcome:
        """Send a call until it is answered or final; every failure is returned, not raised."""
        ...

    def events(self, call: Call, attempt: Attempt) -> EventStream:
        """The events of a streamed call; nothing is sent yet."""
        ...

    def close(self) -> None:
        """Close the idle connections."""
        ...

    def abandon(self) -> None:
        """In a forked child: these sockets are the parent's."""
        ...

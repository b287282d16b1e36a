"""The interface of what sends a call: ``HttpTransport``, or canned answers in testing mode.

The account and its sender threads know this much only, so testing mode uses the same queue, pacer
and threads as real calls do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.call import Attempt, Call, Outcome
    from claude_throttle.transport.response_stream import EventStream


class Transport(Protocol):
    """Sends calls. Thread-safe. One per process: a forked child abandons its copy."""

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
        """Make the parent's sockets unusable in a forked child. Takes no lock."""
        ...

"""Shows a whole message as a stream: for a stage that answers a streamed call by itself.

A stage (a cache, for example) may answer without sending anything. The caller of ``stream()`` gets
events all the same, in the API's order; no slot, connection or quota is involved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.errors import Closed
from claude_throttle.features.streaming.accumulator import MessageAccumulator
from claude_throttle.transport import sdk
from claude_throttle.transport.message_events import message_events
from claude_throttle.transport.request import PreparedRequest


class ReplayedStream:
    """The events of a whole message, one by one, with the methods of :class:`OpenStream`.

    Read by one thread at a time. Raises Closed if it is read on after close(), like a real one.
    """

    def __init__(self, request: PreparedRequest, answer: Any) -> None:
        self.call = request
        self.received = MessageAccumulator()
        self.request_id: Optional[str] = getattr(answer, "_request_id", None)
        self.response_head = sdk.PlainResponse("", 200, {"request-id": self.request_id or ""})
        self._events = message_events(
            answer if isinstance(answer, Mapping) else sdk.message_fields(answer)
        )
        #: Whether nothing more will come.
        self.ended = False

    def read_on(self) -> None:
        """Raise :class:`Closed` after close()."""
        if self.ended and not self.received.complete:
            raise Closed("the stream was closed before its end")

    def next_event(self) -> Optional[dict[str, Any]]:
        """The next event; None after the last. Raises :class:`Closed` after close()."""
        self.read_on()
        event = next(self._events, None)
        if event is None:
            self.ended = True
        else:
            self.received.add_event(event)
        return event

    def close(self) -> None:
        """End it. Idempotent."""
        self.ended = True

    def close_soon(self) -> None:
        """Do nothing: it holds nothing that has to be given back."""

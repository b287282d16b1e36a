"""A canned answer as a stream of events, for ``throttler.stream()`` in testing mode.

It is an ``EventStream`` like ``transport/response_stream``, so everything above it, closing and
deadlines included, works as with a real answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Callable, Optional

from claude_throttle.core.dispatch.call import Attempt, AttemptStopped, Outcome
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.transport import sdk
from claude_throttle.transport.message_events import message_events
from claude_throttle.transport.response_stream import StreamEnded


class CannedStream:
    """The events of a canned answer. *answer* returns the message, after its latency.

    Used by one thread at a time. What *answer* raises ends the stream, as an error of the call.
    """

    def __init__(self, answer: Callable[[], dict[str, Any]], attempts: Attempt) -> None:
        self._answer = answer
        self._attempts = attempts
        self._events: Iterator[dict[str, Any]] = iter(())
        self._request_id = f"req_testing_{uuid.uuid4().hex[:24]}"
        self.response_head = sdk.PlainResponse("", 200, {"request-id": self._request_id})

    @property
    def request_id(self) -> Optional[str]:
        """An invented id that begins with ``req_testing_``, so that a log does not look real."""
        return self._request_id

    @property
    def feedback(self) -> Feedback:
        """No response headers, so nothing about limits."""
        return Feedback()

    def open(self) -> dict[str, Any]:
        """The first event. Raises StreamEnded with what *answer* raised."""
        try:
            self._events = message_events(self._answer())
        except AttemptStopped:
            raise StreamEnded(Outcome(error=self._attempts.stopped_by)) from None
        except Exception as error:  # noqa: BLE001 - the function's own
            raise StreamEnded(Outcome(error=error, request_id=self._request_id)) from None
        return self.next()

    def begin(self, _seconds: Optional[float]) -> None:
        """Do nothing: it never waits between events."""

    def next(self) -> dict[str, Any]:
        """The next event."""
        if self._attempts.stopped:
            raise StreamEnded(Outcome(error=self._attempts.stopped_by))
        return next(self._events)

    def read_to_end(self) -> None:
        """Do nothing: it has no connection."""

    def close(self) -> None:
        """Do nothing: it has no connection."""

"""Reads a streamed answer from the wire: from the first send to the last event.

The API can report an error after its 200, often as the very first event. Until content begins, such
an error is a refusal like any other, and the retry loop decides; the reader has seen nothing.
Afterwards nothing is sent again, or the reader would see the beginning of another answer after half
of this one. ``features/streaming`` gives the events to the reader and settles what they cost.

The trap: a stream that simply ends is not complete. Without ``message_stop`` it was cut, and raises
BrokenAnswer; the SDK's ``get_final_message()`` returns half a message then (2.11).
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional, Protocol, Union

import requests
from urllib3.exceptions import ReadTimeoutError

from claude_throttle.core.dispatch.call import Attempt, Outcome
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.errors import BrokenAnswer
from claude_throttle.transport import sdk
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.limit_headers import read_limits
from claude_throttle.transport.outcomes import no_answer, refused
from claude_throttle.transport.retry import RetryExchange
from claude_throttle.transport.sse import SseDecoder, TooLong
from claude_throttle.transport.stream_error import InStreamError, error_in
from claude_throttle.transport.verdicts import broken, read_json

#: Seconds without a byte, once content has begun, after which a stream counts as dead: four times
#: the longest gap between pings that was seen (30 s, 2026).
SILENCE_SECONDS = 120.0

#: Seconds to wait for the end of the body after the last event. If it comes, the connection can be
#: used again; otherwise it is closed, and the reader was held up by no more than this.
LAST_BYTES_SECONDS = 0.25

#: Data that says nothing; by name for the events that say all by their name, so without any data.
_NOTHING = ("", "[DONE]")
_NOTHING_SAID = {"message_stop": ("[DONE]",), "error": ("[DONE]",)}

#: Bytes to read in one step from a body that is not chunked.
READ_BYTES = 65_536


class StreamEnded(Exception):
    """Raised inside the package when a stream is over; it carries the outcome.

    Its readers never see it: they get the error in the outcome, or the end of the iteration.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("a stream has ended")
        if isinstance(outcome.error, sdk.LateError):  # its reader is about to be given it
            outcome = outcome._replace(error=outcome.error.build())
        self.outcome = outcome


class EventStream(Protocol):
    """The events of one streamed call: sent and read over the wire, or canned in testing mode.

    Used by one thread at a time. Any other thread ends it through its attempt's ``stop()``.
    """

    @property
    def request_id(self) -> Optional[str]:
        """The server's name for the response; None if it gave none."""
        ...

    @property
    def response_head(self) -> sdk.PlainResponse:
        """The head of the response."""
        ...

    @property
    def feedback(self) -> Feedback:
        """What the head of the response says of the limits."""
        ...

    def open(self) -> dict[str, Any]:
        """Send the call; its first event. Raises :class:`StreamEnded`."""
        ...

    def begin(self, seconds: Optional[float]) -> None:
        """Content came: from now on *seconds* without a byte are the end (None: the default)."""
        ...

    def next(self) -> dict[str, Any]:
        """The next event. Raises :class:`StreamEnded`."""
        ...

    def read_to_end(self) -> None:
        """All events were read: keep the connection, if the body ends now.

        Raises :class:`StreamEnded` for an error that is reported behind the last event.
        """
        ...

    def close(self) -> None:
        """Release the connection; one with an unread rest is closed."""
        ...


class ResponseStream:
    """The events of a call's response, as they come over the wire.

    Used by one thread at a time; in a forked child it must not be read. Every failure leaves it as
    StreamEnded: refusals and lost connections that may not be retried, silence, broken events.
    """

    def __init__(
        self,
        send: Callable[[], requests.Response],
        url: str,
        exchange: RetryExchange,
        attempt: Attempt,
    ) -> None:
        """*send* gives the head of the last response, all refused attempts included."""
        self._send_call = send
        self._url = url
        self._exchange = exchange
        self._attempt = attempt
        self._response: Optional[requests.Response] = None
        self._chunks: Iterator[bytes] = iter(())
        self._decoder = SseDecoder()
        # Events, and what ends the stream behind them.
        self._ready: deque[Union[dict[str, Any], Exception]] = deque()
        self._begun = False

    @property
    def request_id(self) -> Optional[str]:
        """The server's name for the response; None if it gave none."""
        return None if self._response is None else self._response.headers.get("request-id")

    @property
    def response_head(self) -> sdk.PlainResponse:
        """The head of the response; without one, an empty head with status 0."""
        found = self._response
        return sdk.PlainResponse(
            self._url, getattr(found, "status_code", 0), getattr(found, "headers", {})
        )

    @property
    def feedback(self) -> Feedback:
        """What the head of the response says of the limits."""
        return Feedback() if self._response is None else read_limits(self._response.headers)

    # -- until content begins --------------------------------------------------------------------

    def open(self) -> dict[str, Any]:
        """Send it, as often as the rules allow; its first event. Raises :class:`StreamEnded`."""
        while True:
            self._send()
            try:
                return self._next()
            except (InStreamError, ReadTimeoutError) as error:
                self._wait_for_another_turn(error)

    def _send(self) -> None:
        self._decoder, self._ready = SseDecoder(), deque()
        try:
            response = self._response = self._send_call()
        except Exception as error:  # noqa: BLE001 - requests wraps what urllib3 raised
            raise StreamEnded(self._no_answer(error)) from None
        if response.status_code != 200:
            raise StreamEnded(refused(self._url, response, self._exchange))
        self._chunks = _chunks(response.raw)

    def _wait_for_another_turn(self, error: Exception) -> None:
        """Return when it may be sent again. Raises StreamEnded if it may not be."""
        self.close()
        try:
            if not self._may_resend(error):
                raise StreamEnded(self._outcome(error))
            self._exchange.wait_for_turn()
        except StreamEnded:
            raise
        except Exception as stop:  # noqa: BLE001 - AttemptStopped, or a bug: it ends either way
            raise StreamEnded(self._no_answer(stop)) from None

    def _may_resend(self, error: Exception) -> bool:
        if isinstance(error, InStreamError):
            return self._exchange.may_resend(response=error)
        return self._exchange.may_resend(error=error)

    # -- event by event --------------------------------------------------------------------------

    def begin(self, seconds: Optional[float]) -> None:
        """Content came: nothing is sent again, so many seconds without a byte are its end."""
        self._begun = True
        self._patience = SILENCE_SECONDS if seconds is None else seconds
        self._set_timeout(self._patience)

    def _set_timeout(self, seconds: float) -> None:
        connection: Any = getattr(getattr(self._response, "raw", None), "connection", None)
        if hasattr(connection, "expect"):
            connection.expect(seconds)

    def next(self) -> dict[str, Any]:
        """The next event; before content, perhaps the first of another attempt.

        Raises :class:`StreamEnded`.
        """
        try:
            return self._next()
        except (InStreamError, ReadTimeoutError) as error:
            if self._begun:
                raise StreamEnded(self._too_late(error)) from None
            self._wait_for_another_turn(error)
        return self.open()

    def _too_late(self, error: Exception) -> Outcome:
        """The outcome of an error after content: reported to the pacer, not sent again."""
        if isinstance(error, InStreamError):
            with contextlib.suppress(Exception):
                self._exchange.may_resend(response=error)
        return self._outcome(error)

    def _next(self) -> dict[str, Any]:
        while not self._ready:
            try:
                chunk = next(self._chunks, None)
                self._take_in(chunk)
                if chunk is None and not self._ready:
                    raise broken("a stream that ended without message_stop", self.request_id)
            except ReadTimeoutError:
                if self._attempt.stopped:
                    raise StreamEnded(Outcome(error=self._attempt.stopped_by)) from None
                raise
            except Exception as error:  # noqa: BLE001 - whatever broke, it is its end
                raise StreamEnded(self._broke_off(error)) from None
        event = self._ready.popleft()
        if isinstance(event, InStreamError):
            raise event
        if isinstance(event, Exception):
            raise StreamEnded(self._broke_off(event)) from None
        return event

    def _take_in(self, chunk: Optional[bytes]) -> None:
        """Decode the events in *chunk*; None is the end of the body."""
        frames = self._decoder.rest() if chunk is None else self._decoder.feed(chunk)
        try:
            for name, data in frames:
                event = self._read_event(name, data, at_end=chunk is None)
                if event is not None:
                    self._ready.append(event)
        except (BrokenAnswer, TooLong) as error:
            self._ready.append(error)

    def _read_event(
        self, name: str, data: str, at_end: bool
    ) -> Union[dict[str, Any], Exception, None]:
        """An event, the error that it reports, or None for one without a content."""
        if name == "ping" or data.strip() in _NOTHING_SAID.get(name, _NOTHING):
            return None
        event = read_json(data.encode("utf-8", "replace")) if data else {}
        error = error_in(name, data, event)
        if error is not None:
            headers: Mapping[str, str] = {} if self._response is None else self._response.headers
            return InStreamError(error, headers)
        if not isinstance(event, dict):
            if at_end:  # cut: only a whole object is whole without its blank line
                return None
            raise broken(f"an event {name!r:.40} that is not a JSON object", self.request_id)
        if not isinstance(event.setdefault("type", name), str):
            raise broken("an event of no type", self.request_id)
        return None if event["type"] == "ping" else event

    # -- how a stream ends -----------------------------------------------------------------------

    def read_to_end(self) -> None:
        """All events were read: keep the connection, if the body ends now.

        Raises :class:`StreamEnded` for an error that is reported behind the last event.
        """
        try:
            self._set_timeout(LAST_BYTES_SECONDS)
            error = self._error_behind()
        except Exception:  # noqa: BLE001 - the message is whole; only the connection is lost
            error = None
            self.close()
        if error is not None:
            raise StreamEnded(self._too_late(error))

    def _error_behind(self) -> Optional[InStreamError]:
        """What goes wrong between ``message_stop`` and the end of the body."""
        clock = self._exchange.clock
        until = clock.monotonic() + LAST_BYTES_SECONDS
        chunk: Optional[bytes] = b""
        while True:
            for event in self._ready:
                if isinstance(event, InStreamError):
                    return event
            self._ready.clear()
            if chunk is None:
                return None
            if clock.monotonic() > until:
                self.close()
                return None
            chunk = next(self._chunks, None)
            self._take_in(chunk)

    def close(self) -> None:
        """Release the connection; one with an unread rest is closed."""
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.close()

    def _broke_off(self, error: Exception) -> Outcome:
        if isinstance(error, TooLong):
            error = broken("an event without an end", self.request_id)
        elif not isinstance(error, BrokenAnswer):
            error = broken(f"a stream that broke off ({describe(error)})", self.request_id)
        self._exchange.error = None
        return self._no_answer(error)

    def _no_answer(self, error: Exception) -> Outcome:
        return no_answer(self._url, self._attempt, self._exchange, error)

    def _outcome(self, error: Exception) -> Outcome:
        exchange = self._exchange
        if isinstance(error, InStreamError):
            verdict = exchange.verdict
            said = sdk.status_error(
                self._url,
                error.status,
                error.all_headers,
                json.dumps(error.shown).encode(),
                error.shown,
            )
            took_nothing = error.status < 500 or (verdict is not None and not verdict.keeps_tokens)
            feedback = Feedback() if verdict is None else verdict.feedback
            return Outcome(None, said, None, error.status, self.request_id, took_nothing, feedback)
        if not self._begun:
            return self._no_answer(error)
        if self._attempt.stopped:
            return Outcome(error=self._attempt.stopped_by)
        text = f"the stream was silent for {self._patience:g} s; what came before may be billed"
        return Outcome(error=sdk.timeout_error(self._url, text))


def _chunks(raw: Any) -> Iterator[bytes]:
    """The body in pieces as they arrive: an event must not wait until a buffer is full."""
    if getattr(raw, "chunked", False):
        chunks: Iterator[bytes] = raw.read_chunked(decode_content=True)
        return chunks
    if hasattr(raw, "read1"):  # urllib3 2.1 and newer
        return iter(lambda: raw.read1(READ_BYTES, decode_content=True), b"")
    # Older ones wait until they have as many bytes as they were asked for.
    return iter(raw.stream(1, decode_content=True))

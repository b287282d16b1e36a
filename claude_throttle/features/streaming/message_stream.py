"""What a reader of a stream has in hand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Optional, Union

from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.features.streaming.open_stream import OpenStream, StreamContext
from claude_throttle.features.streaming.replayed_stream import ReplayedStream
from claude_throttle.transport import sdk
from claude_throttle.transport.request import PreparedRequest
from claude_throttle.transport.transport import Transport


class MessageStream:
    """One streamed answer: iterate it, or its ``text_stream``, in a ``with`` block.

    Yields ``anthropic.types`` events (``RawMessageStartEvent`` …), or dicts with ``raw=True``;
    pings are left out. It holds a place in flight until its last event, its end or ``close()``.
    Calls, permits and streams made meanwhile by the thread that reads it ride on that place: they
    are only paced, one at a time, and cannot wait for it.

    What breaks it is raised once it is read so far: the official SDK's exceptions, by the type of
    an ``error`` event (``overloaded_error``: status 529, also within the 200),
    ``anthropic.APITimeoutError`` after silence, :class:`DeadlineExceeded` before content,
    :class:`BrokenAnswer` if it ends without ``message_stop``, :class:`Closed` with the throttler,
    :class:`Forked` in a child. Each has the message received so far as ``partial_message``, or
    None.

    Read it from one thread at a time, any (a second one gets RuntimeError); ``close()`` may come
    from any other. One that is left early is booked by what the server counted and what could be
    seen of its output. One that is dropped is closed by another thread soon after.
    """

    __slots__ = ("__weakref__", "_inner")

    def __init__(self, inner: Union[OpenStream, ReplayedStream]) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        event = self._inner.next()
        if event is None:
            raise StopIteration
        return event if self._inner.call.raw else sdk.build_event(event)

    @property
    def text_stream(self) -> Iterator[str]:
        """The text alone, piece by piece; reading it reads the stream."""
        while (event := self._inner.next()) is not None:
            delta = event.get("delta") if event["type"] == "content_block_delta" else None
            if delta is not None and delta.get("type") == "text_delta":
                yield delta["text"]

    @property
    def request_id(self) -> Optional[str]:
        """The server's name for this answer, to quote to its support."""
        return self._inner.request_id

    @property
    def current_message_snapshot(self) -> Any:
        """The message as far as it was received; a copy."""
        return self._inner.message()

    def until_done(self) -> None:
        """Read it to its end."""
        while self._inner.next() is not None:
            pass

    def get_final_message(self) -> Any:
        """Read it to its end; the ``anthropic.types.Message``, or the dict with ``raw=True``.

        Raises :class:`Closed` if it was left early.
        """
        self.until_done()
        return self._inner.message()

    def get_final_text(self) -> str:
        """The same, all its text together."""
        self.get_final_message()
        return self._inner.received.text()

    def close(self) -> None:
        """Leave: close the connection, book what was received. Idempotent.

        Reading on, in whatever thread, raises :class:`Closed` unless the answer was whole.
        """
        self._inner.close()

    def __enter__(self) -> MessageStream:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        if kind is not None and issubclass(kind, GeneratorExit):
            # A generator around it is being closed, perhaps by the garbage collector, under
            # whatever lock: httpx's pool is known to hang for ever there.
            self._inner.drop()
        else:
            self._inner.close()

    def __del__(self) -> None:
        if hasattr(self, "_inner"):  # else it was cut off as it was made
            self._inner.drop()

    def __repr__(self) -> str:
        state = "ended" if self._inner.ended else "open"
        return f"<MessageStream {self._inner.call.model} {self.request_id} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a MessageStream holds a connection; get_final_message() can be pickled")


def open_stream(desk: StreamContext, wire: Transport, call: StreamCall) -> MessageStream:
    """Send a queued call in this thread when it may leave, and return with its first event."""
    if not call.raw:
        sdk.begin_import()
    attempts = call.wait_for_grant()
    inner = OpenStream(desk, call, attempts, wire.events(call, attempts))
    inner.open()
    return MessageStream(inner)


def replay(future: Future[Any], request: PreparedRequest) -> MessageStream:
    """The stream of an answer that a stage gives as a whole. Waits for it; raises its error."""
    return MessageStream(ReplayedStream(request, future.result()))

"""``MessageStream``, the object that ``throttler.stream()`` returns.

It is a thin shell around :class:`OpenStream`, and nothing refers to it: a caller that drops it
without closing it triggers ``__del__`` at once, which gives back the slot and the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Optional, Union, cast

from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.features.streaming.helper_events import helper_events
from claude_throttle.features.streaming.open_stream import OpenStream, StreamContext
from claude_throttle.features.streaming.replayed_stream import ReplayedStream
from claude_throttle.transport import sdk
from claude_throttle.transport.request import PreparedRequest
from claude_throttle.transport.transport import Transport

if TYPE_CHECKING:
    from anthropic.lib.streaming import (  # type: ignore[attr-defined, unused-ignore]
        MessageStreamEvent,
    )
    from anthropic.types import Message
    from typing_extensions import Self, TypeVar

    #: What iterating yields, and what the final message is.
    EventT = TypeVar("EventT", default=MessageStreamEvent)
    AnswerT = TypeVar("AnswerT", default=Message)
else:
    from typing import TypeVar

    EventT, AnswerT = TypeVar("EventT"), TypeVar("AnswerT")


class MessageStream(Generic[EventT, AnswerT]):
    """One streamed answer: iterate it, or its ``text_stream``, in a ``with`` block::

        with throttler.stream(model=…, max_tokens=…, messages=[…]) as stream:
            for text in stream.text_stream:
                print(text, end="")

    Iterating yields the events of the official SDK's stream helper: those of ``anthropic.types``
    (``RawMessageStartEvent`` …), and after them ``text``, ``thinking``, ``citation``, ``signature``
    and ``input_json``; the end of a block has its ``content_block``, that of the message its
    ``message``. With ``raw=True`` these are the API's own events, as dicts. There are no pings.

    Until its last event or ``close()`` it counts as one call in flight. Calls, permits and streams
    that its reading thread makes meanwhile share that slot, one at a time: they are paced, but
    cannot wait for each other.

    An error is raised when reading comes to it, with the message received so far (or None) as
    ``partial_message``: the official SDK's exceptions, by the type of an ``error`` event
    (``overloaded_error``: status 529, also within the 200), ``anthropic.APITimeoutError`` after
    silence, :class:`DeadlineExceeded` before content, :class:`BrokenAnswer` if it ends without
    ``message_stop``, :class:`Closed` if the throttler was closed, :class:`Forked` in a forked
    child.

    Any thread may read it, one at a time (a second one gets RuntimeError); ``close()`` may be
    called from any thread. After an early end it is settled with the server's last count, or an
    estimate by the text that came. A dropped one is closed by another thread soon after.
    """

    __slots__ = ("__weakref__", "_inner", "_ready")

    def __init__(self, inner: Union[OpenStream, ReplayedStream]) -> None:
        self._inner = inner
        #: Derived from the last event, and not read yet.
        self._ready: deque[dict[str, Any]] = deque()

    def __iter__(self) -> Iterator[EventT]:
        return self

    def __next__(self) -> EventT:
        inner = self._inner
        if self._ready:
            inner.read_on()
        else:
            event = inner.next_event()
            if event is None:
                raise StopIteration
            if inner.call.raw:
                return cast(EventT, event)
            self._ready.extend(helper_events(event, inner.received))
        return cast(EventT, sdk.build_event(self._ready.popleft(), inner.request_id))

    def _next_of_the_api(self) -> Optional[dict[str, Any]]:
        """The next event of the API's own; None after the last."""
        self._ready.clear()
        return self._inner.next_event()

    @property
    def text_stream(self) -> Iterator[str]:
        """The text alone, piece by piece. Reading it reads the stream."""
        while (event := self._next_of_the_api()) is not None:
            text = _text_in(event)
            if text:
                yield text

    @property
    def request_id(self) -> Optional[str]:
        """The ``request-id`` of the answer, to quote to Anthropic's support."""
        return self._inner.request_id

    @property
    def response(self) -> sdk.PlainResponse:
        """The head of the answer: ``status_code`` and ``headers``."""
        return self._inner.response_head

    @property
    def current_message_snapshot(self) -> Optional[AnswerT]:
        """A copy of the message received so far; None before ``message_start``."""
        inner = self._inner
        return cast(Optional[AnswerT], inner.received.message_as(inner.call.raw, inner.request_id))

    def until_done(self) -> None:
        """Read it to its end."""
        while self._next_of_the_api() is not None:
            pass

    def get_final_message(self) -> AnswerT:
        """Read it to its end; the ``anthropic.types.Message``, or the dict with ``raw=True``.

        Raises :class:`Closed` if it was left early.
        """
        self.until_done()
        return cast(AnswerT, self.current_message_snapshot)

    def get_final_text(self) -> str:
        """Read it to its end; all its text, joined. Raises :class:`Closed` after ``close()``."""
        self.get_final_message()
        return self._inner.received.text()

    def close(self) -> None:
        """End it: close the connection and settle what was received. Idempotent.

        Reading on, in any thread, raises :class:`Closed` unless the answer was complete.
        """
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], *_rest: object) -> None:
        if kind is not None and issubclass(kind, GeneratorExit):
            # A generator around it is being closed, perhaps by the garbage collector, while its
            # thread holds a lock: closing a connection then is known to deadlock (httpx's pool).
            self._inner.close_soon()
        else:
            self._inner.close()

    def __del__(self) -> None:
        if hasattr(self, "_inner"):  # Ctrl-C may come before it is set
            self._inner.close_soon()

    def __repr__(self) -> str:
        state = "ended" if self._inner.ended else "open"
        return f"<MessageStream {self._inner.call.model} {self.request_id} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a MessageStream holds a connection; get_final_message() can be pickled")


#: Where an event has text: the field, and the type of what is in it. A gateway may send the text of
#: a block with its beginning.
_TEXT_PARTS = {
    "content_block_start": ("content_block", "text"),
    "content_block_delta": ("delta", "text_delta"),
}


def _text_in(event: Mapping[str, Any]) -> Optional[str]:
    name, kind = _TEXT_PARTS.get(event["type"], ("", ""))
    part = event.get(name)
    return (
        part.get("text") if isinstance(part, Mapping) and part.get("type", kind) == kind else None
    )


def open_stream(
    context: StreamContext, transport: Transport, call: StreamCall
) -> MessageStream[Any, Any]:
    """Send a queued call in this thread when it may leave, and return with its first event."""
    if not call.raw:
        sdk.begin_import()
    attempt = call.wait_for_grant()
    inner = OpenStream(context, call, attempt, transport.events(call, attempt))
    inner.send_and_read_first()
    return MessageStream(inner)


def replay(future: Future[Any], request: PreparedRequest) -> MessageStream[Any, Any]:
    """The stream of an answer that a stage returns as a whole.

    Waits for that answer, since there is nothing to show before it; raises its error.
    """
    return MessageStream(ReplayedStream(request, future.result()))

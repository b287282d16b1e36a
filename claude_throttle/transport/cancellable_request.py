"""One request outside the lanes of messages, that another thread can end."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.transport.http import HttpTransport
from claude_throttle.transport.sdk import Headers
from claude_throttle.transport.verdicts import broken

#: Bytes that are read at once.
CHUNK_BYTES = 65_536


class RequestSpec(NamedTuple):
    """What is asked."""

    method: str
    #: With its query, after ``base_url``.
    path: str
    #: Makes the body, for each try anew: bytes, or something to read them from.
    make_body: Callable[[], Any] = lambda: None
    #: Takes a good answer's body, piece by piece; told None at the beginning of each try.
    sink: Optional[Callable[[Optional[bytes]], object]] = None
    #: Seconds without a byte.
    read_timeout: float = 60.0


class RawResponse(NamedTuple):
    """What was answered."""

    status: int
    headers: Headers
    #: Empty if a sink took it.
    content: bytes

    def read(self, decode_content: bool = True) -> bytes:  # noqa: ARG002 - as urllib3's
        """The content, which was decoded as it came."""
        return self.content


class CancellableRequest:
    """One try. Its thread sends; any other may stop() it."""

    def __init__(self) -> None:
        # Single assignments, each read after the other was written: no lock is needed.
        self.stopped = False
        self._hang_up: Optional[Callable[[], None]] = None

    def connected(self, hang_up: Callable[[], None]) -> None:
        """The request is about to go over a connection that *hang_up* can end."""
        self._hang_up = hang_up
        if self.stopped:
            raise AttemptStopped

    @property
    def began(self) -> bool:
        """Whether anything may have been sent."""
        return self._hang_up is not None

    def stop(self) -> None:
        """End it, wherever it is."""
        self.stopped = True
        if self._hang_up is not None:
            self._hang_up()

    def send(self, wire: HttpTransport, question: RequestSpec) -> RawResponse:
        """Ask, once. Raises what requests raises, or BrokenAnswer for half an answer."""
        if question.sink is not None:
            question.sink(None)
        response = wire.ask(
            question.method,
            question.path,
            wire.headers,
            question.make_body(),
            question.read_timeout,
            stream=True,
            owner=self,
        )
        try:
            return self._read(response, question)
        finally:
            response.close()

    def _read(self, response: Any, question: RequestSpec) -> RawResponse:
        pieces: list[bytes] = []
        good = response.status_code == 200
        take = question.sink if good and question.sink is not None else pieces.append
        for piece in response.raw.stream(CHUNK_BYTES, decode_content=True):
            if self.stopped:
                raise AttemptStopped
            take(piece)
        promised = response.headers.get("content-length", "")
        # urllib3 1.26 does not check it.
        if good and promised.isdigit() and response.raw.tell() < int(promised):
            raise broken(
                f"{response.raw.tell()} of {promised} bytes", response.headers.get("request-id")
            )
        headers = Headers(dict(response.headers.items()))
        return RawResponse(response.status_code, headers, b"".join(pieces))

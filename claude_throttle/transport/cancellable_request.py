"""A request other than a message, which another thread can end: batches use it.

Messages have an ``Attempt`` of their lane to be ended by; requests about batches have no place in a
lane of messages, take minutes to upload or to download, and must still end at close(), a deadline
or Ctrl-C. Whether to send again is the caller's decision, see ``features/batches/client``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.transport.headers import merged_headers
from claude_throttle.transport.http import HttpTransport
from claude_throttle.transport.sdk import Headers
from claude_throttle.transport.verdicts import broken

#: Bytes read from a response in one step; between two steps it is checked whether to stop.
CHUNK_BYTES = 65_536


class RequestSpec(NamedTuple):
    """A request to be sent: method, path, body, sink. Reusable: each send makes its body anew."""

    method: str
    #: Path and query, appended to ``base_url``.
    path: str
    #: Makes the body anew for each send: bytes, or an object to read them from.
    make_body: Callable[[], Any] = lambda: None
    #: Called with each piece of a good response's body, and with None before the first.
    sink: Optional[Callable[[Optional[bytes]], object]] = None
    #: Seconds without a byte after which it fails.
    read_timeout: float = 60.0
    #: Header fields in place of the account's; one with None is left out.
    extra_headers: Mapping[str, Optional[str]] = MappingProxyType({})


class RawResponse(NamedTuple):
    """A response, read to its end."""

    status: int
    headers: Headers
    #: Empty if a sink took it.
    content: bytes

    def read(self, decode_content: bool = True) -> bytes:  # noqa: ARG002 - as urllib3's
        """The content, which was decoded as it came."""
        return self.content


class CancellableRequest:
    """One send of one request. One thread sends it; any other may call stop(), at any time.

    Not reusable: another send needs another one.
    """

    def __init__(self) -> None:
        # Single assignments. stop() writes the first and reads the second, connected() the other
        # way round, so at least one of them sees both: no lock is needed.
        self.stopped = False
        self._hang_up: Optional[Callable[[], None]] = None

    def connected(self, hang_up: Callable[[], None]) -> None:
        """Remember how to end its connection. Raises AttemptStopped if it was stopped."""
        self._hang_up = hang_up
        if self.stopped:
            raise AttemptStopped

    @property
    def began(self) -> bool:
        """Whether it got a connection, so that bytes may have been sent."""
        return self._hang_up is not None

    def stop(self) -> None:
        """End it: the thread that sends it gets AttemptStopped, or the error of a cut socket."""
        self.stopped = True
        if self._hang_up is not None:
            self._hang_up()

    def send(self, transport: HttpTransport, spec: RequestSpec) -> RawResponse:
        """Send it once. Raises what requests raises, or BrokenAnswer for half an answer."""
        if spec.sink is not None:
            spec.sink(None)  # begin again: an earlier send may have left half a body there
        response = transport.ask(
            spec.method,
            spec.path,
            merged_headers(transport.headers, spec.extra_headers),
            spec.make_body(),
            spec.read_timeout,
            stream=True,
            owner=self,
        )
        try:
            return self._read(response, spec)
        finally:
            response.close()

    def _read(self, response: Any, spec: RequestSpec) -> RawResponse:
        pieces: list[bytes] = []
        good = response.status_code == 200
        take = spec.sink if good and spec.sink is not None else pieces.append
        for piece in response.raw.stream(CHUNK_BYTES, decode_content=True):
            if self.stopped:
                raise AttemptStopped
            take(piece)
        promised = response.headers.get("content-length", "")
        # urllib3 1.26 does not check it, so a proxy that cut the body would go unnoticed.
        if good and promised.isdigit() and response.raw.tell() < int(promised):
            raise broken(
                f"{response.raw.tell()} of {promised} bytes", response.headers.get("request-id")
            )
        headers = Headers(dict(response.headers.items()))
        return RawResponse(response.status_code, headers, b"".join(pieces))

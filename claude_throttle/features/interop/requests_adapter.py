"""``throttler.adapter()``: for a ``requests.Session`` of the caller's own.

It sends each request once. Whether to send it again is for the code that has the session: it sees
what the API says. A 429 pauses the lane all the same, so its next try waits for its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Callable, Optional, Protocol

import requests
from requests.adapters import HTTPAdapter

from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import WatchedBody, Watcher
from claude_throttle.transport.verdicts import read_json


class RequestAttempt(Watcher, Protocol):
    """One attempt that was admitted."""

    def head(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]
    ) -> None:
        """The answer has begun; *body* is a refusal's, *sent* the request's headers."""
        ...

    def failed(self, error: BaseException) -> None:
        """No answer came: the end of it."""
        ...


#: Admits a request: its method, its path, and its body, to be read if need be; None if it is none
#: of ours.
Admit = Callable[[str, str, Callable[[], Any]], Optional[RequestAttempt]]

#: Idle connections kept; requests keeps 10, and opens more anew for each request.
POOL_SIZE = 256


class SessionAdapter(HTTPAdapter):
    """Admits Messages requests one by one, and passes everything else. Thread-safe."""

    def __init__(self, admit: Admit, **options: Any) -> None:
        if "max_retries" in options:
            raise ConfigurationError(
                "adapter() takes no max_retries=: urllib3 would send again without waiting for a "
                "turn; send again in your own code, or use throttler.call(), which does it for you"
            )
        self._admit = admit
        super().__init__(**{"pool_maxsize": POOL_SIZE, **options})

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> requests.Response:
        """Wait for its turn, then send it; see ``throttler.adapter()``."""
        attempt = self._admitted(request)
        if attempt is None:
            return super().send(request, stream, *args, **options)
        try:
            response = super().send(request, stream, *args, **options)
            whole = response.status_code >= 400 or not stream
            body = response.content if whole else None  # the session would read it next
        except BaseException as error:
            attempt.failed(error)
            raise
        _hear(attempt, response, body)
        return response

    def _admitted(self, request: requests.PreparedRequest) -> Optional[RequestAttempt]:
        path = request.path_url.partition("?")[0]
        return self._admit(request.method or "", path, partial(_read, request.body))

    def __getstate__(self) -> Any:
        raise TypeError("an adapter of a Throttler holds its sockets; make one in each process")


def _read(body: Any) -> Any:
    """None of one that is read from a file as it is sent: that tells us no model."""
    data = body.encode("utf-8") if isinstance(body, str) else body
    return read_json(data) if isinstance(data, bytes) else None


def _hear(attempt: RequestAttempt, response: requests.Response, body: Optional[bytes]) -> None:
    status = response.status_code
    refusal = body if body is not None and status >= 400 else b""
    attempt.head(status, response.headers, refusal, response.request.headers)
    watch = WatchedBody(response.headers, attempt)
    if body is None:
        response.raw = WatchedRawBody(response.raw, watch)
    else:
        watch.feed(body)
        watch.finished()


class WatchedRawBody:
    """The ``raw`` of a response that is read as it comes; all else is the original's."""

    def __init__(self, raw: Any, watch: WatchedBody) -> None:
        self._raw = raw
        self._watch = watch

    def stream(self, *args: Any, **options: Any) -> Iterator[bytes]:
        """What ``iter_content`` and ``iter_lines`` read."""
        for chunk in self._raw.stream(*args, **options):
            self._watch.feed(chunk)
            yield chunk
        self._watch.finished()

    def read(self, *args: Any, **options: Any) -> bytes:
        """Some of it, or the rest."""
        chunk: bytes = self._raw.read(*args, **options)
        self._watch.feed(chunk)
        if not chunk or not (args or "amt" in options):
            self._watch.finished()
        return chunk

    def close(self) -> None:
        """Close the original, then tell."""
        try:
            self._raw.close()
        finally:
            self._watch.closed()

    def release_conn(self) -> None:
        """Give the connection back; nothing more is read."""
        try:
            self._raw.release_conn()
        finally:
            self._watch.closed()

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

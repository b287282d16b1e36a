"""``throttler.adapter()``: paces a ``requests.Session`` that the caller owns.

It sends each request once. Whether to send again is left to the code that owns the session, which
sees the response. A 429 pauses the lane all the same, so the next try waits for its turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Callable, Optional

import requests
from requests.adapters import HTTPAdapter

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import WatchedBody
from claude_throttle.transport.verdicts import read_json

#: Admits a request by its method, its path, and a function that reads its body; None for requests
#: that are not paced.
Admit = Callable[[str, str, Callable[[], Any]], Optional[AdmittedAttempt]]

#: Idle connections kept for each host. requests keeps 10, and opens a new one for each request that
#: is in flight beyond them.
POOL_SIZE = 256


class SessionAdapter(HTTPAdapter):
    """Paces requests to the Messages API, and sends all others at once. Thread-safe.

    send() raises what ``requests`` raises, and before sending what ``Throttler.permit`` raises. It
    holds sockets, so it does not pickle, and each process needs its own.
    """

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
        """Wait for the request's turn, then send it; see ``throttler.adapter()``."""
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
        _report(attempt, response, body)
        return response

    def _admitted(self, request: requests.PreparedRequest) -> Optional[AdmittedAttempt]:
        path = request.path_url.partition("?")[0]
        return self._admit(request.method or "", path, partial(_read, request.body))

    def __getstate__(self) -> Any:
        raise TypeError("an adapter of a Throttler holds its sockets; make one in each process")


def _read(body: Any) -> Any:
    """The body as JSON; None if it is not at hand (a file, a generator) or not JSON.

    Reading such a body here would leave nothing to send; the model is unknown then.
    """
    data = body.encode("utf-8") if isinstance(body, str) else body
    return read_json(data) if isinstance(data, bytes) else None


# The head first: its limits reach the pacer at once, while a streamed body may take minutes.
def _report(attempt: AdmittedAttempt, response: requests.Response, body: Optional[bytes]) -> None:
    """Report the response; its usage now, or when a *body* of None has been read."""
    attempt.arrived()
    status = response.status_code
    refusal = body if body is not None and status >= 400 else b""
    attempt.head(status, response.headers, refusal, response.request.headers)
    watched = WatchedBody(response.headers, attempt)
    if body is None:
        response.raw = WatchedRawBody(response.raw, watched)
    else:
        watched.feed(body)
        watched.finished()


class WatchedRawBody:
    """The ``raw`` of a streamed response, watched; all other attributes are the original's.

    It covers the ways in which ``requests`` and its users read: stream(), read(), iteration.
    """

    def __init__(self, raw: Any, watched: WatchedBody) -> None:
        self._raw = raw
        self._watched = watched

    def stream(self, *args: Any, **options: Any) -> Iterator[bytes]:
        """The body in chunks; ``iter_content`` and ``iter_lines`` read it."""
        return self._watched.watch(self._raw.stream(*args, **options))

    def read(self, *args: Any, **options: Any) -> bytes:
        """A part of the body, or the rest."""
        began = self._watched.begin_read()
        chunk: bytes = self._raw.read(*args, **options)
        self._watched.feed(chunk, began)
        if not chunk or not (args or "amt" in options):
            self._watched.finished()
        return chunk

    def close(self) -> None:
        """Close the original, then report the end."""
        try:
            self._raw.close()
        finally:
            self._watched.closed()

    def release_conn(self) -> None:
        """Give the connection back: nothing more is read."""
        try:
            self._raw.release_conn()
        finally:
            self._watched.closed()

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

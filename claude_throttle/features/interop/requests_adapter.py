"""``throttler.adapter()``: paces a ``requests.Session`` that the caller owns.

It sends each request once; what it is refused by pauses the lane all the same. In a session where
``throttler.mount()`` put it, it sends again, in its turn, what a limit has refused that only time
mends; and the session's own retries go on, each in its turn. All else is left to the code that owns
the session, which sees the response.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, Callable, NamedTuple, Optional

import requests
from requests.adapters import BaseAdapter, HTTPAdapter, Retry
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import WatchedBody
from claude_throttle.features.interop.httpx_refusals import ForOneClient
from claude_throttle.features.interop.unpaced_requests import (
    Address,
    Notices,
    address_of,
    has_quota,
    names_model,
    own_addresses,
    say_not_json,
    say_other_host,
    say_other_path,
)
from claude_throttle.transport.connections import renew_locks
from claude_throttle.transport.request import MAX_BODY_BYTES
from claude_throttle.transport.verdicts import read_json

#: Admits a request by its method, its path, and a function that reads its body; None for requests
#: that are not paced.
Admit = Callable[[str, str, Callable[[], Any]], Optional[AdmittedAttempt]]

#: Idle connections kept for each host. requests keeps 10, and opens a new one for each request that
#: is in flight beyond them.
POOL_SIZE = 256

#: What a body counts as that is longer than any which the API takes: such requests share a lane.
UNKNOWN_BODY = {"model": "unknown"}


class AdapterTerms(NamedTuple):
    """What an adapter knows of its throttler."""

    admit: Admit
    base_url: str
    notices: Notices
    is_closed: Callable[[], bool]
    #: How often mount() sends again what a limit refused.
    max_retries: int


class SessionAdapter(HTTPAdapter, ForOneClient):
    """Paces requests to the Messages API, and sends all others at once. Thread-safe.

    It sends by *inner*, if that is given. A forked child gets connections of its own.

    send() raises what ``requests`` raises, and before sending what ``Throttler.permit`` raises. It
    holds sockets, so it does not pickle.
    """

    made_by = "adapter"

    def __init__(
        self, terms: AdapterTerms, inner: Optional[BaseAdapter] = None, **options: Any
    ) -> None:
        if "max_retries" in options:
            raise ConfigurationError(
                "no max_retries= here: urllib3 would send again without waiting for a turn. "
                "session() and mount() send again after a rate limit as often as "
                "Throttler(max_retries=…) says; throttler.call() does after a fault, too"
            )
        self.terms = terms
        self.inner = inner
        self._pid = os.getpid()
        #: Whether a request has come to it.
        self.was_asked = False
        #: The session's own retries, each of which waits for its turn; None without any.
        self.retries: Optional[Retry] = None
        #: How often it sends again what a limit refused.
        self.max_resends = 0
        #: The addresses it was mounted for; None among them is a mount for every host.
        self.mounted_for: set[Optional[Address]] = set()
        self.own_addresses = own_addresses(terms.base_url)
        self._options = {"pool_maxsize": POOL_SIZE, **options}
        super().__init__(**self._options)

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> requests.Response:
        """Wait for the request's turn, then send it; see ``throttler.adapter()``."""
        if self._pid != os.getpid():
            self._leave_parents_sockets()
        left = self.retries
        while True:
            try:
                response = self._send_once(request, stream, *args, **options)
            except requests.RequestException as error:
                left = _left_after_error(left, request, error)
                if left is None:
                    raise
                left.sleep()
            else:
                left = _left_after(left, request, response)
                if left is None:
                    return response
                response.close()
                left.sleep(response.raw)

    def _send_once(
        self, request: requests.PreparedRequest, stream: bool, *args: Any, **options: Any
    ) -> requests.Response:
        send = super().send if self.inner is None else self.inner.send
        attempt = self._admitted(request)
        if attempt is None:
            return send(request, stream, *args, **options)
        while True:
            try:
                response = send(request, stream, *args, **options)
                whole = response.status_code >= 400 or not stream
                body = response.content if whole else None  # the session would read it next
            except BaseException as error:
                attempt.failed(error)
                raise
            _report(attempt, response, body)
            attempt = self._next_turn(attempt, request, response)
            if attempt is None:
                return response
            response.close()

    def _next_turn(
        self,
        attempt: AdmittedAttempt,
        request: requests.PreparedRequest,
        response: requests.Response,
    ) -> Optional[AdmittedAttempt]:
        """Wait for the turn to send *request* again; None if *response* is the answer to it."""
        if response.status_code < 400 or not self.max_resends:
            return None
        if self.retries is not None and _is_asked_for(self.retries, request, response):
            return None
        return attempt.next_turn(self.max_resends) if _rewind(request) else None

    def _admitted(self, request: requests.PreparedRequest) -> Optional[AdmittedAttempt]:
        method, path = request.method or "", request.path_url.partition("?")[0]
        terms, address = self.terms, address_of(request.url)
        self.was_asked = True
        if not has_quota(method, path):
            say_other_path(terms.notices, method, path)
            return None
        # A mount that names a host means that host.
        if None in self.mounted_for and address not in self.mounted_for | self.own_addresses:
            say_other_host(terms.notices, address, terms.base_url)
            return None
        if self.max_resends and not _rewind(request):
            _read_ahead(request)
        return terms.admit(method, path, partial(self._read, request))

    def _read(self, request: requests.PreparedRequest) -> Any:
        body = _read(request)
        if not names_model(body):
            say_not_json(self.terms.notices)
        return body

    # Kept, not closed: that takes locks which a thread of the parent may have held at the fork.
    def _leave_parents_sockets(self) -> None:
        self._inherited = [self.poolmanager, *self.proxy_manager.values()]
        for manager in self._inherited:
            renew_locks(manager)
        retries = self.max_retries
        super().__init__(**self._options)
        self.max_retries = retries
        self._pid = os.getpid()

    def __getstate__(self) -> Any:
        raise TypeError("an adapter of a Throttler holds its sockets; make one in each process")


def _is_asked_for(
    retries: Retry, request: requests.PreparedRequest, response: requests.Response
) -> bool:
    """Whether a session's *retries*, as far as they go, send again after *response*."""
    has_wait = bool(response.headers.get("retry-after"))
    return bool(retries.is_retry(request.method or "", response.status_code, has_wait))


def _left_after(
    retries: Optional[Retry], request: requests.PreparedRequest, response: requests.Response
) -> Optional[Retry]:
    """What is left of a session's retries if *response* asks for one; None if it is the answer."""
    if retries is None or not _is_asked_for(retries, request, response):
        return None
    try:
        left = retries.increment(request.method, request.url, response=response.raw)
    except MaxRetryError as error:
        if retries.raise_on_status:
            raise requests.exceptions.RetryError(error, request=request) from None
        return None
    return left if _rewind(request) else None


def _left_after_error(
    retries: Optional[Retry], request: requests.PreparedRequest, error: Exception
) -> Optional[Retry]:
    """What is left of a session's retries if they send again after *error*; None if not."""
    reason = error.args[0] if error.args else None
    if isinstance(reason, OSError):  # requests before 2.30, of a body in chunks
        reason = ProtocolError("connection aborted", reason)
    # Those that could not connect were tried again already, since nothing was sent.
    if retries is None or not isinstance(reason, HTTPError) or isinstance(reason, MaxRetryError):
        return None
    try:
        left = retries.increment(request.method, request.url, error=reason)
    except HTTPError:
        return None
    return left if _rewind(request) else None


def _rewind(request: requests.PreparedRequest) -> bool:
    """Whether the body can be sent again, from its beginning."""
    body: Any = request.body
    begin = getattr(request, "_body_position", None)  # where requests itself rewinds to
    if isinstance(begin, int) and hasattr(body, "seek"):
        body.seek(begin)
        return True
    return not hasattr(body, "__next__")


def _read(request: requests.PreparedRequest) -> Any:
    """The body as JSON; None if it is not JSON. What can be read once stays to be sent."""
    body: Any = request.body
    if isinstance(body, str):
        body = body.encode("utf-8", "replace")
    elif body is not None and not isinstance(body, (bytes, bytearray)):
        body = _read_file(body) if _is_seekable(body) else _read_ahead(request)
        if len(body) > MAX_BODY_BYTES:
            return UNKNOWN_BODY
    return None if body is None else read_json(bytes(body))


def _is_seekable(body: Any) -> bool:
    return hasattr(body, "read") and getattr(body, "seekable", bool)()


def _read_file(body: Any) -> bytes:
    begin = body.tell()
    data = _as_bytes(body.read(MAX_BODY_BYTES + 1))
    body.seek(begin)
    return data


def _read_ahead(request: requests.PreparedRequest) -> bytes:
    """All that a generator or a pipe gives, or a little more than the API takes of it."""
    read, size, chunks = [], 0, _chunks(request.body)
    for chunk in chunks:
        read.append(_as_bytes(chunk))
        size += len(read[-1])
        if size > MAX_BODY_BYTES:
            break
    # A list, even of one: versions of requests iterate over what has no length in its headers.
    request.body = read if size <= MAX_BODY_BYTES else chain(read, chunks)  # type: ignore[assignment]
    return b"".join(read)


def _chunks(body: Any) -> Iterator[Any]:
    if not hasattr(body, "read"):
        yield from body
        return
    chunk = body.read(65_536)
    while chunk:
        yield chunk
        chunk = body.read(65_536)


def _as_bytes(chunk: Any) -> bytes:
    return chunk.encode("utf-8") if isinstance(chunk, str) else memoryview(chunk).tobytes()


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

    def readline(self, *args: Any) -> bytes:
        """The next line, or a part of it; nothing after the last one."""
        line: bytes = self._raw.readline(*args)
        self._watched.feed(line)
        if not line:
            self._watched.finished()
        return line

    # Lines, as urllib3 gives them.
    def __iter__(self) -> Iterator[bytes]:
        return self._watched.watch(self._raw)

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

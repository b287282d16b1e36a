"""``throttler.transport()``: paces a client of ``httpx`` or ``httpx2``, and what is built on one.

The official SDK of any release, LangChain and others send through such a client. Each attempt is a
request to it, so each takes a permit of its own. What is not for the throttler passes unchanged.
What a limit refuses that only time mends is sent again, unless the SDK does so.

``httpx`` and ``httpx2`` are not imported here: a request tells which one its client is made of.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.account.admission import AdmittedAttempt
from claude_throttle.core.dispatch.permit import AdmissionOptions
from claude_throttle.core.threads.local_values import ProcessLocal
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.interop.body_watcher import WatchedBody, watch_stream
from claude_throttle.features.interop.httpx_refusals import (
    SDK_HEADER,
    ForOneClient,
    library_of,
    raise_in_client,
    with_base,
)
from claude_throttle.features.interop.one_admission import OneAdmission
from claude_throttle.features.interop.requests_adapter import POOL_SIZE, UNKNOWN_BODY
from claude_throttle.features.interop.sdk_retries import steer_retries
from claude_throttle.features.interop.unpaced_requests import (
    Address,
    Notices,
    has_quota,
    names_model,
    own_addresses,
    say_not_json,
    say_other_host,
    say_other_path,
    say_unrelated_host,
)
from claude_throttle.transport.connections import keepalive_options
from claude_throttle.transport.endpoints import COUNT_PATH, DEFAULT_PORTS, MESSAGES_PATH
from claude_throttle.transport.headers import RawHeaders
from claude_throttle.transport.http import environment_proxy
from claude_throttle.transport.request import MAX_BODY_BYTES
from claude_throttle.transport.verdicts import read_json

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.config.settings import Settings
    from claude_throttle.core.threads.clock import Clock

#: Options of the libraries' own ``HTTPTransport``.
OPTIONS = (
    *("verify", "cert", "http1", "http2", "limits", "trust_env", "proxy", "uds"),
    *("local_address", "retries", "socket_options"),
)

#: The end of the hosts where Amazon offers the Claude API itself; they begin with its region.
AMAZON_HOSTS = ".api.aws"

#: Paths of clouds that name the model: Amazon Bedrock's, then Google Vertex AI's.
_CLOUD_PATH = re.compile(
    r"/model/(.+)/invoke(?:-with-response-stream)?$|/models/([^/]+):(?:r|streamR)awPredict$"
)

#: Hosts whose transport is remembered; that of others is found anew each time.
MOST_HOSTS = 256


class PacedTransport(ForOneClient):
    """Paces requests to the Messages API, and sends all others at once. Thread-safe.

    Works in forked children: each process has connections of its own. handle_request() raises what
    the client's library raises, and before sending what ``Throttler.permit`` raises.
    """

    made_by = "transport"

    def __init__(
        self,
        admission: Callable[[], Admission],
        terms: AdmissionOptions,
        clock: Clock,
        settings: Settings,
        notices: Notices,
        inner: Any = None,
        **options: Any,
    ) -> None:
        """*inner*: a transport of the caller's own that sends; without one *options* are ours."""
        _require(inner, options)
        self._admission = admission
        self._terms = terms
        self._clock = clock
        self._is_cloud = settings.is_cloud
        self._base_url = settings.base_url
        self._own = own_addresses(settings.base_url)
        self._notices = notices
        self._max_retries = settings.max_retries
        self._once = OneAdmission(admission, notices)
        self._inner = inner
        self._connections = ProcessLocal(partial(HttpxConnections, options))

    def handle_request(self, request: Any) -> Any:
        """Send one request when it may leave; the client calls it for each."""
        try:
            sender = self._inner
            if sender is None:
                sender = self._connections.mine().sender_of(request)
            attempt = self._admitted(request)
        except Exception as error:  # noqa: BLE001 - raised there
            return raise_in_client(request, error)
        if attempt is None:
            return sender.handle_request(request)
        while True:
            response = self._sent(sender, request, attempt)
            if response.status_code < 400:
                return response
            if SDK_HEADER in request.headers:  # it sends again by itself
                steer_retries(response, attempt.again, self._clock.wall())
                return response
            attempt = attempt.next_turn(self._max_retries)
            if attempt is None:
                return response
            response.close()

    def _sent(self, sender: Any, request: Any, attempt: AdmittedAttempt) -> Any:
        """The response to one attempt, which has been told of it."""
        try:
            response = self._once.pass_on(sender.handle_request, request)
            _report(attempt, request, response)
        except BaseException as error:
            attempt.failed(error)
            raise
        return response

    def _admitted(self, request: Any) -> Optional[AdmittedAttempt]:
        endpoint, model = request.url.path, None
        if self._is_cloud:
            endpoint, model = self._endpoint(endpoint)
        if not self._is_ours(request, endpoint) or self._once.take():
            return None
        request.read()  # what can be read once could not be sent again
        body = partial(self._read, request, model)
        return self._admission().admit_request(request.method, endpoint, body, self._terms)

    def _endpoint(self, path: str) -> tuple[str, Optional[str]]:
        """The Claude API's path for a cloud's, and the model that this one names."""
        found = _CLOUD_PATH.search(path)
        if found is None:
            return path, None
        model = found[1] or found[2]
        return (COUNT_PATH, None) if model == "count-tokens" else (MESSAGES_PATH, model)

    def _is_ours(self, request: Any, endpoint: str) -> bool:
        """Whether the throttler's quotas are the request's; says once of others what they are."""
        url = request.url
        # Not ``host``, which is decoded, and raises for what is badly encoded.
        host = url.raw_host.decode("ascii").rstrip(".")
        port = url.port or DEFAULT_PORTS.get(url.scheme, 0)
        is_own = self._is_cloud or (host, port) in self._own or host.endswith(AMAZON_HOSTS)
        paced = has_quota(request.method, endpoint)
        if paced and is_own:
            return True
        address = Address(host, port)
        if paced:
            say_other_host(self._notices, address, self._base_url)
        elif is_own:
            say_other_path(self._notices, request.method, endpoint)
        else:
            say_unrelated_host(self._notices, address)
        return False

    def _read(self, request: Any, model: Optional[str]) -> Any:
        """The body as JSON, with the *model* that the path names; None if it is not JSON."""
        data = request.content
        body = UNKNOWN_BODY if len(data) > MAX_BODY_BYTES else read_json(data)
        if model is not None and isinstance(body, dict):
            body = {**body, "model": model}
        if not names_model(body):
            say_not_json(self._notices)
        return body

    def close(self) -> None:
        """Close this process's connections; they are opened anew if another request comes."""
        if self._inner is not None:
            self._inner.close()
            return
        mine = self._connections.mine_if_any()
        if mine is not None:
            mine.close()

    async def aclose(self) -> None:
        """Nothing was opened by an asynchronous client."""

    def __enter__(self) -> PacedTransport:
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._inner is not None:
            self._inner.__exit__(*error)
            return
        self.close()

    def __repr__(self) -> str:
        return "<claude_throttle transport>"

    def __reduce__(self) -> Any:
        raise TypeError("a transport of a Throttler holds its sockets; make one in each process")


class HttpxConnections:
    """The transports of the client's library that one process sends through, by their proxy.

    A client that is given a transport looks at no proxy of the environment, so this does.
    Thread-safe.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._finds_proxy = options.get("trust_env", True) and not (
            options.get("proxy") or options.get("uds")
        )
        # Held while a transport is made: to read the certificates takes 20 ms of processor time,
        # and thirty threads that begin at once would each do it. Each process has another one.
        self._lock = threading.Lock()
        self._by_host: dict[tuple[Any, ...], Any] = {}
        self._by_proxy: dict[tuple[str, Optional[str]], Any] = {}

    def sender_of(self, request: Any) -> Any:
        """The transport that *request* is sent with."""
        url = request.url
        key = (type(request), url.scheme, url.netloc)
        found = self._by_host.get(key)
        if found is None:
            with self._lock:
                found = self._find_locked(library_of(request), url)
                if len(self._by_host) < MOST_HOSTS:
                    self._by_host[key] = found
        return found

    def _find_locked(self, library: Any, url: Any) -> Any:
        proxy = environment_proxy(str(url)) if self._finds_proxy else None
        key = (library.__name__, proxy)
        if key not in self._by_proxy:
            self._by_proxy[key] = _make(library, proxy, self._options)
        return self._by_proxy[key]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            made = list(self._by_proxy.values())
            self._by_host.clear()
            self._by_proxy.clear()
        for transport in made:
            transport.close()

    def abandon(self) -> None:
        """Its sockets belong to the parent of this process."""


def _make(library: Any, proxy: Optional[str], options: dict[str, Any]) -> Any:
    kind = library.HTTPTransport
    limits = library.Limits(max_connections=None, max_keepalive_connections=POOL_SIZE)
    made = {"limits": limits, "socket_options": keepalive_options(), **options}
    if proxy is not None:
        made["proxy"] = proxy
    if isinstance(made.get("proxy"), str):
        made["proxy"] = library.Proxy(url=made["proxy"])
    if "socket_options" not in options and "socket_options" not in signature(kind).parameters:
        del made["socket_options"]  # a release before 0.25
    return kind(**made)


def _require(inner: Any, options: dict[str, Any]) -> None:
    """Raise ConfigurationError, or TypeError as for unexpected keywords, for what cannot work."""
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(
            f"transport() takes no {unknown[0]}=; it takes priority=, tenant=, timeout=, "
            f"transport=, and {', '.join(OPTIONS)} of httpx.HTTPTransport. Give what is the "
            "client's own to httpx.Client(…)"
        )
    if options.get("retries"):
        raise ConfigurationError(
            "transport() takes no retries=: httpx would connect again without waiting for a turn; "
            "send again in your own code, or use throttler.call(), which does it for you. What a "
            "rate limit refuses is sent again as often as Throttler(max_retries=…) says"
        )
    if inner is not None and (isinstance(inner, type) or not hasattr(inner, "handle_request")):
        raise ConfigurationError(
            "transport=: not a transport of httpx, which has a handle_request(). It may be an "
            "httpx.HTTPTransport(…), an httpx.MockTransport(…) or one of your own"
        )
    if inner is not None and options:
        raise ConfigurationError(
            f"transport() was given transport= and {next(iter(options))}=: give that to your own "
            "transport, which is the one that connects"
        )


def _report(attempt: AdmittedAttempt, request: Any, response: Any) -> None:
    """Report the response; of a stream the head now, and the usage when its body is read."""
    attempt.arrived()
    status, told = response.status_code, RawHeaders(response.headers.raw)
    is_read = response.is_closed  # by an inner transport, as a mock does
    if status >= 400 or _is_json(told):
        body = response.content if is_read else _read_body(request, response, told)
        attempt.answered(status, told, body, request.headers)
        return
    attempt.head(status, told, b"", request.headers)
    if not is_read:
        response.stream = watch_stream(response.stream, told, attempt)
        return
    watched = WatchedBody(told, attempt)
    watched.feed(response.content)
    watched.finished()


def _is_json(told: RawHeaders) -> bool:
    """Whether the body is one JSON text. JSON lines, as a batch's results are, may have no end."""
    kind = told.get("content-type") or ""
    return kind.partition(";")[0].strip().lower() == "application/json"


def _read_body(request: Any, response: Any, told: RawHeaders) -> bytes:
    """The body, decoded; it stays to be read, as it came, by whoever reads the response."""
    library = library_of(request)
    came: list[bytes] = []
    broken: Optional[Exception] = None
    try:
        came.extend(response.stream)
    except Exception as error:  # noqa: BLE001 - half a refusal is a refusal
        broken = error if response.status_code < 400 else None
    finally:
        response.stream.close()
    raw = b"".join(came)
    if broken is not None:
        # Raised where it is read: the SDK would send again what fails here.
        response.stream = with_base(BrokenStream, library.SyncByteStream)(raw, broken)
        return b""
    response.stream = library.ByteStream(raw)
    if not told.get("content-encoding"):
        return raw
    try:
        copy = library.Response(response.status_code, headers=response.headers, content=raw)
    except Exception:  # noqa: BLE001 - it cannot be decoded
        return raw
    body: bytes = copy.content
    return body


class BrokenStream:
    """A body that broke off when it was read: it breaks off again."""

    def __init__(self, came: bytes, error: Exception) -> None:
        self._came = came
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield self._came
        raise self._error

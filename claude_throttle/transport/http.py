"""Sends calls over HTTP with ``requests``: ``POST {base_url}/v1/messages``.

``HttpTransport`` is the real :class:`Transport`; ``features/test_mode`` has the other one. It
builds the request, ``retry`` sends it until it is answered or final, and ``outcomes`` says how it
ended.

A hand-built prepared request goes straight to the adapter; ``Session.send`` would cost a third of
the call. Redirects are never followed: ``requests`` would carry the key to another host.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import requests
from requests.utils import get_environ_proxies, select_proxy

from claude_throttle.core.dispatch.call import Attempt, Call, Outcome
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.core.threads.clock import Clock
from claude_throttle.transport import sdk
from claude_throttle.transport.adapter import PacedAdapter
from claude_throttle.transport.connections import OwnedHeaders, RequestOwner, cut_off_inherited
from claude_throttle.transport.count_tokens import count_body, read_count
from claude_throttle.transport.endpoints import COUNT_PATH, MESSAGES_PATH
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.headers import merged_headers
from claude_throttle.transport.limit_headers import read_limits
from claude_throttle.transport.outcomes import no_answer, odd_answer, refused
from claude_throttle.transport.retry import RetriedAttempt, RetryExchange, RetryRules
from claude_throttle.transport.verdicts import broken, classify, read_message, read_usage

if TYPE_CHECKING:
    from claude_throttle.transport.response_stream import ResponseStream

#: Seconds to wait for a connection (``DEFAULT_TIMEOUT`` of SDK 2.11).
CONNECT_TIMEOUT_SECONDS = 5.0

#: Seconds to wait for an answer: ten minutes, or longer if max_tokens may take longer
#: (SDK 2.11: an hour for 128,000 tokens, at least 600 s).
READ_TIMEOUT_SECONDS = 600.0
SECONDS_PER_TOKEN = 3600.0 / 128_000

#: Seconds to wait for the response to a request that is no message: a token count, the limits of
#: the account. A call goes on without them.
SIDE_REQUEST_TIMEOUT_SECONDS = 30.0

#: Idle connections kept per host. More than requests' default of 10, above which it opens a new
#: connection for each request, and logs a warning for each that it drops.
POOL_SIZE = 2048


class TransportSettings(NamedTuple):
    """Settings of an HttpTransport. They hold the key, so their repr shows the URL only."""

    base_url: str
    #: Sent with every request, the key included.
    headers: Mapping[str, str]
    rules: RetryRules
    proxies: Optional[Mapping[str, str]] = None
    ca_bundle: Optional[str] = None

    def __repr__(self) -> str:
        return f"TransportSettings({self.base_url})"  # no headers: they hold the key


class HttpTransport:
    """Sends calls over HTTP. Thread-safe; connects at the first send.

    One per process, since sockets must not be shared over a fork: a child calls abandon(), and
    makes its own. Its ``send()`` returns every failure in the outcome; ``ask()`` and ``open()``
    raise what ``requests`` raises.
    """

    def __init__(self, settings: TransportSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._url = settings.base_url + MESSAGES_PATH
        self._session = requests.Session()
        self._adapter = PacedAdapter(pool_connections=4, pool_maxsize=POOL_SIZE)
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        # Read once: the environment is not asked again for each call.
        proxies = settings.proxies
        self._proxies = dict(get_environ_proxies(self._url) if proxies is None else proxies)
        self._verify: Union[bool, str] = settings.ca_bundle or True

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def abandon(self) -> None:
        """Cut off a forked child's copies of the parent's sockets. Takes no lock."""
        # The pools' locks, too: urllib3 takes them when it empties its pools at exit, and a thread
        # of the parent may have held one at the fork.
        self._adapter.abandon()
        cut_off_inherited()

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Any = None,
        timeout: float = SIDE_REQUEST_TIMEOUT_SECONDS,
        stream: bool = False,
        owner: Optional[RequestOwner] = None,
    ) -> requests.Response:
        """Send a request that is no message, once. Raises OSError if it is not answered.

        *timeout*: seconds without a byte. *owner* gets the function that ends the request.
        """
        url = self._settings.base_url + path
        prepared = requests.Request(method, url, headers=headers, data=body).prepare()
        # Read only: the adapter looks names up as they are written here.
        prepared.headers = OwnedHeaders(prepared.headers, owner)  # type: ignore[assignment]
        return self._adapter.send(
            prepared,
            stream=stream,
            timeout=(min(CONNECT_TIMEOUT_SECONDS, timeout), timeout),
            verify=self._verify,
            proxies=self._proxies,
        )

    def count(self, call: Call) -> tuple[Optional[int], Feedback]:
        """Ask the API once for a call's input tokens; None, and why, if it gives no count."""
        headers = {**self._settings.headers, "Accept": "application/json"}
        # The call's own headers: with another key, another account's quota counts it.
        if call.extra_headers:
            headers = merged_headers(headers, call.extra_headers)
        left = SIDE_REQUEST_TIMEOUT_SECONDS
        if call.deadline is not None:
            left = min(left, max(0.001, call.deadline - self._clock.monotonic()))
        try:
            response = self.ask(
                "POST", COUNT_PATH + call.query, headers, count_body(call.body), left
            )
        except Exception:  # noqa: BLE001 - the call goes on with its estimate
            return None, Feedback()
        if response.status_code == 200:
            return read_count(response.content), Feedback()
        wall = self._clock.wall()
        return None, classify(
            response.status_code, response.headers, response.content, wall
        ).feedback

    def send(self, call: Call, attempt: Attempt) -> Outcome:
        """Send a call until it is answered or final; every failure is returned, not raised."""
        exchange = self.exchange(attempt)
        try:
            return self._outcome(call, self.open(call, exchange, attempt), exchange, attempt)
        except Exception as error:  # noqa: BLE001 - requests wraps what urllib3 raised
            return no_answer(self.url, attempt, exchange, error)

    def events(self, call: Call, attempt: Attempt) -> ResponseStream:
        """The events of a streamed call; nothing is sent yet."""
        from claude_throttle.transport.response_stream import ResponseStream  # only for streams

        exchange = self.exchange(attempt)
        return ResponseStream(
            partial(self.open, call, exchange, attempt), self.url, exchange, attempt
        )

    def exchange(self, attempt: RetriedAttempt) -> RetryExchange:
        """The retry loop for one request."""
        return RetryExchange(attempt, self._settings.rules, self._clock)

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields of every request, the key included."""
        return self._settings.headers

    @property
    def url(self) -> str:
        """The URL of the Messages API."""
        return self._url

    def open(self, call: Call, exchange: RetryExchange, attempt: Attempt) -> requests.Response:
        """The head of the last response to a call, all refused attempts included."""
        prepared = self._prepared(call, attempt)
        return exchange.send(
            lambda: self._adapter.send(
                prepared,
                stream=True,
                timeout=self._timeout(call, attempt),
                verify=self._verify,
                proxies=self._proxies,
            )
        )

    def _prepared(self, call: Call, attempt: Attempt) -> requests.PreparedRequest:
        prepared = requests.PreparedRequest()
        prepared.method = "POST"
        prepared.url = self._url + call.query
        prepared.body = call.body
        headers = OwnedHeaders(self._settings.headers, attempt)
        headers["Content-Length"] = str(len(call.body))
        if call.streams:
            headers["Accept-Encoding"] = "identity"  # compression holds events back
        if call.extra_headers:
            headers = OwnedHeaders(merged_headers(headers, call.extra_headers), attempt)
        # A plain dict: the adapter only looks names up as they are written here.
        prepared.headers = headers  # type: ignore[assignment]
        return prepared

    # urllib3's timeout is for each read, so it cannot be the deadline of a call; an answer that is
    # not streamed sends nothing until it is complete, so it must outlast the longest generation.
    def _timeout(self, call: Call, attempt: Attempt) -> tuple[float, float]:
        read = max(READ_TIMEOUT_SECONDS, call.max_tokens * SECONDS_PER_TOKEN)
        left = attempt.seconds_left()
        if left is None:
            return CONNECT_TIMEOUT_SECONDS, read
        left = max(left, 0.001)  # urllib3 refuses zero
        # The worker ends a read at the deadline; this is for when it cannot.
        return min(CONNECT_TIMEOUT_SECONDS, left), min(read, left + 1.0)

    # -- how a call ends -------------------------------------------------------------------------

    def _outcome(
        self, call: Call, response: requests.Response, exchange: RetryExchange, attempt: Attempt
    ) -> Outcome:
        request_id = response.headers.get("request-id")
        if response.status_code != 200:
            return refused(self.url, response, exchange)
        body = _read_whole(response, exchange, request_id)
        answered_at = self._clock.monotonic()  # to build the SDK's types is no latency
        message = read_message(body, request_id)
        value = message
        if not call.raw:
            odd = partial(odd_answer, self._url, attempt)
            value = sdk.message(message, request_id, odd)
        usage, feedback = read_usage(message), read_limits(response.headers)
        return Outcome(value, None, usage, 200, request_id, False, feedback, answered_at)


def _read_whole(
    response: requests.Response, exchange: RetryExchange, request_id: Optional[str]
) -> bytes:
    """The body of a good answer; raises BrokenAnswer if it is cut short."""
    raw = response.raw
    try:
        body: bytes = raw.read(decode_content=True)
    except Exception as error:
        response.close()
        # The failure of an earlier attempt must not be reported as the reason of this one.
        exchange.error = None
        if exchange.attempt.stopped or type(error).__name__ == "ReadTimeoutError":
            raise
        raise broken(f"an answer that broke off ({describe(error)})", request_id) from None
    promised = response.headers.get("content-length", "")
    # urllib3 1.26 does not check it.
    if promised.isdigit() and raw.tell() < int(promised):
        response.close()
        raise broken(f"{raw.tell()} of {promised} bytes", request_id)
    return body


def environment_proxy(url: str) -> Optional[str]:
    """The address of the proxy that the environment names for *url*; None without one."""
    found = select_proxy(url, get_environ_proxies(url))
    return found if not found or "://" in found else f"http://{found}"

"""The retry loop of one request: ``PacedRetry`` decides, ``RetryExchange`` sends.

``PacedRetry`` is a urllib3 ``Retry``. The adapter holds one that sends each request once;
``RetryExchange.send()`` asks one of its own after each refusal or failure: ``increment`` decides,
``sleep`` waits for the next turn in the lane's queue. The loop is ours, and not the one in urllib3,
since that recurses once for each attempt, and loses the body of a refusal that was read.

Every attempt but the first is dispatched by the worker like a new call: it waits for quota, so that
retries never send faster than the pace. Never sent again:

* an answer that the verdict table calls final;
* a request whose read timed out, unless the caller allowed it: the server may be working on it;
* a connection that we cut ourselves, or that was lost after the answer began.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from http.client import RemoteDisconnected
from types import TracebackType
from typing import Any, Callable, NamedTuple, Optional, Protocol

import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    ResponseError,
    SSLError,
)
from urllib3.util.retry import Retry

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.core.domain.feedback import FAULT, SILENCE, Feedback, RetryDelay
from claude_throttle.core.pacing.backoff import backoff, retry_wait
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.descriptors import lacked_descriptor
from claude_throttle.errors import BrokenAnswer
from claude_throttle.transport.verdicts import Verdict, classify

#: The delay before anything was refused.
NO_DELAY = RetryDelay(0.0, alone=True)

#: What the pacer is told of a lost connection: a fault, which the circuit breaker counts.
_LOST = Feedback(FAULT)

#: What the pacer is told of a missing answer, which says nothing about the server.
_SILENT = Feedback(SILENCE)

#: The verdict when this process can open no socket just now (``ulimit -n``). The server is not at
#: fault, so this opens no circuit and uses up no retries: the request waits until a socket is free.
OUT_OF_DESCRIPTORS = Verdict(
    True, "no file descriptor", keeps_tokens=False, feedback=Feedback(SILENCE, final=True)
)

#: The errors after which a request may be sent again: those that urllib3's own loop asks ``Retry``
#: about, and half an answer. All others are bugs or wrong settings, and are raised at once.
_ASKED_ABOUT = (
    *(ConnectTimeoutError, ReadTimeoutError, ProtocolError, ProxyError, SSLError),
    BrokenAnswer,
)

#: What ``http.client`` says when a proxy answers CONNECT with something else than 200, and our own
#: connections where its answer is no HTTP, or none.
_REFUSED_BY_PROXY = re.compile(r"Tunnel connection failed: (\d{3})?")

#: Statuses below 500 with which a proxy says that it may work a moment later.
_PROXY_RETRIED = frozenset({408, 425, 429})


class RetryRules(NamedTuple):
    """What may be sent again: from the settings for messages, stricter or laxer for batches."""

    #: Attempts after the first one.
    max_retries: int
    #: Whether to send again after a read timeout: the server may be working on it, and bill twice.
    read_timeouts: bool
    #: Whether to send again when the connection was lost before any byte of the answer.
    resets: bool
    #: Send again only if the server certainly did nothing (429, 529, no connection): for the
    #: creation of a batch, which is billed twice if it is created twice.
    only_untaken: bool = False
    #: Send again after half an answer: right for requests that change nothing at the API.
    broken_answers: bool = False


class RetriedAttempt(Protocol):
    """What the retry loop needs of the request it sends: its deadline, its pacer, its next turn.

    ``Attempt`` is one, for messages; ``BatchAttempt`` is the other.
    """

    @property
    def number(self) -> int:
        """The number of the attempt, from 1."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether it must end, whatever the server answered."""
        ...

    def seconds_left(self) -> Optional[float]:
        """Seconds until its deadline; None without one."""
        ...

    def on_refusal(self, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """Tell the pacer of a refusal; the delay it asks for, given the request's own."""
        ...

    def again(
        self, *, status: Optional[int], reason: str, delay: RetryDelay, keep_tokens: bool
    ) -> None:
        """Give the permit back, wait, and return when the next attempt may leave."""
        ...


class RetryExchange:
    """One request and all its attempts: sends it, asks ``PacedRetry``, sends it again.

    Used by one thread at a time. ``verdict``, ``refusal`` and ``status`` are those of the last
    attempt that failed, ``error`` is the last attempt's; ``outcomes`` makes the caller's exception
    of them.
    """

    def __init__(self, attempt: RetriedAttempt, rules: RetryRules, clock: Clock) -> None:
        self.attempt = attempt
        self.rules = rules
        self.clock = clock
        #: Body of the last refusal. Kept, since reading it empties the response.
        self.refusal = b""
        self.verdict: Optional[Verdict] = None
        #: What broke the last attempt; None if it was answered.
        self.error: Optional[BaseException] = None
        #: The wait before the next attempt.
        self.delay = NO_DELAY
        self.status: Optional[int] = None
        # Made at the first refusal: most requests never need it.
        self._retry: Optional[PacedRetry] = None

    def send(self, send_once: Callable[[], requests.Response]) -> requests.Response:
        """The first response below 400, or the refusal after which nothing is sent again.

        Raises what broke the last attempt, as *send_once* raised it, or AttemptStopped.
        """
        while True:
            self.error = None  # an earlier attempt's says nothing of this one
            try:
                response = send_once()
            except Exception as error:
                if not self.may_resend(error=error):
                    raise
            else:
                if response.status_code < 400 or not self.may_resend(response=response.raw):
                    return response
                response.raw.drain_conn()  # back to the pool, before the wait
            self.wait_for_turn()

    def may_resend(self, response: Any = None, error: Optional[Exception] = None) -> bool:
        """Tell the pacer of a refusal or an error; whether another attempt may follow.

        *error* as requests or urllib3 raised it. Raises AttemptStopped if it was stopped.
        """
        if error is not None and (error := _urllib3_error(error)) is None:
            return False
        retry = self._retry or PacedRetry.of(self)
        try:
            self._retry = retry.increment("POST", "", response=response, error=error)
        except MaxRetryError:
            return False
        return True

    def wait_for_turn(self) -> None:
        """Return when the next attempt may leave. Raises AttemptStopped."""
        if self._retry is not None:
            self._retry.sleep()


class PacedRetry(Retry):
    """A urllib3 ``Retry`` that decides, for one request, whether and when it is sent again.

    Each decision makes a new one, as in urllib3. Without an exchange it sends each request once,
    and raises its errors as they are; that one is shared by all threads.
    """

    #: The request that it decides about; None for the one that the adapter holds.
    exchange: Optional[RetryExchange] = None

    @classmethod
    def once(cls) -> PacedRetry:
        """One for the adapter: each request is sent once, its errors are raised as they are."""
        return cls(False, raise_on_status=False, respect_retry_after_header=False)

    @classmethod
    def of(cls, exchange: RetryExchange) -> PacedRetry:
        """One for the request of *exchange*, with all its retries left."""
        # backoff_jitter, backoff_max and retry_after_max are not used: urllib3 1.26 lacks them.
        # respect_retry_after_header is off: urllib3 raises for "0.5", and knows no milliseconds.
        retry = cls(
            total=exchange.rules.max_retries,
            redirect=0,
            allowed_methods=None,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        retry.exchange = exchange
        return retry

    def new(self, **kw: Any) -> PacedRetry:
        new: PacedRetry = super().new(**kw)
        new.exchange = self.exchange  # Retry.new() makes another one, without our attribute
        return new

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: ARG002
        # Every refusal is a matter for increment(), which sees headers and body.
        return self.exchange is not None and status_code >= 400

    def increment(
        self,
        method: Optional[str] = None,
        url: Optional[str] = None,
        response: Any = None,
        error: Optional[Exception] = None,
        _pool: Any = None,
        _stacktrace: Optional[TracebackType] = None,
    ) -> PacedRetry:
        """Decide about another attempt; raises MaxRetryError or AttemptStopped if there is none."""
        exchange = self.exchange
        if exchange is None:
            once: PacedRetry = super().increment(method, url, response, error, _pool, _stacktrace)
            return once
        if exchange.attempt.stopped:
            raise AttemptStopped
        verdict = (
            _judge_response(exchange, response) if error is None else _judge_error(exchange, error)
        )
        if exchange.rules.only_untaken and verdict.keeps_tokens:
            verdict = verdict._replace(retry=False)
        exchange.verdict = verdict
        if verdict is OUT_OF_DESCRIPTORS:
            exchange.delay = _delay_without_fault(exchange)
            return self.new(total=self.total)
        seconds_left = exchange.attempt.seconds_left()
        # Before deciding: even if this request is not sent again, the pacer must know, so that the
        # calls behind it do not meet the same refusal.
        delay = exchange.delay = _delay(exchange, verdict, seconds_left)
        in_time = delay.seconds < (math.inf if seconds_left is None else seconds_left)
        left = int(self.total or 0)
        # A refusal while the circuit is open is "free": it is not this request's fault.
        has_retries = left > 0 or (delay.free and exchange.rules.max_retries > 0)
        fits = delay.excess is None or exchange.attempt.number < delay.excess.tries
        may = (verdict.retry or delay.doubted) and fits
        if not (may and has_retries and in_time):
            raise MaxRetryError(_pool, url or "", error or ResponseError(verdict.reason))
        return self.new(total=left if delay.free else left - 1)

    def sleep(self, response: Any = None) -> None:  # noqa: ARG002 - Retry's signature
        """Give the permit back, wait, and queue for another turn."""
        exchange = self.exchange
        if exchange is None or exchange.verdict is None:  # increment() was not asked
            return
        exchange.attempt.again(
            status=exchange.status,
            reason=exchange.verdict.reason,
            delay=exchange.delay,
            keep_tokens=exchange.verdict.keeps_tokens and not exchange.delay.doubted,
        )


def _delay(exchange: RetryExchange, verdict: Verdict, seconds_left: Optional[float]) -> RetryDelay:
    """Tell the lane of the refusal, and get the delay before the next attempt.

    An empty retry budget makes the delay longer, but fails no request: so a delay that only the
    budget asked for takes at most half of the time that is left.
    """
    attempt = exchange.attempt
    wait_seconds = retry_wait(verdict.feedback, attempt.number)
    delay = attempt.on_refusal(verdict.feedback, wait_seconds)
    if seconds_left is None or not delay.alone or not wait_seconds < delay.seconds < math.inf:
        return delay
    return delay._replace(seconds=max(wait_seconds, min(delay.seconds, seconds_left / 2)))


def _delay_without_fault(exchange: RetryExchange) -> RetryDelay:
    """The delay after a lack of file descriptors: nothing was sent, and no retry is used up."""
    seconds = backoff(exchange.attempt.number)
    exchange.attempt.on_refusal(OUT_OF_DESCRIPTORS.feedback, seconds)
    return RetryDelay(seconds, alone=True, free=True)


def _judge_response(exchange: RetryExchange, response: Any) -> Verdict:
    exchange.error = None
    exchange.status = int(response.status)
    exchange.refusal = b""
    with suppress(Exception):  # half a refusal is a refusal
        exchange.refusal = response.read(decode_content=True)
    return classify(exchange.status, response.headers, exchange.refusal, exchange.clock.wall())


def _judge_error(exchange: RetryExchange, error: Exception) -> Verdict:
    exchange.error = error
    exchange.status = None
    return verdict_on_error(error, exchange.rules)


def _urllib3_error(error: BaseException) -> Optional[Exception]:
    """The urllib3 error inside an error of requests; None for an error that is final."""
    if isinstance(error, requests.RequestException) and error.args:
        error = error.args[0]
    return error if isinstance(error, _ASKED_ABOUT) else None


def verdict_on_error(error: BaseException, rules: RetryRules) -> Verdict:
    """The verdict on a request without an answer, or with half of one.

    *error* is what requests or urllib3 raised. The order matters: a lack of descriptors comes as a
    failed connection, and a failed connection to a proxy as a ProxyError.
    """
    error = _urllib3_error(error) or error
    if lacked_descriptor(error):
        return OUT_OF_DESCRIPTORS
    if isinstance(error, ProxyError):
        error = _cause(error)
        refused = _REFUSED_BY_PROXY.search(str(error))
        if refused is not None:
            return _verdict_on_proxy(int(refused.group(1) or 0))
    if isinstance(error, (ConnectTimeoutError, NewConnectionError)):
        return Verdict(True, "no connection", keeps_tokens=False, feedback=_LOST)
    if isinstance(error, BrokenAnswer):
        return Verdict(rules.broken_answers, "broken answer", feedback=_SILENT)
    if isinstance(error, SSLError):
        return Verdict(False, "TLS failed", keeps_tokens=False, feedback=_SILENT)
    if isinstance(error, ReadTimeoutError):
        return Verdict(rules.read_timeouts, "read timeout", feedback=_SILENT)
    if isinstance(error, ProtocolError) and was_lost(error):
        return Verdict(rules.resets, "connection lost", feedback=_LOST)
    return Verdict(False, type(error).__name__, feedback=_SILENT)


def _verdict_on_proxy(status: int) -> Verdict:
    """The verdict on a CONNECT that a proxy refused: nothing has reached the API.

    *status* is 0 if it gave none that can be read: cut off, or no proxy at all.
    """
    if status == 0:
        return Verdict(True, "no answer from the proxy", keeps_tokens=False, feedback=_LOST)
    if status == 407:
        reason = "the proxy wants another user or password (407), and is not asked again"
        return Verdict(False, reason, keeps_tokens=False, feedback=_SILENT)
    passes = status in _PROXY_RETRIED or status >= 500
    feedback = _LOST if passes else _SILENT
    return Verdict(
        passes, f"refused by the proxy ({status})", keeps_tokens=False, feedback=feedback
    )


def was_lost(error: BaseException) -> bool:
    """Whether the connection ended before any byte of the answer, even one that makes no sense."""
    return isinstance(_cause(error), (RemoteDisconnected, ConnectionError))


def _cause(error: BaseException) -> BaseException:
    inner = getattr(error, "original_error", None) or (error.args[-1] if error.args else None)
    return inner if isinstance(inner, BaseException) else error

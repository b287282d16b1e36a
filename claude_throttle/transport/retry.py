"""``PacedRetry``: a urllib3 ``Retry`` that queues again for its turn before it re-sends.

urllib3 asks it after each refusal or failure, in the sender's thread: ``increment`` decides,
``sleep`` waits for the next turn in the lane's queue. What must not be sent again is not:

* an answer the verdict table calls final;
* a request whose read timed out, unless the caller allowed it: the server may be working on it;
* a connection that we cut ourselves, or that was lost in the midst of an answer.
"""

from __future__ import annotations

from http.client import RemoteDisconnected
from types import TracebackType
from typing import Any, NamedTuple, Optional

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

from claude_throttle.core.dispatch.attempt import Attempt, AttemptStopped
from claude_throttle.core.domain.feedback import CONCURRENCY, FAULT, SILENCE, Feedback, RetryDelay
from claude_throttle.core.threads.clock import Clock
from claude_throttle.transport.verdicts import Verdict, backoff, classify

#: urllib3 calls itself for each re-send, and in a long outage there is no end of them.
MOST_NESTED = 100

NO_DELAY = RetryDelay(0.0, alone=True)

#: What the pace understands when the server is not there.
_LOST = Feedback(FAULT)

#: And when all it said, or did not say, is no answer.
_SILENT = Feedback(SILENCE)


class RetryRules(NamedTuple):
    """What the caller allows."""

    #: Re-sends after the first attempt.
    max_retries: int
    #: Send again what the server may be working on.
    read_timeouts: bool
    #: Send again when the connection was lost before any byte of answer.
    resets: bool


class RetryExchange:
    """What one call went through on the wire; owned by its sender's thread."""

    def __init__(self, attempts: Attempt, rules: RetryRules, clock: Clock) -> None:
        self.attempts = attempts
        self.rules = rules
        self.clock = clock
        #: Body of the last refusal: reading it empties the response.
        self.refusal = b""
        self.verdict: Optional[Verdict] = None
        #: What broke the last attempt, if nothing was answered.
        self.error: Optional[BaseException] = None
        #: Before the next attempt.
        self.delay = NO_DELAY
        self.status: Optional[int] = None
        self.retries_left = rules.max_retries
        #: Re-sends on the stack.
        self.nested = 0


class Unwound(Exception):
    """It is this call's turn, but urllib3 must be entered anew for it.

    A plain Exception: urllib3 and requests would dress up an OSError as a connection error.
    """


class PacedRetry(Retry):
    """Per call; ``exchange`` is carried along from one attempt to the next."""

    exchange: RetryExchange

    @classmethod
    def of(cls, exchange: RetryExchange) -> PacedRetry:
        """The retries of one call."""
        # None of backoff_jitter, backoff_max, retry_after_max: urllib3 1.26 lacks them.
        retry = cls(
            total=exchange.retries_left,
            redirect=0,
            allowed_methods=None,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        retry.exchange = exchange
        return retry

    def new(self, **kw: Any) -> PacedRetry:
        new: PacedRetry = super().new(**kw)
        new.exchange = self.exchange  # attributes are lost otherwise
        return new

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: ARG002
        # Every refusal is a matter for increment(), which sees headers and body.
        return status_code >= 400

    def increment(
        self,
        method: Optional[str] = None,  # noqa: ARG002 - Retry's signature
        url: Optional[str] = None,
        response: Any = None,
        error: Optional[Exception] = None,
        _pool: Any = None,
        _stacktrace: Optional[TracebackType] = None,
    ) -> PacedRetry:
        """Decide about another attempt; raises MaxRetryError, or Stopped, if there is none."""
        exchange = self.exchange
        if exchange.attempts.stopped:
            raise AttemptStopped
        verdict = (
            _judge_response(exchange, response) if error is None else _judge_error(exchange, error)
        )
        # Even if this call goes no further, the others must not run into the same wall.
        wait = self._wait_seconds(verdict)
        delay = exchange.delay = _in_time(exchange, verdict, wait)
        left = int(self.total or 0)
        # What is refused while the circuit is open was not this call's fault.
        may = left > 0 or (delay.free and exchange.rules.max_retries > 0)
        if not (verdict.retry and may and exchange.attempts.has_time_for(delay.seconds)):
            raise MaxRetryError(_pool, url or "", error or ResponseError(verdict.reason))
        return self.new(total=left if delay.free else left - 1)

    def _wait_seconds(self, verdict: Verdict) -> float:
        if verdict.feedback.cause == CONCURRENCY and not verdict.retry_after:
            # Somebody else's answer makes room, at any time.
            return backoff(1) / 2
        if not verdict.retry_after:  # "0" says nothing either
            return backoff(self.exchange.attempts.number)
        if verdict.pauses_lane:
            return verdict.retry_after  # the lane adds its jitter, once per pause
        return verdict.retry_after + backoff(1) / 5

    def sleep(self, response: Any = None) -> None:  # noqa: ARG002 - Retry's signature
        """Give the permit back, wait, and queue for another turn."""
        exchange, verdict = self.exchange, self.exchange.verdict
        if verdict is None:  # increment() was not asked
            return
        exchange.attempts.again(
            status=exchange.status,
            reason=verdict.reason,
            delay=exchange.delay,
            keep_tokens=verdict.keeps_tokens,
        )
        exchange.nested += 1
        if exchange.nested >= MOST_NESTED:
            exchange.nested, exchange.retries_left = 0, int(self.total or 0)
            raise Unwound


def _in_time(exchange: RetryExchange, verdict: Verdict, wait_seconds: float) -> RetryDelay:
    """Tell the lane, and learn when to try again: an empty retry budget delays, it fails none."""
    delay = exchange.attempts.refused(verdict.feedback, wait_seconds)
    left = exchange.attempts.seconds_left()
    if left is None or not delay.alone or delay.seconds <= wait_seconds:
        return delay
    return delay._replace(seconds=max(wait_seconds, min(delay.seconds, left / 2)))


def _judge_response(exchange: RetryExchange, response: Any) -> Verdict:
    exchange.error = None
    exchange.status = int(response.status)
    exchange.refusal = _read(response)
    exchange.verdict = classify(
        exchange.status, response.headers, exchange.refusal, exchange.clock.wall()
    )
    return exchange.verdict


def _read(response: Any) -> bytes:
    try:
        body: bytes = response.read(decode_content=True)
    except Exception:  # noqa: BLE001 - half a refusal is a refusal
        return b""
    return body


def _judge_error(exchange: RetryExchange, error: Exception) -> Verdict:
    exchange.error = error
    exchange.status = None
    exchange.verdict = verdict_on_error(error, exchange.rules)
    return exchange.verdict


def verdict_on_error(error: BaseException, rules: RetryRules) -> Verdict:
    """What to do when no answer came."""
    if isinstance(error, ProxyError):
        error = _cause(error)
    if isinstance(error, (ConnectTimeoutError, NewConnectionError)):
        return Verdict(True, "no connection", keeps_tokens=False, feedback=_LOST)
    if isinstance(error, SSLError):
        return Verdict(False, "TLS failed", keeps_tokens=False, feedback=_SILENT)
    if isinstance(error, ReadTimeoutError):
        return Verdict(rules.read_timeouts, "read timeout", feedback=_SILENT)
    if isinstance(error, ProtocolError) and was_lost(error):
        return Verdict(rules.resets, "connection lost", feedback=_LOST)
    return Verdict(False, type(error).__name__, feedback=_SILENT)


def was_lost(error: BaseException) -> bool:
    """Whether the connection ended before any byte of answer; garbage is an answer."""
    return isinstance(_cause(error), (RemoteDisconnected, ConnectionError))


def _cause(error: BaseException) -> BaseException:
    inner = getattr(error, "original_error", None) or (error.args[-1] if error.args else None)
    return inner if isinstance(inner, BaseException) else error

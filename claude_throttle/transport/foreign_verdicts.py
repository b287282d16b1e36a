"""What the pacer is told of requests that other clients sent: responses, refusals and errors.

The official SDK's client, a ``requests`` session or code with a permit sends the request; this
module judges what came back, by the same table as for our own (``verdicts``). Such a report is
always final: whether to send again is decided by that client, or by
``AdmittedAttempt.next_turn()``, and another attempt needs another permit.

The exceptions are those of httpx, httpx2 and urllib3, none of which is imported for it: their
classes are told apart by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    SILENCE,
    Feedback,
    ResponseReport,
)
from claude_throttle.core.pacing.backoff import backoff
from claude_throttle.transport.limit_headers import read_limits
from claude_throttle.transport.verdicts import Verdict, classify

#: Names of other clients' exceptions that mean that no byte was sent, so that the tokens booked for
#: the request can be given back.
_NOT_SENT = frozenset(
    {
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"),  # httpx
        *("ConnectTimeoutError", "NewConnectionError", "NameResolutionError"),  # urllib3
        "ConnectionRefusedError",
    }
)

#: Names of exceptions that mean that the connection was lost: a fault for the circuit breaker, and
#: the server may have counted the tokens.
_LOST = frozenset(
    {
        *("ReadError", "WriteError", "CloseError", "RemoteProtocolError"),
        *("ProtocolError", "RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"),
    }
)

# Half of what NamedTuple's own constructor takes; one for each answer.
_new = tuple.__new__
_OF_AN_ANSWER = ResponseReport(Feedback())[1:]

#: Causes of an exception that are followed at most: a program may have linked them in a circle.
_DEEPEST = 8


def report_of(status: int, headers: Mapping[str, str], body: bytes, wall: float) -> ResponseReport:
    """The report of a response; *wall* is now in seconds since 1970, for dates in headers."""
    # A plain dict is case-sensitive; the header classes of all clients are not.
    if type(headers) is dict:
        headers = {name.lower(): value for name, value in headers.items()}
    if status < 400:
        return _new(ResponseReport, (read_limits(headers, int(status)), *_OF_AN_ANSWER))
    verdict = classify(status, headers, body, wall)
    # Its client decides about another attempt, which then needs another permit.
    feedback = verdict.feedback._replace(final=True)
    # Clients try every 429 again, also where only money helps.
    again = False if status == 429 and not verdict.retry else None
    wait_seconds, passes = _wait_seconds(verdict), _passes(verdict)
    return ResponseReport(feedback, True, verdict.keeps_tokens, wait_seconds, again, passes)


def _passes(verdict: Verdict) -> bool:
    cause = verdict.feedback.cause
    is_limit = cause in (RATE, RAMP, CONCURRENCY) or (cause == OVERLOAD and verdict.pauses_lane)
    return is_limit and verdict.retry and not verdict.keeps_tokens


def _wait_seconds(verdict: Verdict) -> float:
    if verdict.retry_after:
        return verdict.retry_after
    return backoff(1) / 2 if verdict.feedback.cause == CONCURRENCY else backoff(1)


def report_of_error(error: BaseException) -> ResponseReport:
    """The report of an error without a response, by the names of httpx and urllib3."""
    # A PoolTimeout is the client's own shortage, and a read timeout may be a long answer: neither
    # says that the server is at fault, so neither opens the circuit.
    names = set(_names(error))
    if "ReadTimeout" in names or "ReadTimeoutError" in names:
        return ResponseReport(Feedback(SILENCE, final=True), refused=True)
    if names & _NOT_SENT:
        feedback = Feedback(SILENCE if "PoolTimeout" in names else FAULT, final=True)
        return ResponseReport(feedback, refused=True, keeps_tokens=False)
    cause = FAULT if names & _LOST else SILENCE
    return ResponseReport(Feedback(cause, final=True), refused=True)


def _names(error: Optional[BaseException]) -> list[str]:
    """The class names of an error and its causes, wherever the library keeps them."""
    found: list[str] = []
    while error is not None and len(found) < _DEEPEST:
        found.append(type(error).__name__)
        error = error.__cause__ or _wrapped(error)
    return found


# requests and urllib3 keep the inner exception in ``reason`` or in ``args``, not as ``__cause__``.
def _wrapped(error: BaseException) -> Optional[BaseException]:
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = error.args[-1] if error.args else None
    return inner if isinstance(inner, BaseException) else error.__context__

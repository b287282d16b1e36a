"""What came of requests that others sent: answers, refusals, and nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Optional

from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    FAULT,
    SILENCE,
    Feedback,
    ResponseReport,
)
from claude_throttle.transport.limit_headers import read_limits
from claude_throttle.transport.verdicts import Verdict, backoff, classify

#: Of the clients' own exceptions: no byte was sent.
_NOT_SENT = frozenset(
    {
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"),  # httpx
        *("ConnectTimeoutError", "NewConnectionError", "NameResolutionError"),  # urllib3
        "ConnectionRefusedError",
    }
)

#: The connection was there, and then was not.
_LOST = frozenset(
    {
        *("ReadError", "WriteError", "CloseError", "RemoteProtocolError"),
        *("ProtocolError", "RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"),
    }
)

#: Causes looked at, at most: exceptions may lead in a circle.
_DEEPEST = 8


def report_of(status: int, headers: Mapping[str, str], body: bytes, wall: float) -> ResponseReport:
    """What an answer says; *wall* is now in seconds since 1970, for dates in headers."""
    if type(headers) is dict:
        headers = {name.lower(): value for name, value in headers.items()}
    if status < 400:
        rate_limits = read_limits(headers)
        return (
            ResponseReport(Feedback(rate_limits=rate_limits, status=status))
            if rate_limits
            else _silent(int(status))
        )
    verdict = classify(status, headers, body, wall)
    # Whoever sent it decides about another try; he asks for another permit then.
    feedback = verdict.feedback._replace(final=True)
    return ResponseReport(feedback, True, verdict.keeps_tokens, _wait_seconds(verdict))


@lru_cache(maxsize=8)
def _silent(status: int) -> ResponseReport:
    """Of an answer that says nothing about limits: all alike, and so made once."""
    return ResponseReport(Feedback(status=status))


def _wait_seconds(verdict: Verdict) -> float:
    if verdict.retry_after:
        return verdict.retry_after
    return backoff(1) / 2 if verdict.feedback.cause == CONCURRENCY else backoff(1)


def report_of_error(error: BaseException) -> ResponseReport:
    """What it says when no answer came: httpx' and urllib3's names for it, wherever they hide."""
    names = set(_names(error))
    if "ReadTimeout" in names or "ReadTimeoutError" in names:
        return ResponseReport(Feedback(SILENCE, final=True), refused=True)
    if names & _NOT_SENT:
        feedback = Feedback(SILENCE if "PoolTimeout" in names else FAULT, final=True)
        return ResponseReport(feedback, refused=True, keeps_tokens=False)
    cause = FAULT if names & _LOST else SILENCE
    return ResponseReport(Feedback(cause, final=True), refused=True)


def _names(error: Optional[BaseException]) -> list[str]:
    """Of an error's class and of those behind it, as each library hides them."""
    found: list[str] = []
    while error is not None and len(found) < _DEEPEST:
        found.append(type(error).__name__)
        error = error.__cause__ or _wrapped(error)
    return found


def _wrapped(error: BaseException) -> Optional[BaseException]:
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = error.args[-1] if error.args else None
    return inner if isinstance(inner, BaseException) else error.__context__

"""What an exception of the official SDK means for a person who waits for the answer.

A web application tells its visitors the difference between "try again in a moment" and "this will
not work until it is repaired". Only the SDK's exceptions are read, whichever client raised them:
a throttler, or the SDK itself behind ``throttler.middleware()``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.feedback import ACCOUNT, CONCURRENCY, OVERLOAD, RAMP, RATE
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.transport.verdicts import STATUS_BY_TYPE, UNKNOWN_STATUS, classify

NO_CONNECTION = "no_connection"

#: What a refusal is called, by the cause that the pacer is told.
_KINDS = {
    RATE: "rate_limited",
    RAMP: "rate_limited",
    CONCURRENCY: "rate_limited",
    OVERLOAD: "overloaded",
    ACCOUNT: "account_refused",
}

#: Statuses by which the API, or the proxy before it, says that nothing was done: 503 of the API,
#: 502 and 521 to 523 of a proxy that did not reach it. After any other 5xx a call may be billed, so
#: nobody is invited to repeat it.
_KINDS_BY_STATUS = {503: "overloaded", **dict.fromkeys((502, 521, 522, 523), NO_CONNECTION)}


class ApiRefusal(NamedTuple):
    """What a refusal of the API means for a person who waits. It names no account and no limit."""

    #: "rate_limited", "overloaded", "no_connection" or "account_refused".
    kind: str
    #: Seconds that the API asks to wait; None if it names none.
    retry_after: Optional[float] = None

    @property
    def passing(self) -> bool:
        """False where the account needs attention: waiting does not help."""
        return self.kind != "account_refused"


def api_refusal(error: BaseException) -> Optional[ApiRefusal]:
    """What *error* means if it is the official SDK's, and not about this one call; else None.

        >>> try:
        ...     message = throttler.call(model=model, max_tokens=100, messages=messages)
        ... except anthropic.APIError as error:
        ...     refusal = api_refusal(error)
        ...     if refusal is None:
        ...         raise

    Rate limits, overload, a lost connection and refusals of the account; not a read timeout, and
    not a 500 or 504, after which the call may be billed. Thread-safe; does not import the SDK.
    """
    anthropic: Any = sys.modules.get("anthropic")
    # Half imported by another thread, it has no names yet.
    base = getattr(anthropic, "APIError", None)
    if base is None or not isinstance(error, base):
        return None
    if isinstance(error, anthropic.APIConnectionError):
        timed_out = isinstance(error, anthropic.APITimeoutError)
        return None if timed_out else ApiRefusal(NO_CONNECTION)
    if not isinstance(error, anthropic.APIStatusError):
        return None
    refused: Any = error
    return _by_response(refused.status_code, refused.response.headers, refused.body)


def _by_response(status: int, headers: Any, body: object) -> Optional[ApiRefusal]:
    if status == 200:  # the error came within a stream
        inner = body.get("error", body) if isinstance(body, dict) else None
        kind = inner.get("type") if isinstance(inner, dict) else None
        status = STATUS_BY_TYPE.get(str(kind), UNKNOWN_STATUS)
    return response_refusal(status, headers, json.dumps(body, default=str).encode())


def response_refusal(
    status: int, headers: Mapping[str, str], content: bytes
) -> Optional[ApiRefusal]:
    """What a response means that refuses a request, in the words of :func:`api_refusal`."""
    verdict = classify(status, headers, content, SYSTEM_CLOCK.wall())
    name = _KINDS.get(verdict.feedback.cause) or _KINDS_BY_STATUS.get(status)
    return None if name is None else ApiRefusal(name, verdict.retry_after)

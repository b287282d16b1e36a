"""Refusals by their status, worded as the API words them."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Optional

from claude_throttle.testing.faults import INTERNAL, OVERLOADED, RATE_LIMITED, Reply

#: Those the official SDK sends again (2.11), besides everything from 500 up.
_PASSING = frozenset({408, 409, 429})

_WORDS = {reply.status: reply.message for reply in (RATE_LIMITED, INTERNAL, OVERLOADED)}


def refusal(
    status: int,
    *,
    retry_after: Optional[float] = None,
    message: Optional[str] = None,
    error_type: Optional[str] = None,
    error_code: Optional[str] = None,
    latency: Optional[float] = None,
) -> Reply:
    """A refusal with that *status*; what is None is as documented, or left out.

    Raises ValueError for what is none.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"a refusal has a status from 400 to 599, not {status}")
    if retry_after is not None and not (math.isfinite(retry_after) and retry_after >= 0):
        raise ValueError(f"retry_after is a number of seconds, not {retry_after}")
    passes = status in _PASSING or status >= 500
    # A code tells more than the status: without a time it is one of those that do not pass.
    if error_code is not None and retry_after is None:
        passes = False
    headers: dict[str, Optional[str]] = {"x-should-retry": "true" if passes else "false"}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    words = _words(status) if message is None else message
    return Reply(status, headers, error_type, words, error_code, latency=latency)


def _words(status: int) -> str:
    if status in _WORDS:
        return _WORDS[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"

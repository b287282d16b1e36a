"""What an answer means: one table, and the reading of a whole message.

Classified by ``x-should-retry``, ``error_code``, status and ``retry-after``, in this order; by the
wording never ("its wording can change, so don't match on it", says the SDK).
"""

from __future__ import annotations

import email.utils
import json
import math
import random
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.errors import BrokenAnswer
from claude_throttle.flow.cost import Usage

#: 429s that pass only when somebody pays or a month ends (rate-limit page, 2026-09; SDK 2.10).
SPEND_CODES = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "organization_on_hold",
        "credits_required",
    }
)

#: Status -> what we call it. These are tried again (errors page 2026-11; 52x come from the proxy
#: in front of the API when it cannot reach it).
RETRYABLE = {
    408: "request timeout",
    409: "conflict",
    429: "rate limit",
    500: "server error",
    502: "bad gateway",
    503: "unavailable",
    504: "gateway timeout",
    520: "proxy error",
    521: "proxy error",
    522: "proxy error",
    523: "proxy error",
    524: "proxy error",
    529: "overloaded",
}

#: Refused before any work was done: the tokens come back at once.
_TAKES_NOTHING = frozenset({429, 529})

#: Seconds: first and longest backoff, as the SDK has them (0.5 * 2**n up to 8).
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0


class Verdict(NamedTuple):
    """What to do about a refusal."""

    retry: bool
    #: In one or two words.
    reason: str
    #: The server's wish in seconds, or None.
    retry_after: Optional[float] = None
    #: Everything in this lane would be refused, too.
    pauses_lane: bool = False
    #: The server may have counted its tokens.
    keeps_tokens: bool = True


def judge(status: int, headers: Mapping[str, str], body: bytes, wall: float) -> Verdict:
    """The verdict on a refusal; *wall* is now in seconds since 1970, for dates in headers."""
    wish = headers.get("x-should-retry")
    after = retry_after(headers, wall)
    reason = RETRYABLE.get(status, f"status {status}")
    keeps = status not in _TAKES_NOTHING
    if wish == "false" or error_code(read_json(body)) in SPEND_CODES:
        return Verdict(False, reason, after, keeps_tokens=keeps)
    if status == 429 and after is None and wish != "true":
        # "Not sent with the spend-cap 429": without it nobody knows when it would pass.
        return Verdict(False, "spend limit", keeps_tokens=False)
    retry = status in RETRYABLE or wish == "true"
    return Verdict(retry, reason, after, status in _TAKES_NOTHING and after is not None, keeps)


def retry_after(headers: Mapping[str, str], wall: float) -> Optional[float]:
    """Seconds the server asks us to wait, from any of its three spellings; garbage is None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    seconds = _number(text)
    return seconds if seconds is not None else _seconds_until(text, wall)


def _number(text: Optional[str]) -> Optional[float]:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _seconds_until(date: Optional[str], wall: float) -> Optional[float]:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date or "").timestamp() - wall)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row (from 1): exponential, equal jitter."""
    ceiling = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * random.uniform(0.5, 1.0)


def read_json(body: bytes) -> Any:
    """The body as JSON; None if it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None
    except RecursionError:
        return None


def error_code(body: Any) -> Optional[str]:
    """``error.details.error_code`` of an error body."""
    for name in ("error", "details", "error_code"):
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, str) else None


def read_message(body: bytes, request_id: Optional[str]) -> dict[str, Any]:
    """A whole message; raises :class:`BrokenAnswer` for anything else."""
    answer = read_json(body)
    if not isinstance(answer, dict):
        raise broken(f"{len(body)} bytes that are not a JSON object", request_id)
    if answer.get("type") != "message" or not isinstance(answer.get("content"), list):
        raise broken("a JSON object that is not a message", request_id)
    return answer


def broken(what: str, request_id: Optional[str]) -> BrokenAnswer:
    """The error for a 200 that is not a whole message."""
    return BrokenAnswer(
        f"the server answered 200 with {what} (request-id {request_id}); it is not sent again, "
        "as it may be billed; something between here and the API may have changed it",
        status=200,
        request_id=request_id,
    )


def read_usage(message: Mapping[str, Any]) -> Optional[Usage]:
    """The tokens of a message; None if it does not say."""
    usage = message.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(*(_count(usage.get(name)) for name in Usage._fields))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0

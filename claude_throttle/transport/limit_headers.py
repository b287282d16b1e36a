"""Reads rate limits as the server reports them: in headers, and in the text of a refusal.

Values come from a network, perhaps by way of a proxy that rewrites them, so each is checked and an
impossible one is left out: the pacer divides by them. Some accounts get no limit headers at all
(anthropic-sdk-typescript#450, 2024), and OAuth traffic gets others; both mean an empty result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from claude_throttle.core.domain.feedback import (
    NO_RATE_LIMITS,
    Feedback,
    RampLimit,
    RateLimit,
    StatedLimit,
)
from claude_throttle.transport.limit_values import (
    KINDS_BY_NAME,
    LEAST_LIMIT,
    MOST_UNITS,
    PERIODS,
)

#: The field of a :class:`Cost`, and the names of the two headers with its limit and what is left of
#: it (rate-limit page, 2026-09). The combined ``anthropic-ratelimit-tokens-*`` are not read: they
#: give the sum of input and output tokens, for which no limit of its own exists.
_HEADERS = tuple(
    (kind, f"anthropic-ratelimit-{name}-limit", f"anthropic-ratelimit-{name}-remaining")
    for name, kind in KINDS_BY_NAME.items()
)

# Half of what NamedTuple's own constructor takes; three in each answer.
_new = tuple.__new__

#: Names of headers with limits that are not the API's own.
_OTHER_NAMES = re.compile(r"(?:^| |llm[_-]provider-)(?:x-)?(?:rate-?limit|llm[_-]provider-)")

#: Finds the quota in "…rate limit of 30,000 input tokens per minute…" (refusals of 2025 and 2026).
_PER_MINUTE = re.compile(r"(requests|input tokens|output tokens) per minute")

#: "…exceed your organization's rate limit of 30,000 input tokens per minute…", and older wordings
#: with the organization in between. A gateway may quote it within words of its own.
_STATED = re.compile(
    r"(?i)\blimit\b.{0,200}?\bof "
    r"(\d{1,3}(?:[,._\u202f\xa0 ]\d{3})+|\d{1,20}|\d{1,9}(?:\.\d{1,9})?[km]) "
    r"(?:fast mode |total |uncached )?(?:(input|prompt|output|completion) )?(request|token)s?"
    r" ?(?:per|a|every|/) ?(min(?:ute)?\b|hour|day)",
    re.S,
)
_STATED_KINDS = {
    "": "tokens",
    "input": "input_tokens",
    "prompt": "input_tokens",
    "output": "output_tokens",
    "completion": "output_tokens",
}
#: Characters of a message that are looked through.
LONGEST_WORDS = 10_000

#: "Your current limit is 58,276 …, and will increase to 68,276 at the next minute boundary."
_GROWTH = re.compile(
    r"current limit is (\d[\d,]{0,20}).{0,200}?increase to (\d[\d,]{0,20})(?![\d,])", re.S
)

#: "You will regain access on 2026-09-01 at 00:00 UTC."
_DATE = re.compile(r"\b(\d{4}-\d{2}-\d{2}(?: at \d{2}:\d{2} UTC)?)")


def read_limits(headers: Mapping[str, str], status: Optional[int] = None) -> Feedback:
    """What response headers show of the limits; missing and impossible values are left out.

    ``-remaining`` is rounded to the nearest thousand tokens. ``-reset`` is not read: it is the time
    of the *full* refill, long after a call may leave, and 1970 was seen in it (2026-02).
    """
    found: dict[str, RateLimit] = {}
    for kind, limit_name, remaining_name in _HEADERS:
        text = headers.get(limit_name)
        if text is None:
            continue
        try:
            limit, remaining = float(text), float(headers.get(remaining_name, ""))
        except ValueError:
            continue
        if LEAST_LIMIT <= limit <= MOST_UNITS and 0.0 <= remaining <= MOST_UNITS:
            found[kind] = _new(RateLimit, (limit, remaining))
    names, others = " ".join(headers).lower(), None
    if len(found) < len(_HEADERS) and _OTHER_NAMES.search(names):
        found = _with_relayed(headers, found)
    if "-fast-" in names or "-priority-" in names or "-unified-" in names:
        from claude_throttle.transport.other_limits import read_other_limits  # rare

        others = read_other_limits(headers)
    return Feedback(rate_limits=found or NO_RATE_LIMITS, status=status, others=others)


def _with_relayed(headers: Mapping[str, str], found: dict[str, RateLimit]) -> dict[str, RateLimit]:
    """*found*, and what a relay shows of the quotas that are not in it."""
    from claude_throttle.transport.relay_limits import read_relayed  # rare

    relayed = read_relayed(headers)
    if "input_tokens" in found or "output_tokens" in found:
        relayed.pop("tokens", None)  # the sum of both, which is no limit of its own
    return {**relayed, **found}


def refused_kind(message: str) -> Optional[str]:
    """The quota that a refusal was about, as a field of :class:`Cost`; None if it names none."""
    found = _PER_MINUTE.search(message)
    return found.group(1).replace(" ", "_") if found else None


def read_stated(message: str) -> Optional[StatedLimit]:
    """The limit that a refusal names in words; None if it names none that makes sense."""
    found = _STATED.search(message[:LONGEST_WORDS])
    if found is None:
        return None
    digits, which, unit, period = found.groups()
    kind = "requests" if unit.lower() == "request" else _STATED_KINDS[(which or "").lower()]
    scale = {"k": 1e3, "m": 1e6}.get(digits[-1].lower())
    limit = float(digits[:-1]) * scale if scale else float(re.sub(r"\D", "", digits))
    if not LEAST_LIMIT <= limit <= MOST_UNITS:
        return None
    period = period.lower()
    return StatedLimit(kind, limit, PERIODS["minute" if period == "min" else period])


def read_growth(message: str) -> Optional[RampLimit]:
    """The limits that a ramp refusal names, for now and from the next minute on; None for none."""
    found = _GROWTH.search(message)
    if found is None:
        return None
    now, then = (float(group.replace(",", "")) for group in found.groups())
    return RampLimit(refused_kind(message) or "input_tokens", now, then) if 0 < now < then else None


def read_date(message: str) -> Optional[str]:
    """The day access comes back, in the server's own words."""
    found = _DATE.search(message)
    return found.group(1) if found else None

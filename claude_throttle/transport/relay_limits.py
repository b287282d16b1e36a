"""Reads rate limits under other names than the API's: in the headers of relays and gateways.

Read only where the API's own headers are missing. Known are ``x-ratelimit-limit-requests`` (OpenAI,
LiteLLM, relays), ``x-ratelimit-limit-minute`` (Kong), ``ratelimit-limit`` and ``ratelimit-policy``
(drafts of the IETF), each with its ``-remaining`` and ``-reset``, and what LiteLLM passes on as
``llm_provider-…``. A limit that names no period is taken for one of a minute. What a relay says may
be wrong, so each value is checked, and the pacer trusts refusals more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from claude_throttle.core.domain.feedback import RateLimit, RelayedLimit
from claude_throttle.transport.limit_values import KINDS_BY_NAME, LEAST_LIMIT, MOST_UNITS, PERIODS
from claude_throttle.transport.times import seconds_until

#: Seconds. A reset further away says nothing about a limit: after a day the server is asked again.
LONGEST_RESET_SECONDS = 86_400.0

#: The most credible family first.
_FAMILIES = ("anthropic-ratelimit", "x-ratelimit", "x-rate-limit", "ratelimit")
_NAME = re.compile(rf"(llm[_-]provider-)?({'|'.join(_FAMILIES)})((?:-[a-z]+)*)")
_ITEMS = frozenset({"limit", "remaining", "reset", "policy"})
_KINDS = {
    **KINDS_BY_NAME,
    "": "requests",
    "req": "requests",
    "request": "requests",
    "tokens": "tokens",
    "prompt-tokens": "input_tokens",
    "completion-tokens": "output_tokens",
}

#: "100", "10,000", "100, 100;w=60", "100;window=60": the number that counts comes first.
_AMOUNT = re.compile(r"\s*(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)\s*(?:[,;].*)?")
_WINDOW = re.compile(r";\s*w(?:indow)?\s*=\s*(\d+)")
#: '"default";r=50;t=30', "limit=100, remaining=50, reset=5".
_FIELD = re.compile(r"\b(r|t|q|w|limit|remaining|reset)\s*=\s*(\d+)")
_FIELD_NAMES = {"r": "remaining", "t": "reset", "q": "limit"}


class _Bucket(NamedTuple):
    """What the names of headers of one limit have in common."""

    #: The place of its family in the order of belief.
    rank: int
    family: str
    kind: str
    #: Seconds; None if the name tells none.
    period: Optional[float]


def read_relayed(headers: Mapping[str, str]) -> dict[str, RateLimit]:
    """The limits that a relay shows, by kind, or "kind/seconds" where it is none of a minute."""
    found: dict[str, RateLimit] = {}
    for bucket, told in _buckets(headers):
        limit, remaining = read_amount(told.get("limit")), read_amount(told.get("remaining"))
        if limit is None or remaining is None or not LEAST_LIMIT <= limit <= MOST_UNITS:
            continue
        period = bucket.period or _window_of(told) or 60.0
        if period < 60.0:
            limit, period = limit * 60.0 / period, 60.0
        key = bucket.kind if period == 60.0 else f"{bucket.kind}/{period:g}"
        if key not in found:
            shown = RelayedLimit(limit, min(limit, remaining))
            found[key] = shown.of(bucket.kind, period, f"{bucket.family} headers")
    if "input_tokens" in found or "output_tokens" in found:
        found.pop("tokens", None)  # then it is their sum, as at the API, and no limit of its own
    return found


def read_reset(headers: Mapping[str, str], wall: float) -> Optional[float]:
    """Seconds until a limit of which nothing is left has units again; None if none says so."""
    waits = [
        seconds
        for _, told in _buckets(headers)
        if read_amount(told.get("remaining")) == 0
        and (seconds := reset_seconds(told.get("reset"), wall))
    ]
    return max(waits, default=None)


def _buckets(headers: Mapping[str, str]) -> list[tuple[_Bucket, dict[str, str]]]:
    """The values of each limit by what they are, the most credible limit first."""
    found: dict[_Bucket, dict[str, str]] = {}
    for name in headers:
        told = _NAME.fullmatch(name.lower())
        if told is None or (told[2] == _FAMILIES[0] and told[1] is None):
            continue
        for bucket, item, value in _read_header(told, headers[name]):
            found.setdefault(bucket, {})[item] = value
    return sorted(found.items(), key=lambda pair: pair[0][0])


def _read_header(told: re.Match[str], value: str) -> Iterator[tuple[_Bucket, str, str]]:
    """What one header says, as (limit, item, value); nothing if a part of its name is unknown."""
    words = told[3].split("-")[1:]
    items = [word for word in words if word in _ITEMS]
    periods = [PERIODS[word] for word in words if word in PERIODS]
    kind = _KINDS.get("-".join(w for w in words if w not in _ITEMS and w not in PERIODS))
    if kind is None or len(items) > 1 or len(periods) > 1:
        return
    family = "llm_provider" if told[1] else told[2]
    rank = _FAMILIES.index(told[2]) - len(_FAMILIES) * bool(told[1])
    bucket = _Bucket(rank, family, kind, periods[0] if periods else None)
    if items and items[0] != "policy":
        yield bucket, items[0], value
    if not items or items[0] == "policy":
        for name, number in _FIELD.findall(value):
            yield bucket, _FIELD_NAMES.get(name, name), number
    window = _WINDOW.search(value)
    if window is not None:
        yield bucket, "w", window[1]


def _window_of(told: Mapping[str, str]) -> Optional[float]:
    window = read_amount(told.get("w"))
    return window if window and window <= LONGEST_RESET_SECONDS * 31 else None


def read_amount(text: Optional[str]) -> Optional[float]:
    """The first number of a header's value; None for anything that begins with none."""
    found = _AMOUNT.fullmatch(text or "")
    return float(found[1].replace(",", "")) if found and len(found[1]) < 30 else None


def reset_seconds(text: Optional[str], wall: float) -> Optional[float]:
    """Seconds until a reset: "6m0s", "250ms", "1.5", an epoch, an RFC 3339 or HTTP date.

    *wall* is now in seconds since 1970. None for the past, for what is too far away, for garbage.
    """
    seconds = seconds_until(text or "", wall)
    return seconds if seconds is not None and 0 < seconds <= LONGEST_RESET_SECONDS else None

"""Reads the limits that are apart from a model's own: fast mode, Priority Tier, usage windows.

Loaded at the first answer that shows any. Only fast mode's are paced on, and only by calls that ask
for it; the others are shown. A window that is used up pauses: ``anthropic-ratelimit-unified-*``
come with tokens of OAuth, for five hours, seven days, and some models within those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from claude_throttle.core.domain.feedback import (
    ACCOUNT,
    RATE,
    Feedback,
    OtherLimits,
    RateLimit,
    RateLimits,
    UsageWindow,
)
from claude_throttle.transport.limit_values import (
    KINDS_BY_NAME,
    LEAST_LIMIT,
    MOST_UNITS,
    read_number,
)
from claude_throttle.transport.times import instant_of, since_1970

#: "anthropic-ratelimit-unified-7d_oi-reset", or without a window for all together.
_UNIFIED = re.compile(
    r"anthropic-ratelimit-unified-(?:([a-z0-9_]{1,24})-)?(status|utilization|reset)"
)

#: Windows that are read at most.
MOST_WINDOWS = 16

#: The name of what is said of all windows together.
OVERALL = "overall"

#: What is paid for beyond the windows: refused wherever nobody has ordered it.
_BEYOND = "overage"

REJECTED = "rejected"

_STATUS = re.compile(r"[a-z_]{1,32}")


def read_other_limits(headers: Mapping[str, str]) -> OtherLimits:
    """All of them; missing and impossible values are left out."""
    return OtherLimits(
        _limits(headers, "anthropic-fast-"),
        _limits(headers, "anthropic-priority-"),
        _windows(headers),
    )


def _limits(headers: Mapping[str, str], prefix: str) -> RateLimits:
    """Those in headers that begin so. A limit of 0 is one, too: fast mode is not to be had then."""
    found = {}
    for name, kind in KINDS_BY_NAME.items():
        limit = read_number(headers.get(f"{prefix}{name}-limit"))
        remaining = read_number(headers.get(f"{prefix}{name}-remaining"))
        if limit == 0:
            found[kind] = RateLimit(0.0, 0.0)
        elif limit is None or remaining is None:
            continue
        elif limit >= LEAST_LIMIT and max(limit, remaining) <= MOST_UNITS:
            found[kind] = RateLimit(limit, remaining)
    return found


def _windows(headers: Mapping[str, str]) -> Mapping[str, UsageWindow]:
    windows: dict[str, UsageWindow] = {}
    for header in headers:
        found = _UNIFIED.fullmatch(header.lower())
        if found is None:
            continue
        name, field = found.group(1) or OVERALL, found.group(2)
        if name not in windows and len(windows) >= MOST_WINDOWS:
            continue
        windows[name] = _with(windows.get(name, UsageWindow()), field, headers.get(header) or "")
    return windows


def _with(window: UsageWindow, field: str, text: str) -> UsageWindow:
    text = text.strip()
    if field == "status":
        status = text.lower()
        return window._replace(status=status if _STATUS.fullmatch(status) else "")
    if field == "utilization":
        return window._replace(utilization=read_number(text))
    return window._replace(resets_at=_instant(text))


def _instant(text: str) -> Optional[float]:
    """Seconds since 1970, of a number or an RFC 3339 date."""
    number = read_number(text)
    return instant_of(text) if number is None else since_1970(number)


def with_window_pause(
    feedback: Feedback, others: OtherLimits, wall: float, final: bool
) -> Feedback:
    """*feedback* on a refusal, with the pause that used up windows ask for.

    *final*: the server wants no other try.
    """
    if feedback.status != 429 or feedback.cause == ACCOUNT:
        return feedback
    everybody, here = _rejected_seconds(others.windows, wall)
    longest = max(everybody, here)
    if not longest:
        return feedback
    return feedback._replace(
        cause=RATE,
        retry_after=max(longest, feedback.retry_after or 0.0),
        final=final,
        others=others._replace(account_pause=everybody),
    )


def _rejected_seconds(windows: Mapping[str, UsageWindow], wall: float) -> tuple[float, float]:
    """Seconds for which a used up window refuses the whole account, and the models of one lane.

    The word on all windows together decides, if there is one: what is used beyond one may be paid
    for. The latest reset counts, since each window must let a call pass.
    """
    overall = windows.get(OVERALL, UsageWindow(REJECTED))
    everybody = here = 0.0
    if overall.status not in ("", REJECTED):
        return everybody, here
    rejected = {
        name: max(0.0, window.resets_at - wall)
        for name, window in windows.items()
        if window.status == REJECTED and window.resets_at is not None and name != _BEYOND
    }
    single = {name: seconds for name, seconds in rejected.items() if name != OVERALL}
    for name, seconds in (single or rejected).items():
        if "_" in name:  # "7d_oi": of some models only
            here = max(here, seconds)
        else:
            everybody = max(everybody, seconds)
    return everybody, here

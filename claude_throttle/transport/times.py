"""Reads durations and instants in the forms in which servers and gateways write them.

As numbers, in words, as dates. A number so large that it would be decades is an instant since 1970.
Loaded where a refusal or a relay names a time in another form than a small number of seconds.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Optional

from claude_throttle.transport.limit_values import FIRST_INSTANT, read_number

#: From here on, an instant is in milliseconds.
_FIRST_MILLISECONDS = 1e11

#: "5 seconds", "1m".
TIME = (
    r"(?:\d+(?:\.\d+)?|\ban?|\bone)\s*"
    r"(?:milliseconds?|millis|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
#: "1m30s", "5 seconds", "one hour and 5 minutes".
SPAN = rf"{TIME}(?:(?:\s*,)?(?:\s*and)?\s*{TIME})*"
_PART = re.compile(r"(\d+(?:\.\d+)?|an?|one)\s*(milli|ms|[smhd])[a-z]*\s*,?\s*(?:and\s*)?", re.I)
_SECONDS = {"milli": 0.001, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

#: "02:30:15", "1.02:30:15" (days first): Azure's API Management. "02:30:15 UTC" is an instant.
CLOCK = r"(?:\d+\.)?\d{1,2}:\d\d:\d\d(?! ?(?:utc|gmt|z\b|[ap]\.?m\b|on\b))"

_DURATION = re.compile(rf"{SPAN}|{CLOCK}", re.I)


def seconds_until(text: str, wall: float) -> Optional[float]:
    """Seconds until what *text* names, a duration or an instant; None for garbage.

    *wall* is now in seconds since 1970. The past is 0.0.
    """
    text = text[:100].strip()
    number = read_number(text)
    if number is not None:
        return seconds_from(number, wall)
    if _DURATION.fullmatch(text):
        return duration_of(text)
    at = instant_of(text)
    return None if at is None else max(0.0, at - wall)


def seconds_from(number: float, wall: float) -> float:
    """A number of seconds; one that can only be an instant since 1970 is counted from *wall* on."""
    return number if number < FIRST_INSTANT else max(0.0, since_1970(number) - wall)


def since_1970(number: float) -> float:
    """An instant in seconds since 1970, of its seconds or its milliseconds."""
    return number / 1000.0 if number >= _FIRST_MILLISECONDS else number


def duration_of(text: str) -> float:
    """The seconds in a text that matches :data:`SPAN` or :data:`CLOCK`."""
    if ":" in text:
        days, _, clock = text.rpartition(".")
        hours, minutes, seconds = map(float, clock.split(":"))
        return float(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds
    return sum(
        _SECONDS[unit.lower()] * (float(number) if number[0].isdigit() else 1.0)
        for number, unit in _PART.findall(text)
    )


def instant_of(text: str) -> Optional[float]:
    """The seconds since 1970 of an RFC 3339 or HTTP date, in UTC if it names no zone, or None."""
    for read, form in ((datetime.fromisoformat, _plain(text)), (parsedate_to_datetime, text)):
        try:
            date = read(form)
            # "-0000" gives one without a zone, too, which would be read as this machine's own.
            return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        except (TypeError, ValueError, IndexError, OverflowError):
            continue
    return None


# Before 3.11, Python reads no "Z", no "+0000", and no fractions but of three or six digits.
def _plain(date: str) -> str:
    date = re.sub(r"\s*(?:Z|UTC|GMT)$", "+00:00", re.sub(r"\.\d+", "", date.strip().upper()))
    return re.sub(r"\s*([+-]\d\d):?(\d\d)$", r"\1:\2", date)

"""The fake server's rate limits: continuously refilled buckets, one set per model.

Pure arithmetic: every instant (``now``, seconds on one monotonic scale) is an argument, nothing
waits. Not thread-safe; :class:`claude_throttle.testing.service.Service` holds its lock around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple, Optional

#: Refilling in floats leaves crumbs; a client exactly on time must not be refused for one.
CRUMB = 1e-6


@dataclass(frozen=True)
class Limits:
    """What the server allows; ``None`` means unlimited (for a burst: a whole minute's worth)."""

    #: Requests per minute and model.
    rpm: Optional[float] = None
    #: Input tokens per minute and model.
    itpm: Optional[float] = None
    #: Output tokens per minute and model.
    otpm: Optional[float] = None
    #: Requests that may come at once.
    burst: Optional[float] = None
    #: Input tokens that may come at once.
    itpm_burst: Optional[float] = None
    #: Output tokens that may be produced at once.
    otpm_burst: Optional[float] = None
    #: Requests in flight, over all models.
    max_concurrency: Optional[int] = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be more than 0, or None (got {value!r})")


class Bucket:
    """Holds at most *capacity*, starts full, gains *per_minute* / 60 each second."""

    def __init__(self, per_minute: float, capacity: float, now: float) -> None:
        self.per_minute = per_minute
        self.capacity = capacity
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """What is in the bucket at *now*; negative while output tokens are owed."""
        gained = max(0.0, now - self._at) * self.per_minute / 60.0
        return min(self.capacity, self._level + gained)

    def take(self, amount: float, now: float) -> None:
        """Take *amount* out, even if the level falls below zero."""
        self._level = self.level(now) - amount
        self._at = max(now, self._at)

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until *amount* (or a full bucket, if that is less) is there; 0.0 if it is."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * 60.0 / self.per_minute)

    def reshape(self, per_minute: float, capacity: float, now: float) -> None:
        """Change rate and size from *now* on; what is in the bucket stays, if it fits."""
        self._level = min(capacity, self.level(now))
        self._at = max(now, self._at)
        self.per_minute = per_minute
        self.capacity = capacity


class Refusal(NamedTuple):
    """Why a request is not let in."""

    #: ``"requests"``, ``"input tokens"`` or ``"output tokens"``.
    what: str
    per_minute: float
    #: Whole seconds, at least 1.
    retry_after: int


class Standing(NamedTuple):
    """How one limit stands, for the headers."""

    #: ``"requests"``, ``"input-tokens"``, ``"output-tokens"`` or ``"tokens"``.
    name: str
    per_minute: float
    remaining: float
    seconds_until_full: float


class ModelQuotas:
    """The buckets of one model."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._buckets: dict[str, Bucket] = {}
        self.reshape(limits, now)

    def reshape(self, limits: Limits, now: float) -> None:
        """Put *limits* in force from *now* on. A limit that was not there before starts full."""
        for what, per_minute, burst in (
            ("requests", limits.rpm, limits.burst),
            ("input tokens", limits.itpm, limits.itpm_burst),
            ("output tokens", limits.otpm, limits.otpm_burst),
        ):
            self._reshape_one(what, per_minute, burst, now)

    def _reshape_one(
        self, what: str, per_minute: float | None, burst: float | None, now: float
    ) -> None:
        if per_minute is None:
            self._buckets.pop(what, None)
            return
        capacity = per_minute if burst is None else burst
        if what in self._buckets:
            self._buckets[what].reshape(per_minute, capacity, now)
        else:
            self._buckets[what] = Bucket(per_minute, capacity, now)

    def admit(self, input_tokens: int, now: float) -> Refusal | None:
        """Let one request in and take its amounts, or say why not and take nothing."""
        # Output is only known afterwards: a level above zero is enough.
        wanted = {"requests": 1.0, "input tokens": float(input_tokens), "output tokens": 2 * CRUMB}
        for what, bucket in self._buckets.items():
            if bucket.level(now) + CRUMB < wanted[what]:
                return _refusal(what, bucket, wanted[what], now)
        for what in ("requests", "input tokens"):
            if what in self._buckets:
                self._buckets[what].take(wanted[what], now)
        return None

    def charge_output(self, output_tokens: float, now: float) -> None:
        """Take what was produced; the bucket may go below zero."""
        if "output tokens" in self._buckets:
            self._buckets["output tokens"].take(output_tokens, now)

    def standings(self, now: float) -> list[Standing]:
        """Every limit there is; ``tokens`` is input and output together, when both are limited."""
        found = [_standing(what, bucket, now) for what, bucket in self._buckets.items()]
        tokens = [standing for standing in found if standing.name != "requests"]
        if len(tokens) == 2:
            found.append(_together(*tokens))
        return found


def _refusal(what: str, bucket: Bucket, wanted: float, now: float) -> Refusal:
    # An output bucket at zero is still refused, so the wait goes on to the first whole token.
    target = 1.0 if what == "output tokens" else wanted
    seconds = bucket.seconds_until(target, now)
    return Refusal(what, bucket.per_minute, max(1, math.ceil(seconds - CRUMB)))


def _standing(what: str, bucket: Bucket, now: float) -> Standing:
    until_full = bucket.seconds_until(bucket.capacity, now)
    name = what.replace(" ", "-")
    return Standing(name, bucket.per_minute, max(0.0, bucket.level(now)), until_full)


def _together(first: Standing, second: Standing) -> Standing:
    return Standing(
        "tokens",
        first.per_minute + second.per_minute,
        first.remaining + second.remaining,
        max(first.seconds_until_full, second.seconds_until_full),
    )

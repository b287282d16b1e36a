"""The rate limits of a simulated server: continuously refilled buckets, one set per model.

Pure arithmetic: every instant (``now``, seconds on one monotonic scale) is an argument. Not
thread-safe; :class:`claude_throttle.testing.service.Service` holds its lock around it. Both the
fake server (sockets, real time) and the simulated one (neither) enforce these, so a result of the
simulation holds against the fake server, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple, Optional, Union

from claude_throttle.simulation.acceleration import STEP, AccelerationLimit, RampRefusal
from claude_throttle.simulation.buckets import CRUMB, SimulatedBucket
from claude_throttle.simulation.others import OtherClients

#: When the rate-limit headers are computed: as a request is admitted, or as its answer is sent.
ADMISSION, ANSWER = "admission", "answer"


@dataclass(frozen=True)
class SimulatedLimits:
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
    #: The burst that the headers are computed from; ``None``: the true one. What is enforced stays
    #: ``burst``.
    promised_burst: Optional[float] = None
    #: Requests per minute and bucket that other clients make, evenly spaced; each is admitted if
    #: the bucket holds one.
    others_rpm: Optional[float] = None
    #: Input tokens in the first minute: the cap on growing use.
    ramp: Optional[float] = None
    #: Input tokens the ramp's cap grows by with each minute of use; ``None``: 10,000.
    ramp_step: Optional[float] = None
    #: Requests per minute to ``count_tokens``, over all models.
    count_rpm: Optional[float] = None
    #: Requests to ``count_tokens`` that may come at once.
    count_burst: Optional[float] = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be more than 0, or None (got {value!r})")


class Refusal(NamedTuple):
    """The refusal of a request."""

    #: ``"requests"``, ``"input tokens"`` or ``"output tokens"``.
    what: str
    per_minute: float
    #: Whole seconds, at least 1.
    retry_after: int


class QuotaStatus(NamedTuple):
    """The state of one limit, for the headers."""

    #: ``"requests"``, ``"input-tokens"``, ``"output-tokens"`` or ``"tokens"``.
    name: str
    per_minute: float
    remaining: float
    seconds_until_full: float


AnyRefusal = Union[Refusal, RampRefusal]


class ModelQuotas:
    """The buckets of one model, or of models that share them. Not thread-safe."""

    def __init__(self, limits: SimulatedLimits, now: float) -> None:
        self._buckets: dict[str, SimulatedBucket] = {}
        # What the headers are computed from, if that is not the truth; never enforced.
        self._shown: dict[str, SimulatedBucket] = {}
        self._others = OtherClients(now)
        self._ramp: Optional[AccelerationLimit] = None
        self.reshape(limits, now)

    @property
    def others_taken(self) -> int:
        """Requests of other clients that were admitted, up to the last call."""
        return self._others.taken

    def reshape(self, limits: SimulatedLimits, now: float) -> None:
        """Put *limits* in force from *now* on. A bucket that is new starts full."""
        self.catch_up(now)
        for what, per_minute, burst in (
            ("requests", limits.rpm, limits.burst),
            ("input tokens", limits.itpm, limits.itpm_burst),
            ("output tokens", limits.otpm, limits.otpm_burst),
        ):
            _reshape(self._buckets, what, per_minute, burst, now)
        promised = None if limits.promised_burst is None else limits.rpm
        _reshape(self._shown, "requests", promised, limits.promised_burst, now)
        self._others.reshape(limits.others_rpm, now)
        self._reshape_ramp(limits.ramp, limits.ramp_step, now)

    def _reshape_ramp(self, cap: float | None, step: float | None, now: float) -> None:
        if cap is None:
            self._ramp = None
            return
        start = (cap, STEP if step is None else step)
        # Other limits may change without throwing back what the cap has grown to.
        if self._ramp is None or self._ramp.start != start:
            self._ramp = AccelerationLimit(*start, now)

    def catch_up(self, now: float) -> None:
        """Admit the other clients' requests up to *now*; admit() and standings() do so, too."""
        bucket = self._buckets.get("requests")
        for at in self._others.due(now):
            if bucket is None or bucket.level(at) + CRUMB >= 1.0:
                self._others.taken += 1
                self._take("requests", 1.0, at)

    def admit(self, input_tokens: int, now: float, take: bool = True) -> AnyRefusal | None:
        """Admit one request and take its units, unless *take* is false; or return the refusal.

        All buckets are checked before any is charged: a refused request must not use up a quota.
        Output is not known yet; it is charged as it is produced, by :meth:`charge_output`.
        """
        self.catch_up(now)
        # Its output is known only afterwards: a level above zero is enough.
        wanted = {"requests": 1.0, "input tokens": float(input_tokens), "output tokens": 2 * CRUMB}
        for what, bucket in self._buckets.items():
            if bucket.level(now) + CRUMB < wanted[what]:
                return _refusal(what, bucket, wanted[what], now)
        refusal = self._ramp.refusal(input_tokens, now) if self._ramp is not None else None
        if refusal is not None:
            return refusal
        if not take:
            return None
        for what in ("requests", "input tokens"):
            self._take(what, wanted[what], now)
        if self._ramp is not None:
            self._ramp.take(input_tokens)
        return None

    def charge_output(self, output_tokens: float, now: float) -> None:
        """Take the output of an answer; the level may fall below zero."""
        self._take("output tokens", output_tokens, now)

    def standings(self, now: float) -> list[QuotaStatus]:
        """The state of every limit; ``tokens`` is input and output together, where both are."""
        self.catch_up(now)
        told = {**self._buckets, **self._shown}
        found = [_standing(what, bucket, now) for what, bucket in told.items()]
        tokens = [standing for standing in found if standing.name != "requests"]
        if len(tokens) == 2:
            found.append(_together(*tokens))
        return found

    def _take(self, what: str, amount: float, now: float) -> None:
        for buckets in (self._buckets, self._shown):
            if what in buckets:
                buckets[what].take(amount, now)


def _reshape(
    buckets: dict[str, SimulatedBucket],
    what: str,
    per_minute: float | None,
    burst: float | None,
    now: float,
) -> None:
    if per_minute is None:
        buckets.pop(what, None)
        return
    capacity = per_minute if burst is None else burst
    if what in buckets:
        buckets[what].reshape(per_minute, capacity, now)
    else:
        buckets[what] = SimulatedBucket(per_minute, capacity, now)


def _refusal(what: str, bucket: SimulatedBucket, wanted: float, now: float) -> Refusal:
    """The refusal by one bucket, with the whole seconds until it would admit the same request."""
    # An output bucket at zero is still refused, so the wait goes on to the first whole token.
    target = 1.0 if what == "output tokens" else wanted
    seconds = bucket.seconds_until(target, now)
    return Refusal(what, bucket.per_minute, max(1, math.ceil(seconds - CRUMB)))


def _standing(what: str, bucket: SimulatedBucket, now: float) -> QuotaStatus:
    until_full = bucket.seconds_until(bucket.capacity, now)
    name = what.replace(" ", "-")
    return QuotaStatus(name, bucket.per_minute, max(0.0, bucket.level(now)), until_full)


def _together(first: QuotaStatus, second: QuotaStatus) -> QuotaStatus:
    """The sum of input and output: the ``tokens`` headers, which name no limit of their own."""
    return QuotaStatus(
        "tokens",
        first.per_minute + second.per_minute,
        first.remaining + second.remaining,
        max(first.seconds_until_full, second.seconds_until_full),
    )

"""Quotas the caller told: a ceiling, whatever the server says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing import gcra
from claude_throttle.errors import QuotaTooSmall

#: Which part of a cost a quota counts.
KINDS = {
    "rpm": "requests",
    "rpd": "requests",
    "itpm": "input_tokens",
    "otpm": "output_tokens",
    "tpm": "tokens",
    "tpd": "tokens",
}

#: The quota a minute of each kind of units.
A_MINUTE = {"requests": "rpm", "input_tokens": "itpm", "output_tokens": "otpm", "tokens": "tpm"}

#: Seconds' worth of tokens that may leave at once. Estimates err in both directions; without some
#: room to save what one call gave back, every overestimate would be time lost for good. Output
#: lengths scatter most. Small against the minute's worth a call may have at most.
INPUT_BURST_SECONDS = 1.0
OUTPUT_BURST_SECONDS = 5.0

#: Seconds. A quota over a longer period is a bucket that may be spent whole: nobody wants a
#: thousand requests a day to leave 86 s apart.
LONG_PERIOD_SECONDS = 3600.0


class ConfiguredQuota:
    """One quota and its instant. Not thread-safe: the lane's mutex guards it."""

    __slots__ = ("burst", "empty_at", "kind", "name", "quota", "rate", "since")

    def __init__(self, name: str, quota: Quota, burst: float, since: float = -math.inf) -> None:
        self.name = name
        #: When it was told: what was booked before was not booked here.
        self.since = since
        self.kind = KINDS[name]
        self.empty_at = -math.inf
        self.set(quota, burst)

    def set(self, quota: Quota, burst: float) -> None:
        """Another amount, another burst; the instant stays."""
        self.quota = quota
        self.rate = quota.rate
        self.burst = burst

    def level(self, now: float) -> float:
        """Units that may leave now; negative while more has left than there was."""
        return gcra.level(self.empty_at, self.rate, self.burst, now)

    def unbook(self, units: float) -> None:
        """So much of what leaves next was booked already, when its slot was reserved."""
        self.empty_at -= units / self.rate

    def hold_until(self, at: float) -> None:
        """At that instant there will be one unit, and no more: a pause is not saved up for."""
        self.empty_at = max(self.empty_at, at - 1.0 / self.rate)

    def reshape(self, quota: Quota, burst: float, now: float) -> None:
        """Another amount, another burst; the level stays where it is."""
        # What a smaller burst has not saved, a larger one must not find.
        self.empty_at = max(self.empty_at, now - self.burst / self.rate)
        self.empty_at = gcra.keep_level(self.empty_at, self.rate, quota.rate, now)
        self.set(quota, burst)


class ConfiguredQuotas:
    """All that the caller told for one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self) -> None:
        self._told: dict[str, ConfiguredQuota] = {}
        #: By kind: what headroom leaves of what was learned.
        self._ceilings: dict[str, ConfiguredQuota] = {}
        self._quotas: Mapping[str, Quota] = {}

    def __iter__(self) -> Iterator[ConfiguredQuota]:
        return iter(self._told.values())

    def _all(self) -> Iterable[ConfiguredQuota]:
        # Asked for four times in each call, and mostly there is no ceiling.
        if not self._ceilings:
            return self._told.values()
        return (*self._told.values(), *self._ceilings.values())

    def by_name(self) -> Iterator[tuple[str, ConfiguredQuota]]:
        """All of them; what headroom leaves has the name of its kind with a word before it."""
        yield from self._told.items()
        for kind, ceiling in self._ceilings.items():
            yield f"ceiling {kind}", ceiling

    def reconfigure(self, quotas: Mapping[str, Quota], burst: float, now: float) -> None:
        """Keep other quotas from now on; where one stays, its level stays where it is."""
        known, self._quotas = self._told, dict(quotas)
        bursts = bursts_of(quotas, burst)
        self._told = {
            name: known.get(name) or ConfiguredQuota(name, quota, bursts[name], since=now)
            for name, quota in quotas.items()
        }
        for name, told in self._told.items():
            if name in known:
                told.reshape(quotas[name], bursts[name], now)

    def set_burst(self, burst: float, now: float) -> None:
        """Let so many requests leave at once from now on."""
        bursts = bursts_of(self._quotas, burst)
        for name, told in self._told.items():
            if told.burst != bursts[name]:
                told.reshape(told.quota, bursts[name], now)

    def leave(self, headroom: float, kind: str, limit: float, burst: float, now: float) -> None:
        """Leave a share of a learned limit to others."""
        quota, burst = Quota(limit * (1.0 - headroom)), max(1.0, burst * (1.0 - headroom))
        ceiling = self._ceilings.get(kind)
        if ceiling is None:
            self._ceilings[kind] = ConfiguredQuota(A_MINUTE[kind], quota, burst, since=now)
        elif (ceiling.quota, ceiling.burst) != (quota, burst):
            ceiling.reshape(quota, burst, now)

    def leave_nothing(self) -> None:
        """Others get nothing any more."""
        self._ceilings.clear()

    def require_fit(self, cost: Cost, model: str) -> None:
        """Raise :class:`QuotaTooSmall` if *cost* is more than a whole period's worth.

        Only its input is asked: generated tokens count as they come, and nobody knows them yet.
        What was learned may have changed: whoever is larger than that goes and finds out.
        """
        for told in self._told.values():
            amount = told.quota.amount
            if told.kind in ("input_tokens", "tokens") and cost.input_tokens > amount:
                raise QuotaTooSmall(
                    f"a call to {model} of about {cost.input_tokens:,.0f} input tokens can never "
                    f"leave under {told.name}={amount:,.0f}; shorten it or raise {told.name}"
                )

    def ready_at(self, cost: Cost) -> float:
        """The instant at which *cost* may leave."""
        at = -math.inf
        for told in self._all():
            units = getattr(cost, told.kind)
            # A retry whose tokens are still booked asks for none, and need not wait for any.
            if units > 0:
                at = max(at, gcra.ready_at(told.empty_at, told.rate, told.burst, units))
        return at

    def take(self, cost: Cost, now: float) -> None:
        """*cost* leaves now."""
        for told in self._all():
            units = getattr(cost, told.kind)
            if units > 0:
                told.empty_at = gcra.take(told.empty_at, told.rate, told.burst, units, now)

    def settle(self, change: Cost, booked_at: float) -> None:
        """*change* more was taken than was booked then."""
        for told in self._all():
            if told.since <= booked_at:
                told.empty_at += getattr(change, told.kind) / told.rate

    def hold_until(self, at: float) -> None:
        """Nothing leaves before that instant, and then not all at once."""
        for told in self._all():
            if told.name == "rpm":
                told.hold_until(at)


def bursts_of(quotas: Mapping[str, Quota], burst: float) -> dict[str, float]:
    """Units each quota lets leave at once."""
    requests = quotas.get("rpm")
    # A burst of n requests spans n - 1 intervals; give tokens the same span.
    span_seconds = (burst - 1.0) / requests.rate if requests is not None else 0.0
    return {name: _burst_of(name, quota, burst, span_seconds) for name, quota in quotas.items()}


def _burst_of(name: str, quota: Quota, burst: float, span_seconds: float) -> float:
    if quota.burst is not None:
        return quota.burst
    if quota.per > LONG_PERIOD_SECONDS:
        return quota.amount
    if KINDS[name] == "requests":
        return min(burst, max(1.0, quota.amount))
    least = OUTPUT_BURST_SECONDS if name == "otpm" else INPUT_BURST_SECONDS
    return min(quota.amount, quota.rate * max(span_seconds, least))

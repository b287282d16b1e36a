"""Quotas that the caller configured: a ceiling, whatever the server says.

Each is an instant of :mod:`gcra`. What the server's headers teach is kept apart, in
:mod:`learned_quotas`: a header never loosens or tightens a configured quota. Headroom below a
learned limit is kept here nevertheless, because it, too, is a ceiling that the user asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Decision
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

#: The quota per minute of each kind of units.
A_MINUTE = {"requests": "rpm", "input_tokens": "itpm", "output_tokens": "otpm", "tokens": "tpm"}

#: Seconds' worth of tokens that may leave at once. Estimates err in both directions; without some
#: room to save what one call gave back, every overestimate would be time lost for good. Output
#: lengths scatter most. Small against the minute's worth a call may have at most, and less than two
#: seconds' worth: a server whose bucket holds no more refused three calls of 300 where it was five.
INPUT_BURST_SECONDS = 1.0
OUTPUT_BURST_SECONDS = 1.5

#: Seconds. A quota over a longer period is a bucket that may be spent whole: a thousand requests a
#: day are not meant to leave 86 s apart.
LONG_PERIOD_SECONDS = 3600.0


class ConfiguredQuota:
    """One quota and its instant. Not thread-safe: the lane's mutex guards it.

    ``__slots__`` and plain floats, because :meth:`ConfiguredQuotas.decide` reads it for every call.
    """

    __slots__ = ("burst", "empty_at", "kind", "name", "quota", "rate", "since", "source")

    def __init__(
        self,
        name: str,
        quota: Quota,
        burst: float,
        since: float = -math.inf,
        kind: Optional[str] = None,
    ) -> None:
        self.name = name
        #: Where it comes from.
        self.source = "told"
        #: When it was configured: what was booked before was not booked here.
        self.since = since
        self.kind = kind or KINDS[name]
        self.empty_at = -math.inf
        self.quota = quota
        self.rate = quota.rate
        self.burst = burst

    def level(self, now: float) -> float:
        """Units that may leave now; negative while more has left than there was."""
        return gcra.level(self.empty_at, self.rate, self.burst, now)

    def unbook(self, units: float) -> None:
        """Take back *units* that a reservation in a store has booked here already.

        They are booked once more, by take(), when the call leaves.
        """
        self.empty_at -= units / self.rate

    def allow_one_at(self, at: float) -> None:
        """Let there be one unit at that instant, and no more: a pause is not saved up for."""
        self.empty_at = max(self.empty_at, at - 1.0 / self.rate)

    def change_rate(self, quota: Quota, burst: float, now: float) -> None:
        """Set another amount and another burst at *now*; the level stays where it is."""
        # What a smaller burst has not saved, a larger one must not find.
        self.empty_at = max(self.empty_at, now - self.burst / self.rate)
        self.empty_at = gcra.keep_level(self.empty_at, self.rate, quota.rate, now)
        self.quota, self.rate, self.burst = quota, quota.rate, burst


class ConfiguredQuotas:
    """All configured quotas of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self) -> None:
        self._configured: dict[str, ConfiguredQuota] = {}
        #: By kind: what headroom leaves of what was learned.
        self._ceilings: dict[str, ConfiguredQuota] = {}
        #: By kind and seconds: what a refusal or a relay told of quotas that no header of the API
        #: shows. They are kept here since they are of any kind and period, as these are.
        self.stated: dict[tuple[str, float], ConfiguredQuota] = {}
        #: All of them. Read on the way of each call, so it is not put together each time.
        self.in_force: tuple[ConfiguredQuota, ...] = ()
        self._quotas: Mapping[str, Quota] = {}

    def __iter__(self) -> Iterator[ConfiguredQuota]:
        return iter(self._configured.values())

    def _note_change(self) -> None:
        self.in_force = (
            *self._configured.values(),
            *self._ceilings.values(),
            *self.stated.values(),
        )

    def by_name(self) -> dict[str, ConfiguredQuota]:
        """All quotas with their names; a ceiling left by headroom is called "ceiling" and its kind.

        The names are keys in a shared store, so processes of different releases must agree on them.
        """
        ceilings = {f"ceiling {kind}": ceiling for kind, ceiling in self._ceilings.items()}
        stated = {quota.name: quota for quota in self.stated.values()}
        return {**self._configured, **ceilings, **stated}

    def replace_quotas(self, quotas: Mapping[str, Quota], burst: float, now: float) -> None:
        """Keep other quotas from now on; where one stays, its level stays where it is."""
        known, self._quotas = self._configured, dict(quotas)
        bursts = bursts_of(quotas, burst)
        self._configured = {
            name: known.get(name) or ConfiguredQuota(name, quota, bursts[name], since=now)
            for name, quota in quotas.items()
        }
        self._note_change()
        for name, configured in self._configured.items():
            if name in known:
                configured.change_rate(quotas[name], bursts[name], now)

    def set_burst(self, burst: float, now: float) -> None:
        """Let so many requests leave at once from now on."""
        bursts = bursts_of(self._quotas, burst)
        for name, configured in self._configured.items():
            if configured.burst != bursts[name]:
                configured.change_rate(configured.quota, bursts[name], now)

    def leave_headroom(
        self, headroom: float, kind: str, limit: float, burst: float, now: float
    ) -> None:
        """Leave a share of a learned limit to other users of the key."""
        quota, burst = Quota(limit * (1.0 - headroom)), max(1.0, burst * (1.0 - headroom))
        ceiling = self._ceilings.get(kind)
        if ceiling is None:
            self._ceilings[kind] = ConfiguredQuota(A_MINUTE[kind], quota, burst, since=now)
        elif (ceiling.quota, ceiling.burst) != (quota, burst):
            ceiling.change_rate(quota, burst, now)
        # Asked each time: Ctrl-C may have come before this was done for a new one.
        if len(self.in_force) != len(self.by_name()):
            self._note_change()

    def leave_no_headroom(self) -> None:
        """Leave nothing to other users any more."""
        self._ceilings.clear()
        self._note_change()

    def keep_stated(
        self, kind: str, quota: Quota, burst: float, source: str, now: float
    ) -> ConfiguredQuota:
        """Keep a quota that a refusal or a relay told of; returns it. A new one is empty."""
        key = (kind, quota.per)
        stated = self.stated.get(key)
        if stated is None:
            name = f"{kind} a {period_name(quota.per)} (learned)"
            stated = self.stated[key] = ConfiguredQuota(name, quota, burst, now, kind)
            stated.empty_at = now
            self._note_change()
        elif (stated.quota, stated.burst) != (quota, burst):
            stated.change_rate(quota, burst, now)
        stated.source = source
        return stated

    def require_fit(self, cost: Cost, model: str) -> None:
        """Raise :class:`QuotaTooSmall` if *cost* is more than a whole period's worth.

        Only its input is asked: generated tokens count as they come, and are not known yet. What
        was learned may have changed: a call larger than that is sent, and finds out.
        """
        for configured in self._configured.values():
            amount = configured.quota.amount
            if configured.kind in ("input_tokens", "tokens") and cost.input_tokens > amount:
                raise QuotaTooSmall(
                    f"a call to {model} of about {cost.input_tokens:,.0f} input tokens can never "
                    f"leave under {configured.name}={amount:,.0f}; shorten it or raise "
                    f"{configured.name}"
                )

    def decide(self, cost: Cost, earliest: Decision) -> Decision:
        """When *cost* may leave, and why then: *earliest*, or a quota that is ready later."""
        decision = earliest
        for quota in self.in_force:
            units = getattr(cost, quota.kind)
            # A retry whose tokens are still booked asks for none, and need not wait for any.
            if units > 0:
                ready_at = gcra.ready_at(quota.empty_at, quota.rate, quota.burst, units)
                if ready_at > decision[0]:
                    decision = Decision(ready_at, quota.name)
        return decision

    def take(self, cost: Cost, now: float) -> None:
        """Book *cost*, which leaves now.

        No check: decide() was asked in the same critical section, or a store has granted it.
        """
        for quota in self.in_force:
            units = getattr(cost, quota.kind)
            if units > 0:
                quota.empty_at = gcra.take(quota.empty_at, quota.rate, quota.burst, units, now)

    def settle(self, change: Cost, booked_at: float) -> None:
        """Correct what was booked at *booked_at* by *change*, in either direction.

        A quota that was configured later is left alone: it never had that booking.
        """
        for quota in self.in_force:
            units = getattr(change, quota.kind)
            if units and quota.since <= booked_at:
                if units > 0:  # of a kind of which nothing was booked, perhaps, and long idle
                    quota.empty_at = max(quota.empty_at, booked_at - quota.burst / quota.rate)
                quota.empty_at += units / quota.rate

    def allow_one_at(self, at: float) -> None:
        """Let nothing leave before that instant, and then one request: the end of a pause."""
        for quota in self.in_force:
            if quota.name == "rpm":
                quota.allow_one_at(at)


def period_name(seconds: float) -> str:
    """The word for a period."""
    names = {60.0: "minute", 3600.0: "hour", 86_400.0: "day"}
    return names.get(seconds, f"{seconds:g} s")


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

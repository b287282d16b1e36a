"""All quotas of one lane, and its pauses. Not thread-safe: the lane's mutex guards it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Callable

from claude_throttle.errors import QuotaTooSmall
from claude_throttle.flow.cost import Cost
from claude_throttle.pacing import quota as gcra
from claude_throttle.pacing.quota import Quota

#: Which part of a cost a quota counts.
KINDS = {
    "rpm": "requests",
    "rpd": "requests",
    "itpm": "input_tokens",
    "otpm": "output_tokens",
    "tpm": "tokens",
    "tpd": "tokens",
}

#: Seconds' worth of tokens that may leave at once. Estimates err in both directions; without some
#: room to save what one call gave back, every overestimate would be time lost for good. Output
#: lengths scatter most. Small against the minute's worth a call may have at most.
INPUT_BURST_SECONDS = 1.0
OUTPUT_BURST_SECONDS = 5.0

#: Seconds. A quota over a longer period is a bucket that may be spent whole: nobody wants a
#: thousand requests a day to leave 86 s apart.
LONG_PERIOD_SECONDS = 3600.0


def pause_jitter(seconds: float) -> float:
    """Up to a tenth on top of a pause, so that processes do not all come back at once."""
    # The module's generator: a private one would draw the same in every forked worker.
    return random.uniform(0.0, min(2.0, max(0.05, seconds / 10.0)))


class _Account:
    """One quota and its instant."""

    __slots__ = ("burst", "empty_at", "kind", "name", "quota", "rate", "since")

    def __init__(self, name: str, quota: Quota, burst: float, since: float = -math.inf) -> None:
        self.name = name
        #: When it was told: what was booked before was not booked here.
        self.since = since
        self.kind = KINDS[name]
        self.empty_at = -math.inf
        self.set(quota, burst)

    def set(self, quota: Quota, burst: float) -> None:
        self.quota = quota
        self.rate = quota.rate
        self.burst = burst


class Pacer:
    """When may a call leave? At the latest instant any of its quotas, or a pause, names."""

    def __init__(
        self,
        quotas: Mapping[str, Quota],
        burst: float = 1.0,
        *,
        jitter: Callable[[float], float] = pause_jitter,
    ) -> None:
        bursts = _bursts(quotas, burst)
        self._accounts = [_Account(name, quotas[name], bursts[name]) for name in quotas]
        self._jitter = jitter
        self._pause_jitter = 0.0
        #: The server's word: nothing leaves before this instant.
        self.paused_until = -math.inf
        #: The caller's word, by pause(); ended by resume().
        self.held_until = -math.inf

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave, as things stand; *now* if it already may."""
        at = max(now, self.paused_until, self.held_until)
        for account in self._accounts:
            units = getattr(cost, account.kind)
            # A retry whose tokens are still booked asks for none, and need not wait for any.
            if units > 0:
                ready = gcra.ready_at(account.empty_at, account.rate, account.burst, units)
                if ready > at:
                    at = ready
        return at

    def take(self, cost: Cost, now: float) -> None:
        """*cost* leaves now."""
        for account in self._accounts:
            units = getattr(cost, account.kind)
            if units > 0:
                account.empty_at = gcra.take(
                    account.empty_at, account.rate, account.burst, units, now
                )

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> bool:
        """What was booked as *held* was in truth *actual*; True if somebody may leave earlier."""
        earlier = False
        for account in self._accounts:
            if account.since > booked_at:
                continue
            change = getattr(actual, account.kind) - getattr(held, account.kind)
            if change:
                account.empty_at += change / account.rate
                earlier = earlier or change < 0
        return earlier

    def pause_for(self, seconds: float, now: float) -> float:
        """Let nothing leave for *seconds* plus jitter, drawn once per pause; returns what remains.

        Never shortens a pause.
        """
        if now >= self.paused_until:
            self._pause_jitter = self._jitter(seconds)
        self.paused_until = max(self.paused_until, now + seconds + self._pause_jitter)
        return self.paused_until - now

    def require_fit(self, cost: Cost, model: str) -> None:
        """Raise :class:`QuotaTooSmall` if *cost* is more than a whole period's worth.

        Only its input is asked: generated tokens count as they come, and nobody knows them yet.
        """
        for account in self._accounts:
            amount = account.quota.amount
            if account.kind in ("input_tokens", "tokens") and cost.input_tokens > amount:
                raise QuotaTooSmall(
                    f"a call to {model} of about {cost.input_tokens:,.0f} input tokens can never "
                    f"leave under {account.name}={amount:,.0f}; shorten it or raise {account.name}"
                )

    def reconfigure(self, quotas: Mapping[str, Quota], burst: float, now: float) -> None:
        """Keep other quotas from now on; where one stays, its level stays where it is."""
        bursts = _bursts(quotas, burst)
        known = {account.name: account for account in self._accounts}
        accounts = []
        for name, quota in quotas.items():
            account = known.get(name) or _Account(name, quota, bursts[name], since=now)
            # What a smaller burst has not saved, a larger one must not find.
            account.empty_at = max(account.empty_at, now - account.burst / account.rate)
            account.empty_at = gcra.keep_level(account.empty_at, account.rate, quota.rate, now)
            account.set(quota, bursts[name])
            accounts.append(account)
        self._accounts = accounts

    def leaves_at(self, queued: Cost, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave behind all of *queued*, as things stand."""
        at = max(now, self.paused_until, self.held_until)
        for account in self._accounts:
            units = getattr(cost, account.kind)
            if units > 0:
                full_at = now - account.burst / account.rate
                before = getattr(queued, account.kind) + min(units, account.burst)
                at = max(at, max(account.empty_at, full_at) + before / account.rate)
        return at


def _bursts(quotas: Mapping[str, Quota], burst: float) -> dict[str, float]:
    """Units each quota lets leave at once."""
    requests = quotas.get("rpm")
    # A burst of n requests spans n - 1 intervals; give tokens the same span.
    span_seconds = (burst - 1.0) / requests.rate if requests is not None else 0.0
    return {name: _burst(name, quota, burst, span_seconds) for name, quota in quotas.items()}


def _burst(name: str, quota: Quota, burst: float, span_seconds: float) -> float:
    if quota.burst is not None:
        return quota.burst
    if quota.per > LONG_PERIOD_SECONDS:
        return quota.amount
    if KINDS[name] == "requests":
        return burst
    least = OUTPUT_BURST_SECONDS if name == "otpm" else INPUT_BURST_SECONDS
    return min(quota.amount, quota.rate * max(span_seconds, least))

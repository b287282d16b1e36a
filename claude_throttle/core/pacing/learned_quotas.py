"""A quota that was not configured: learned from the server's rate-limit headers.

One instant, as for a configured quota, and a few numbers that say how far to trust it. A header
shows the server's bucket at the call's admission or at its answer, it is not documented which; a
running total of what left since makes the bounds of both computable. The level goes down at once,
up slowly.

``burst`` is what may leave at once. It grows when a header shows a bucket fuller than that, and
shrinks when a refusal's own headers say that the call would have fitted: then the server enforces
less than it shows. Our own books cannot decide it: by them, each call that we send fits.
"""

from __future__ import annotations

import math

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import HEADERS, RELAYED, Dispatch, RateLimit
from claude_throttle.core.pacing import gcra
from claude_throttle.core.pacing.configured_quotas import A_MINUTE
from claude_throttle.core.pacing.traffic import (
    NETWORK_SECONDS,
    DecayingSum,
    LatencyEstimator,
    Traffic,
)

#: Tokens. ``remaining`` is rounded to the nearest thousand (rate-limit page, 2026-09).
TOKEN_ROUNDING = 500.0

#: Seconds over which a surprise counts as another client's pace, and in which it is forgotten.
OTHERS_SECONDS = 3.0

#: Share of the way up to what a header shows, per answer. Down it is the whole way.
UPWARD_SHARE = 0.3

#: Calls' worth of units left in the bucket: our books are late by what is on the way. Output is
#: counted while it is produced, and scatters most.
GUARD_CALLS = 2.0
OUTPUT_GUARD_CALLS = 4.0

#: A bucket of fewer calls cannot spare a guard: only more distance helps there.
SMALL_BURST = 4.0

#: The source of a limit where no headers come: some gateways drop them.
BLIND = "refusals"

#: The source of a limit that the words of a refusal name.
WORDS = "words of a refusal"
FROM_REFUSALS = (BLIND, WORDS)

#: Shares of a whole bucket to wait for, beyond the call, where a limit refused before and nothing
#: was answered since: it may not fill smoothly, but at the end of a minute.
REPEAT_SHARES = (0.0, 0.25, 0.5, 1.0)

#: Seconds after which a refusal says nothing about the next one.
REPEAT_SECONDS = 180.0

#: Seconds after its last refusal for which a limit from words is believed: it may be raised, and
#: no header would say so.
WORDS_SECONDS = 3600.0

#: A call of so many times the whole limit would wait for a full bucket in vain, and keep others
#: waiting: it goes at once, and finds out.
HOPELESS = 1.5

#: What becomes of a guessed limit with each wave of refusals.
BLIND_DECREASE = 0.8

#: Share by which it grows a second while nothing is refused: after the first guess, which may be
#: far too low, and later.
FIRST_BLIND_GROWTH = 0.1
BLIND_GROWTH = 0.01

#: A guess that was never tested: less than this share of it was used in any minute. Where nothing
#: was refused for so many seconds, longer than it takes to win back what one refusal cost, it grows
#: as after the first guess: the refusals of the first seconds were of something else.
TESTED_SHARE = 0.6
UNTESTED_SECONDS = 25.0

#: Seconds without an answer that it may make up for at once.
LONGEST_BLIND_SECONDS = 7.0

#: Seconds after which a server that showed more than it let in is believed again.
DISTRUST_SECONDS = 600.0

#: Share of an interval by which the distance grows after a refusal, and may grow at most.
MARGIN_STEP = 0.02
MARGIN_MOST = 0.1
MARGIN_STEP_SECONDS = 0.002


class LearnedQuota:
    """The learned quota of one kind of units. Not thread-safe: the lane's mutex guards it.

    Holds nothing back until a limit is known: from a header, from the tier's table, or guessed
    after refusals where no headers come.
    """

    def __init__(self, kind: str, traffic: Traffic, most_burst: float = math.inf) -> None:
        self.kind = kind
        #: The constraint of a call that waits for it.
        self.name = f"{A_MINUTE[kind]} (learned)"
        self._traffic = traffic
        self.most_burst = most_burst
        #: Units per minute; 0.0 while nothing is known.
        self.limit = 0.0
        #: Units per second.
        self.rate = 0.0
        self.burst = 1.0
        #: Where the limit comes from.
        self.source = ""
        self.empty_at = -math.inf
        #: False once the server refused a call that fitted by its headers.
        self.trusted = True
        #: Units per second that other clients take.
        self.others = DecayingSum(OTHERS_SECONDS)
        #: Seconds kept between calls beyond their interval.
        self.margin = 0.0
        #: The place of the kind in a cost.
        self._at = Cost._fields.index(kind)
        self._rounding = 0.0 if kind == "requests" else TOKEN_ROUNDING
        self._is_output = kind == "output_tokens"
        self._believed_until = math.inf
        self._from_headers = False
        self._blind_growth = 0.0
        #: So much was used once that a refusal says something about the guessed limit.
        self._is_tested = False
        #: Waves of refusals in the last minute or so.
        self._waves = 0
        self._grown_at = -math.inf
        self._newest_at = -math.inf
        self._refused_at = -math.inf
        self._distrusted_at = -math.inf
        #: Refusals in words since the last answer, and what had been answered by the last one.
        self._repeats = 0
        self._answered = -1.0

    @property
    def known(self) -> bool:
        """Whether there is a limit, from whatever source."""
        return self.limit > 0

    def _set_limit(self, limit: float) -> None:
        self.limit, self.rate = limit, limit / 60.0

    def level(self, now: float) -> float:
        """Units that may leave now; negative while more has left than there was."""
        return gcra.level(self.empty_at, self.rate, self.burst, now)

    def ready_at(self, units: float, now: float, latency: float) -> float:
        """The instant at which *units* may leave; *latency*: seconds an answer takes, about."""
        if not self.limit or now > self._believed_until:
            return now
        if units > HOPELESS * self.limit > TOKEN_ROUNDING and self._is_hopeless():
            return now
        rate, burst, empty_at = self.rate, self.burst, self.empty_at
        span = min(units + self.guard(now, latency), burst) / rate
        full_at = now - burst / rate
        if full_at > empty_at + self.margin:
            return full_at + span
        return empty_at + span + self.margin

    def _is_hopeless(self) -> bool:
        """Whether a call that is larger than the limit is certain to be refused."""
        return self.kind == "input_tokens" and self.source in (HEADERS, WORDS)

    def guard(self, now: float, latency: float) -> float:
        """Units that stay in the bucket: our books are late by what is on the way."""
        a_call = self._traffic.mean.value[self._at]
        if self.burst < SMALL_BURST * a_call:
            return 0.0
        calls = OUTPUT_GUARD_CALLS if self._is_output else GUARD_CALLS
        stolen = 2.0 * self.others.value(now) * (latency + NETWORK_SECONDS)
        units, most = calls * a_call + stolen, self.burst / 4.0
        return units if units < most else most

    def take(self, units: float, now: float) -> None:
        """Book *units*, which leave now. Call it only once a limit is known."""
        self.empty_at = gcra.take(self.empty_at, self.rate, self.burst, units, now)

    def bound_burst(self, most: float, now: float) -> None:
        """Let no more than *most* leave at once, whatever the server shows."""
        self.most_burst = most
        if self.burst > most:
            level = self.level(now) if self.known else 0.0
            self.burst = most
            if self.known:
                self._set_level(level, now)

    def correct(self, change: float) -> None:
        """Book *change* more (or fewer) units than were booked before.

        Call it only once a limit is known.
        """
        self.empty_at += change / self.rate

    def apply_rate_limit(
        self, rate_limit: RateLimit, dispatch: Dispatch, now: float, latency: LatencyEstimator
    ) -> bool:
        """Learn from the headers of an answer; True if the limit is another now.

        *dispatch* is of the attempt that was answered. A late, older answer changes nothing.
        """
        if rate_limit.limit <= 0 or dispatch.at < self._newest_at:
            return False
        source = rate_limit.source
        if source != HEADERS and not self._believes(rate_limit):
            return False
        self._newest_at = dispatch.at
        # The API's buckets hold a minute's worth at most.
        if rate_limit.remaining > rate_limit.limit:
            rate_limit = rate_limit._replace(remaining=rate_limit.limit)
        if source != self.source:
            self._begin(rate_limit, dispatch, now)
            return True
        changed = rate_limit.limit != self.limit
        if changed:
            self._change_limit(rate_limit, now)
        self._correct(*self._bounds(rate_limit, dispatch, now, latency), now)
        return changed

    def _believes(self, relayed: RateLimit) -> bool:
        """Whether what a relay shows counts: less than the API's headers, and than refusals."""
        if self._from_headers:
            return False
        return self.source not in FROM_REFUSALS or relayed.limit < self.limit

    def _begin(self, rate_limit: RateLimit, dispatch: Dispatch, now: float) -> None:
        """The first header: believe it, less the rounding and all that left since its call did."""
        self.source, self._believed_until = rate_limit.source, math.inf
        self._from_headers = self.source == HEADERS
        self._set_limit(rate_limit.limit)
        sure = max(0.0, rate_limit.remaining - self._rounding)
        self.burst = min(self.most_burst, max(1.0, sure))
        self._set_level(sure - self._left_after(dispatch), now)

    def start_with(self, limit: float, source: str, now: float) -> None:
        """A limit from elsewhere, until a header tells better."""
        if not self._from_headers:
            self._set_limit(limit)
            self.source = source
            self._set_level(1.0, now)

    def adopt(self, limit: float, burst: float, margin: float, trusted: bool, source: str) -> None:
        """Take over what another process learned of the same quota, through the shared store."""
        self._from_headers = source == HEADERS
        self._set_limit(limit)
        self.source = source
        self.burst = min(self.most_burst, burst)
        self.margin, self.trusted = margin, trusted

    def unbook(self, units: float) -> None:
        """Take back *units* that a reservation in a store has booked here already.

        They are booked once more, by take(), when the call leaves.
        """
        self._traffic.taken = self._traffic.taken.more_of(self.kind, -units)
        if self.known:
            self.empty_at -= units / self.rate

    def _change_limit(self, rate_limit: RateLimit, now: float) -> None:
        level = min(self.level(now), max(rate_limit.remaining, 1.0))
        if rate_limit.limit < self.limit:
            self.burst = max(1.0, self.burst * rate_limit.limit / self.limit)
        self._set_limit(rate_limit.limit)
        self._set_level(level, now)

    def _left_after(self, dispatch: Dispatch) -> float:
        return self._of(self._traffic.taken) - self._of(dispatch.taken)

    def _of(self, cost: Cost) -> float:
        return cost[self._at]

    def _bounds(
        self, rate_limit: RateLimit, dispatch: Dispatch, now: float, latency: LatencyEstimator
    ) -> tuple[float, float]:
        """What our level must be at least and at most, whenever the header was made."""
        unsure, traffic, at = self._rounding, self._traffic, self._at
        gained = (self.rate - self.others.value(now)) * (now - dispatch.at)
        if self._is_output:
            # Counted as it is produced: what is in flight is still to come, and the refill of the
            # time it takes with it.
            coming = traffic.pending[at] * latency.stretch(now) - self.rate * latency.mean(now)
            remaining = rate_limit.remaining - max(0.0, coming)
            drift = gained - (traffic.produced[at] - dispatch.produced)
        else:
            remaining = rate_limit.remaining
            drift = gained - (traffic.taken[at] - dispatch.taken[at])
            # What left just before may arrive just after, and be missing in what the header shows;
            # so may what left just before now, if the header was made at the answer.
            unsure += max(dispatch.recent[at], traffic.recent.value(now)[at])
        low = remaining + min(0.0, drift) - unsure
        high = remaining + max(0.0, drift) + self._rounding
        return low, high

    def _correct(self, low: float, high: float, now: float) -> None:
        """Move the level into the bounds that a header allows.

        Down at once, since a level that is too high means refusals. Up by a share only, since one
        header may be too favourable.
        """
        self.trusted = self.trusted or now - self._distrusted_at > DISTRUST_SECONDS
        if self.trusted and low > self.burst:
            self.burst = min(self.most_burst, low)
        level = self.level(now)
        if level > high:
            if not self._is_output:
                self.others.add((level - high) / OTHERS_SECONDS, now)
            self._set_level(high, now)
        elif level < low and self.trusted:
            self._set_level(level + UPWARD_SHARE * (low - level), now)

    def _set_level(self, level: float, now: float) -> None:
        self.empty_at = now - min(self.burst, level) / self.rate

    def lower_burst(
        self, rate_limit: RateLimit, dispatch: Dispatch, units: float, in_flight: int
    ) -> None:
        """A call of *units* met a rate limit; the headers of the refusal decide what was wrong."""
        if not self.known or dispatch.at <= self._refused_at:
            return  # of one wave only the first says something new
        self._refused_at = max(self._refused_at, dispatch.at)
        a_call = max(1.0, self._of(self._traffic.mean.value))
        if rate_limit.remaining - self._rounding >= units:
            self.trusted, self._distrusted_at = False, dispatch.at
            calls = min(self.burst, (in_flight + 1) * a_call)
            self.burst = max(1.0, calls / 2.0)
        elif self.burst < SMALL_BURST * a_call:
            step = max(MARGIN_STEP / self.rate, MARGIN_STEP_SECONDS)
            self.margin = min(MARGIN_MOST / self.rate, self.margin + step)

    def refused_blindly(
        self, dispatch: Dispatch, used_a_minute: float, allowed: float, now: float
    ) -> None:
        """A rate limit refused and no header says which: what was used recently was too much.

        *allowed* is what the server's ``retry-after`` promises per minute.
        """
        if self._from_headers or dispatch.at <= self._refused_at:
            return
        self._waves = self._waves + 1 if now - self._refused_at < 60.0 else 1
        self._note_use(used_a_minute)
        self._refused_at = now  # whatever left before now belongs to the same wave
        self._blind_growth = BLIND_GROWTH if self.limit else FIRST_BLIND_GROWTH
        limit = self.limit * BLIND_DECREASE if self.limit else max(used_a_minute, allowed)
        if self.source.endswith(RELAYED):  # refused far below it, perhaps
            limit, self.burst = min(limit, max(used_a_minute, allowed)), 1.0
        self._set_limit(max(1.0, limit))
        self.source = BLIND
        self._grown_at = now
        self._set_level(0.0, now)

    def refused_in_words(self, limit: float, units: float, dispatch: Dispatch, now: float) -> bool:
        """A call of *units* was refused, and the words name the limit; True if it is another now.

        The bucket is empty, then, or holds less than that call. How it fills is not known, smoothly
        or at the end of a minute: so each refusal without an answer in between waits longer.
        """
        if self._from_headers:
            return False
        changed = limit != self.limit
        if dispatch.at > self._refused_at:  # of one wave only the first says something new
            repeats = self._count_repeats(now)
            self._refused_at = now
            self.source, self._believed_until = WORDS, now + WORDS_SECONDS
            self._set_limit(limit)
            self.burst = min(self.most_burst, limit, max(1.0, units, self.rate))
            self._set_level(-limit * REPEAT_SHARES[repeats], now)
        if self.kind != "requests":
            self.correct(units)  # they are given back in a moment, but were not in the bucket
        return changed

    def _count_repeats(self, now: float) -> int:
        """How many refusals came before this one without an answer in between."""
        produced = self._of(self._traffic.produced)
        more = min(self._repeats + 1, len(REPEAT_SHARES) - 1)
        recent = now - self._refused_at < REPEAT_SECONDS
        self._repeats = more if recent and produced <= self._answered else 0
        # What is in flight was let in before.
        self._answered = produced + self._of(self._traffic.pending)
        return self._repeats

    def answered_blindly(self, dispatch: Dispatch, now: float) -> None:
        """An answer without headers: if the limit was guessed and binds, it may be higher."""
        level = self.level(now)
        if self.source != BLIND or dispatch.at <= self._refused_at or level >= self.burst:
            return
        seconds, growth = min(LONGEST_BLIND_SECONDS, now - self._grown_at), self._blind_growth
        self._note_use(self._traffic.last_minute.total(now).requests)
        if not self._is_tested and now - self._refused_at > UNTESTED_SECONDS:
            growth = FIRST_BLIND_GROWTH
        self._set_limit(self.limit * (1.0 + growth) ** seconds)
        self._grown_at = now
        self._set_level(level, now)

    def _note_use(self, used_a_minute: float) -> None:
        if self.limit and used_a_minute - self._waves >= TESTED_SHARE * self.limit:
            self._is_tested = True

    def hold_until(self, at: float, units: float) -> None:
        """Let there be *units* at that instant, and no more: a pause is not saved up for."""
        if self.limit:
            self.empty_at = max(self.empty_at, at - min(self.burst, units) / self.rate)

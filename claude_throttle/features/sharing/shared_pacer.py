"""The pacer of a lane whose quotas several processes share.

It keeps no instants of its own while the ledger answers: it reserves slots there, a few ahead, and
lets a call leave when one is due. Pure state, as the pacer; the clerk asks the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Optional, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import Dispatch, Feedback
from claude_throttle.core.domain.ports import Ahead
from claude_throttle.core.pacing.configured_quotas import ConfiguredQuotas
from claude_throttle.core.pacing.learned_quotas import LearnedQuota
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.features.sharing.degraded_mode import FULL, STOP, part_of
from claude_throttle.features.sharing.learned_state import LearnedState
from claude_throttle.features.sharing.quota_delta import AnyQuota, QuotaDelta
from claude_throttle.features.sharing.reservations import LATE_SECONDS, Reservation, Reservations
from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    StoredBucket,
)

#: Slots in one reservation, and seconds from its first to its last: so that an urgent call waits
#: for at most one such batch of each other process.
MOST_SLOTS = 20
HORIZON_SECONDS = 0.1

#: Seconds that all members' batches together may last: or each would wait for a thousand others.
ALL_HORIZONS_SECONDS = 1.0

#: Seconds after which whoever still holds slots asks whether the server wished for a pause.
STALE_SECONDS = 0.25


class CoordinatorPort(Protocol):
    """What a shared pacer asks of its process's coordinator."""

    #: The store cannot be reached.
    alone: bool
    #: Processes that shared the store when it was last reached.
    members: int
    #: What to do without the store: "share", "stop", "full".
    on_failure: str

    def has_pending(self) -> None:
        """Report to the store soon. May be called with a lane's mutex held."""
        ...


class SharedPacer(Pacer):
    """As :class:`Pacer`; the lane's mutex guards it, too."""

    def __init__(self, *quotas: Any, coordinator: CoordinatorPort, **options: Any) -> None:
        super().__init__(*quotas, **options)
        #: An exchange is under way.
        self.asking = False
        self.replica = LearnedState(self.learned, self.traffic)
        self._coordinator = coordinator
        self._slots = Reservations(self._unused)
        self._news: dict[str, QuotaDelta] = {}
        self._sequence = -1.0
        #: Of a pause that the others do not know of.
        self._pause_until = -math.inf
        #: Whether the ledger was ever asked what others have learned.
        self._introduced = False
        self._heard_at = -math.inf
        #: The ledger's time less ours, in microseconds.
        self._ahead = 0.0
        #: What left before there was anything to reserve.
        self._unreserved = dict.fromkeys(self.learned, 0.0)
        #: Our part of each quota, when the ledger was silent last.
        self._part: Optional[ConfiguredQuotas] = None
        self._part_rates: list[tuple[str, float]] = []

    # -- a call leaves ---------------------------------------------------------------------------

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave; inf if a slot has to be reserved first."""
        if self._coordinator.alone:
            return self._ready_alone(cost, now)
        gate = self.gate_at(cost, now)
        if not any(True for _ in self.quotas()):
            return gate if self._introduced or gate > now else math.inf
        slot = self._slots.next(now)
        if slot is not None and self._fits(slot, cost):
            return max(gate, slot.at)
        return gate if gate > now else math.inf

    def _fits(self, slot: Reservation, cost: Cost) -> bool:
        """Whether *cost* may leave on it. A little more than was reserved is settled later."""
        for name, quota in self.quotas():
            # Of a quota that was learned since, nothing could be reserved.
            reserved = slot.units.get(name, math.inf)
            if getattr(cost, quota.kind) > reserved + quota.burst / 4.0:
                return False
        return True

    def quotas(self) -> Iterator[tuple[str, AnyQuota]]:
        """Every quota in force, by the name of its bucket."""
        yield from self.told.by_name()
        for kind, learned in self.learned.items():
            if learned.known:
                yield kind, learned

    def needs_reservation(self, cost: Cost, ahead: Ahead, now: float) -> Optional[list[Cost]]:
        """The costs of those *ahead*, if no reservation is left that the head can use."""
        if self.gate_at(cost, now) > now:
            return None  # whatever was reserved now would not be used
        if self.asking or self._coordinator.alone or self.ready_at(cost, now) < math.inf:
            return None
        self._slots.missed(now)
        return [cost, *ahead(MOST_SLOTS - 1)]

    def take(self, cost: Cost, now: float, answers: bool = True) -> Dispatch:
        """*cost* leaves now, on the first slot."""
        if self._coordinator.alone:
            self._take_alone(cost, now)
            return super().take(cost, now, answers)
        slot = self._slots.use(now)
        for name, quota in self.quotas():
            units = slot.units.get(name, 0.0)
            self._shift(name, quota.rate, getattr(cost, quota.kind) - units)
            quota.unbook(units)
        for kind, learned in self.learned.items():
            if not learned.known:
                self._unreserved[kind] += getattr(cost, kind)
        dispatch = super().take(cost, now, answers)
        # Others may overtake us, too.
        recent = Cost(*(units * self._coordinator.members for units in dispatch.recent))
        taken = (slot.taken.get(kind, of) for kind, of in zip(self.learned, dispatch.taken))
        return dispatch._replace(recent=recent, taken=Cost(*taken))

    def _unused(self, slot: Reservation) -> None:
        for name, units in slot.units.items():
            self._of(name).returned += units

    def _shift(self, name: str, rate: float, units: float) -> None:
        if units:
            self._of(name).shift += units / rate * SECOND
            self._coordinator.has_pending()

    def _of(self, name: str) -> QuotaDelta:
        news = self._news.get(name)
        if news is None:
            news = self._news[name] = QuotaDelta()
        return news

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> bool:
        """As the pacer's; the others hear of it soon."""
        change = actual.minus(held)
        for name, quota in self.quotas():
            self._shift(name, quota.rate, getattr(change, quota.kind))
        return super().settle(held, actual, booked_at)

    # -- the server speaks -----------------------------------------------------------------------

    def pause_for(self, seconds: float, now: float) -> float:
        """As the pacer's; it holds for everybody, and what was reserved before is stale."""
        remaining = super().pause_for(seconds, now)
        self._pause_until = now + remaining
        self._slots.release()
        self._coordinator.has_pending()
        return remaining

    def _read(self, feedback: Feedback, dispatch: Dispatch, now: float) -> list[Event]:
        """Headers tell of what all have taken: they wait until the others' part is known."""
        if not feedback.rate_limits:
            return []
        self._coordinator.has_pending()
        if self._coordinator.alone or not any(learned.known for learned in self.learned.values()):
            return super()._read(feedback, dispatch, now)
        self.replica.unread.append((feedback, dispatch))
        return []

    # -- the ledger ------------------------------------------------------------------------------

    @property
    def has_pending(self) -> bool:
        """Whether there is something to tell."""
        return any(list(self._news.values())) or self._pause_until > 0 or self.replica.has_pending

    def is_stale(self, now: float) -> bool:
        """Whether slots are held of which the ledger may think otherwise by now."""
        return len(self._slots) > 0 and now - self._heard_at > STALE_SECONDS

    def order(
        self, member: str, not_after: float, costs: list[Cost], now: float
    ) -> ExchangeRequest:
        """What to ask, and all that the ledger does not know yet."""
        latency = self.latency.mean(now)
        quotas = list(self.quotas())
        order = ExchangeRequest(
            member,
            not_after,
            tuple(self._bucket(name, quota, now, latency) for name, quota in quotas),
            tuple(tuple(float(getattr(cost, q.kind)) for _, q in quotas) for cost in costs),
            horizon=SECOND * min(HORIZON_SECONDS, ALL_HORIZONS_SECONDS / self._coordinator.members),
            sequence=self._sequence,
            pause=max(0.0, (self._pause_until - now) * SECOND),
            counts=self.replica.counts(),
            version=self.replica.version,
            facts=self.replica.facts_to_tell(),
        )
        self._pause_until = -math.inf
        for news in self._news.values():
            news.told()
        return order

    def _bucket(self, name: str, quota: AnyQuota, now: float, latency: float) -> StoredBucket:
        bucket = self._of(name).bucket(name, quota)
        if not isinstance(quota, LearnedQuota):
            return bucket
        if bucket.seen == NEVER and self._introduced:  # the account begins with what we know
            bucket = bucket._replace(seen=max(NEVER, quota.empty_at * SECOND + self._ahead))
        return bucket._replace(
            correction=self.replica.correction(name),
            keep=quota.guard(now, latency),
            margin=quota.margin * SECOND,
        )

    def untold(self, order: ExchangeRequest, now: float, in_doubt: bool) -> None:
        """The order was not done; *in_doubt*: it may have been."""
        for bucket in order.buckets:
            self._of(bucket.name).untold(bucket, in_doubt)
        if order.pause > 0:
            self._pause_until = max(self._pause_until, now + order.pause / SECOND)

    def apply(
        self, order: ExchangeRequest, reply: ExchangeResponse, said_at: float, now: float
    ) -> list[Event]:
        """What the ledger answered: said at *said_at* by our clock, received now."""
        if not reply.done:
            self.untold(order, now, in_doubt=False)
            return []
        quotas = dict(self.quotas())
        for bucket, empty_at in zip(order.buckets, reply.empty_at):
            self._of(bucket.name).seen = empty_at
            if bucket.name in quotas:  # none, if it was reconfigured meanwhile
                quotas[bucket.name].empty_at = said_at + (empty_at - reply.now) / SECOND
        self._paused_elsewhere(said_at + (reply.pause_until - reply.now) / SECOND)
        if reply.waits and order.buckets:
            self._sequence = reply.sequence
            self._slots.add(order, reply, said_at)
        is_anothers = self.replica.is_anothers(order, reply)
        if order.facts is not None and reply.facts == order.facts:
            self._unreserved = dict.fromkeys(self.learned, 0.0)  # the account begins with them
        self.replica.apply(order, reply)
        self._introduced, self._heard_at = True, now
        self._ahead = reply.now - said_at * SECOND
        if is_anothers:
            self._own_up()
        return self._catch_up(now)

    def _own_up(self) -> None:
        """Another process began the account: what left here before is missing in it."""
        for kind, units in self._unreserved.items():
            if self.learned[kind].known:
                self._unreserved[kind] = 0.0
                self._shift(kind, self.learned[kind].rate, units)

    def _catch_up(self, now: float) -> list[Event]:
        """Read the headers that came meanwhile: now the others' part is known."""
        events: list[Event] = []
        unread = self.replica.begin_reading(now)
        for feedback, dispatch in unread:
            events += super()._read(feedback, dispatch, now)
        self.replica.end_reading(now)
        return events

    def _paused_elsewhere(self, until: float) -> None:
        if until > self.pause.until + LATE_SECONDS:
            self.pause.until = until
            self._slots.release()

    # -- without the ledger ----------------------------------------------------------------------

    def _ready_alone(self, cost: Cost, now: float) -> float:
        if self._coordinator.on_failure == STOP:
            return math.inf
        at = super().ready_at(cost, now)
        if self._coordinator.on_failure == FULL:
            return at
        return max(at, self._part_of_all(now).ready_at(cost))

    def _part_of_all(self, now: float) -> ConfiguredQuotas:
        rates = [(name, quota.rate) for name, quota in self.quotas()]
        if self._part is None or rates != self._part_rates:  # learned or reconfigured meanwhile
            self._part_rates = rates
            self._part = part_of(
                (quota for _, quota in self.quotas()), self._coordinator.members, now
            )
        return self._part

    def _take_alone(self, cost: Cost, now: float) -> None:
        if self._part is not None:
            self._part.take(cost, now)
        for name, quota in self.quotas():
            self._of(name).spent += getattr(cost, quota.kind)

    def lose(self) -> None:
        """The ledger is silent."""
        self._slots.forget()
        self._part = None

    def rejoin(self, now: float, settle_seconds: float) -> None:
        """The ledger answers again. *settle_seconds*: until all others have noticed, too."""
        if self._coordinator.members > 1 and any(True for _ in self.quotas()):
            # Until then they keep to their parts: nothing else may be given out.
            self._pause_until = max(self._pause_until, now + settle_seconds)
        self._coordinator.has_pending()

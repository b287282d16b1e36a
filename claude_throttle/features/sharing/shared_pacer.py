"""The pacer of a lane whose quotas several processes share.

While the store can be reached, the pacer keeps no instants of its own: it reserves instants in the
store, a few ahead, and lets a call leave when one has come. Like the plain pacer it is pure state,
with no clock, lock or I/O: it says what to reserve, and the coordinator asks the store.

One exchange goes ``needs_reservation``, ``make_request``, then ``apply`` or ``restore``; the lane's
worker then waits for the instants that ``decide`` returns. While the store is lost, ``decide`` uses
up the reservations that are left, and ``degraded_mode`` decides about all other calls.
"""

from __future__ import annotations

import math
from typing import Any, Optional, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import (
    RESERVATION,
    Decision,
    Dispatch,
    Feedback,
    StatedLimit,
)
from claude_throttle.core.domain.ports import Ahead
from claude_throttle.core.pacing.learned_quotas import LearnedQuota
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.features.sharing.degraded_mode import STOP, AnyQuota, DegradedMode
from claude_throttle.features.sharing.learned_state import LearnedState
from claude_throttle.features.sharing.reservations import (
    LATE_SECONDS,
    QuotaDelta,
    Reservation,
    Reservations,
)
from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    StoredBucket,
)

#: Reservations in one exchange, and seconds from the first to the last, at most. An urgent call
#: waits behind one such batch of each other process; smaller ones would need more exchanges.
MOST_RESERVATIONS = 20
HORIZON_SECONDS = 0.1

#: Seconds that the batches of all members together may last: with a thousand members, each call
#: would otherwise wait for a hundred seconds' worth of the others'.
ALL_HORIZONS_SECONDS = 1.0

#: Seconds after which a process that holds reservations asks whether a pause has begun.
STALE_SECONDS = 0.25


#: The decision "an instant must be reserved first". Compared by identity.
TO_BE_RESERVED = Decision(math.inf, RESERVATION)


#: Units that do not count, but say that some were taken.
ALMOST_NONE = 1e-9


class StoreState(Protocol):
    """What a shared pacer must know about the store; the coordinator is one."""

    #: Whether the store cannot be reached.
    store_lost: bool
    #: Processes that shared the store when it was last reached.
    members: int
    #: What to do without the store: "share", "stop" or "full".
    on_failure: str

    def notify_pending(self) -> None:
        """Report to the store soon. May be called with a lane's mutex held."""
        ...


class SharedPacer(Pacer):
    """A :class:`Pacer` whose calls leave at instants that were reserved in a store.

    Not thread-safe: the lane's mutex guards it, as it does the plain pacer; no method waits or asks
    the store. The mutex is free during an exchange, so anything may have changed when it ends.
    """

    def __init__(self, *quotas: Any, store: StoreState, **options: Any) -> None:
        super().__init__(*quotas, **options)
        #: Whether an exchange is under way. There is one at a time for each lane, or two of them
        #: would report the same changes.
        self.is_exchanging = False
        self.learned_state = LearnedState(self.learned, self.traffic)
        self._store = store
        self._reservations = Reservations(self._unused)
        self._deltas: dict[str, QuotaDelta] = {}
        #: Units, by bucket, of calls whose instants were reserved before that quota was known; kept
        #: until the bucket's instant is known, too.
        self._unreserved: dict[str, float] = {}
        self._degraded = DegradedMode()
        self._sequence = -1.0
        #: End of a pause that the store does not know of.
        self._pause_until = -math.inf
        #: Whether there was an exchange, so that what the others have learned is known.
        self._introduced = False
        self._exchanged_at = -math.inf
        #: The store's time less ours, in microseconds.
        self._ahead = 0.0

    # -- a call leaves ---------------------------------------------------------------------------

    def decide(self, cost: Cost, now: float) -> Decision:
        """When *cost* may leave, and why then; inf if an instant must be reserved first."""
        if self._store.store_lost:
            return self._decide_without_store(cost, now)
        gate = self.gate(cost, now)
        if not self.quotas():
            return gate if self._introduced or gate.ready_at > now else TO_BE_RESERVED
        reservation = self._reservation_for(cost, now)
        if reservation is not None:
            return _later(gate, reservation)
        return gate if gate.ready_at > now else TO_BE_RESERVED

    def _reservation_for(self, cost: Cost, now: float) -> Optional[Reservation]:
        """The next reservation, if *cost* may use it."""
        reservation = self._reservations.next_reservation(now)
        return reservation if reservation is not None and self._fits(reservation, cost) else None

    def _fits(self, reservation: Reservation, cost: Cost) -> bool:
        """Whether *cost* may use it. A little more than was reserved is settled later."""
        for name, quota in self.quotas().items():
            # A quota that was learned since the reservation has no units in it: no bound.
            reserved = reservation.units.get(name, math.inf)
            if getattr(cost, quota.kind) > reserved + quota.burst / 4.0:
                return False
        return True

    def quotas(self) -> dict[str, AnyQuota]:
        """Every quota in force, by the name of its bucket."""
        learned = {kind: quota for kind, quota in self.learned.items() if quota.limit}
        return {**self.configured.by_name(), **learned}

    def needs_reservation(self, cost: Cost, ahead: Ahead, now: float) -> Optional[list[Cost]]:
        """The costs of the next calls, if no reservation is left that the first can use."""
        if self.is_exchanging or self.decide(cost, now) is not TO_BE_RESERVED:
            return None
        self._reservations.drop_expired(now)
        return [cost, *ahead(MOST_RESERVATIONS - 1)]

    def take(self, cost: Cost, now: float, reports_outcome: bool = True) -> Dispatch:
        """Book *cost*, which leaves now, on the next reservation.

        The difference to what was reserved is reported to the store soon.
        """
        if self._store.store_lost and self._reservation_for(cost, now) is None:
            self._degraded.take(cost, now)
            for name, quota in self.quotas().items():
                self._delta(name).spent += getattr(cost, quota.kind)
            return super().take(cost, now, reports_outcome)
        used = self._reservations.use(now)
        for name, quota in self.quotas().items():
            units = used.units.get(name)
            if units is None:
                units, reserved = getattr(cost, quota.kind), bool(used.units)
                self._leave_unreserved(name, quota, units, now, reserved)
            else:
                self._shift(name, quota.rate, getattr(cost, quota.kind) - units)
                quota.unbook(units)
        self.learned_state.take(cost)
        dispatch = super().take(cost, now, reports_outcome)
        # Requests of other processes may overtake ours, too.
        recent = Cost(*(units * self._store.members for units in dispatch.recent))
        taken = (used.taken.get(kind, of) for kind, of in zip(self.learned, dispatch.taken))
        return dispatch._replace(recent=recent, taken=Cost(*taken))

    # The bucket may be reserved for later instants already, as if it had been full by then: and so
    # it was, for what left before them was paid by what accrued from one call to the next. To book
    # that once more would leave one of those instants to nobody.
    def _leave_unreserved(
        self, name: str, quota: AnyQuota, units: float, now: float, reserved: bool = True
    ) -> None:
        """Book *units* of which no reservation knew. *reserved*: of a call that had one."""
        told = [one for one in self.configured if one.kind == quota.kind and one.burst < 2.0]
        paces = [one.rate for one in told if reserved]
        delta = self._delta(name)
        if paces and delta.seen == NEVER:
            self._unreserved[name] = self._unreserved.get(name, 0.0) + units
        elif paces and delta.seen > now * SECOND + self._ahead:
            paid = units * min(1.0, quota.rate / min(paces))
            delta.spent += paid
            self._shift(name, quota.rate, units - paid)
        else:
            self._shift(name, quota.rate, units)
        self._store.notify_pending()

    def _unused(self, reservation: Reservation) -> None:
        for name, units in reservation.units.items():
            self._delta(name).returned += units

    def _shift(self, name: str, rate: float, units: float) -> None:
        if units:
            self._delta(name).shift += units / rate * SECOND
            self._store.notify_pending()

    def _delta(self, name: str) -> QuotaDelta:
        delta = self._deltas.get(name)
        if delta is None:
            delta = self._deltas[name] = QuotaDelta()
        return delta

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> Cost:
        """Replace what was booked by what it cost, as :meth:`Pacer.settle`, and report it soon."""
        change = actual.minus(held)
        for name, quota in self.quotas().items():
            self._shift(name, quota.rate, getattr(change, quota.kind))
        return super().settle(held, actual, booked_at)

    def charge(self, cost: Cost, now: float) -> None:
        """Book what a request of another lane took here, and report it soon."""
        for name, quota in self.quotas().items():
            units = getattr(cost, quota.kind)
            self._shift(name, quota.rate, units)
            if units >= quota.burst / 2.0:
                # A bucket that rested swallows a shift: so nothing stays saved up in it.
                self._delta(name).spent += ALMOST_NONE
        super().charge(cost, now)

    # -- the server answers ----------------------------------------------------------------------

    def pause_for(self, seconds: float, now: float) -> float:
        """Pause, as :meth:`Pacer.pause_for`, but for all members.

        Reservations before the end of the pause are given back, so that others may use the units.
        """
        remaining = super().pause_for(seconds, now)
        self._pause_until = self.pause.until  # the first probe, if that is earlier
        self._reservations.release(before=self._pause_until)
        self._store.notify_pending()
        return remaining

    def _read(self, feedback: Feedback, dispatch: Dispatch, now: float) -> list[Event]:
        # Headers tell what all members have taken: they wait until the others' part is known.
        if not feedback.rate_limits:
            return []
        self._store.notify_pending()
        if self._store.store_lost or not any(learned.known for learned in self.learned.values()):
            return super()._read(feedback, dispatch, now)
        self.learned_state.unread.append((feedback, dispatch))
        return []

    def _learn_stated(
        self, stated: StatedLimit, cost: Cost, dispatch: Dispatch, now: float
    ) -> list[Event]:
        before = {name: quota.empty_at for name, quota in self.quotas().items()}
        events = super()._learn_stated(stated, cost, dispatch, now)
        for name, quota in self.quotas().items():
            # The store's instant counts, and is moved by as much. A new one begins with ours.
            self._shift(name, 1.0, quota.empty_at - before.get(name, quota.empty_at))
        return events

    # -- exchanges with the store ----------------------------------------------------------------

    @property
    def has_pending(self) -> bool:
        """Whether there is something to report to the store."""
        changed = any(list(self._deltas.values()))
        changed = changed or bool(self._unreserved)
        return changed or self._pause_until > 0 or self.learned_state.has_pending

    def is_stale(self, now: float) -> bool:
        """Whether reservations are held that a pause may have ended by now."""
        return len(self._reservations) > 0 and now - self._exchanged_at > STALE_SECONDS

    def make_request(
        self, member: str, not_after: float, costs: list[Cost], now: float
    ) -> ExchangeRequest:
        """Reserve for *costs*, and report all that is pending. apply() or restore() must follow."""
        latency = self.latency.mean(now)
        quotas = list(self.quotas().items())
        horizon = min(HORIZON_SECONDS, ALL_HORIZONS_SECONDS / self._store.members)
        request = ExchangeRequest(
            member,
            not_after,
            tuple(self._bucket(name, quota, now, latency) for name, quota in quotas),
            tuple(tuple(float(getattr(cost, q.kind)) for _, q in quotas) for cost in costs),
            horizon=SECOND * horizon,
            sequence=self._sequence,
            pause=max(0.0, (self._pause_until - now) * SECOND),
            counts=self.learned_state.counts(),
            version=self.learned_state.version,
            facts=self.learned_state.pending_facts(),
        )
        self._pause_until = -math.inf
        for delta in self._deltas.values():
            delta.mark_sent()
        return request

    def _bucket(self, name: str, quota: AnyQuota, now: float, latency: float) -> StoredBucket:
        bucket = self._delta(name).bucket(name, quota)
        if not isinstance(quota, LearnedQuota):
            return bucket
        if bucket.seen == NEVER and self._introduced:  # the account begins with what we know
            bucket = bucket._replace(seen=max(NEVER, quota.empty_at * SECOND + self._ahead))
        return bucket._replace(
            correction=self.learned_state.correction(name),
            keep=quota.guard(now, latency),
            margin=quota.margin * SECOND,
        )

    def restore(self, request: ExchangeRequest, now: float, in_doubt: bool) -> None:
        """Make all that *request* reported pending again, since it was not done.

        *in_doubt*: it may have been done; then only what slows us down counts again.
        """
        for bucket in request.buckets:
            self._delta(bucket.name).restore(bucket, in_doubt)
        if request.pause > 0:
            self._pause_until = max(self._pause_until, now + request.pause / SECOND)

    def apply(
        self, request: ExchangeRequest, response: ExchangeResponse, answered_at: float, now: float
    ) -> list[Event]:
        """Adopt the response that the store gave at *answered_at*, by our clock."""
        if not response.done:
            self.restore(request, now, in_doubt=False)
            return []
        self._set_instants(request, response, answered_at)
        self._pause_with_others(answered_at + (response.pause_until - response.now) / SECOND)
        if response.waits and request.buckets:
            self._sequence = response.sequence
            self._reservations.put(request, response, answered_at)
            self._note_batch(request, response, answered_at)
        is_news = self.learned_state.is_news(request, response)
        self.learned_state.apply(request, response)
        self._introduced, self._exchanged_at = True, now
        self._ahead = response.now - answered_at * SECOND
        unreserved, self._unreserved = self._unreserved, {}
        early = self.learned_state.report_early_usage() if is_news else {}
        for name, quota in self.quotas().items() if early or unreserved else ():
            units = early.get(name, 0.0) + unreserved.get(name, 0.0)
            if units:
                self._leave_unreserved(name, quota, units, now)
        return self._read_waiting_headers(now)

    # The plain pacer's instants follow the store's, so that a process that loses the store goes on
    # from what all members had taken, and forecasts of waits are right.
    def _set_instants(
        self, request: ExchangeRequest, response: ExchangeResponse, answered_at: float
    ) -> None:
        quotas = self.quotas()
        for bucket, empty_at in zip(request.buckets, response.empty_at):
            self._delta(bucket.name).seen = empty_at
            if bucket.name in quotas:  # it is not, if reconfigured meanwhile
                quotas[bucket.name].empty_at = answered_at + (empty_at - response.now) / SECOND

    def _note_batch(
        self, request: ExchangeRequest, response: ExchangeResponse, answered_at: float
    ) -> None:
        batch: dict[str, float] = {}
        quotas = self.quotas()
        reserved = zip(*request.reservations[: len(response.waits)])
        for bucket, units in zip(request.buckets, reserved):
            if bucket.name in quotas:
                kind = quotas[bucket.name].kind
                batch[kind] = max(batch.get(kind, 0.0), sum(units))
        self._degraded.reserved(answered_at + response.waits[0] / SECOND, batch)

    def _pause_with_others(self, until: float) -> None:
        if until > self.pause.until + LATE_SECONDS:
            self.pause.until, self.pause.status = until, None
            self._reservations.release(before=until)

    def _read_waiting_headers(self, now: float) -> list[Event]:
        events: list[Event] = []
        unread = self.learned_state.begin_reading(now)
        for feedback, dispatch in unread:
            events += super()._read(feedback, dispatch, now)
        self.learned_state.end_reading(now)
        return events

    # -- without the store -----------------------------------------------------------------------

    def lose_store(self) -> None:
        """The store cannot be reached: use what is reserved still, then a share of the quota."""
        self._degraded.enter()

    # Three cases: "stop" sends nothing, not even what is reserved; otherwise reservations are used
    # up first, then the share (or, for "full", the process's own pacer) decides.
    def _decide_without_store(self, cost: Cost, now: float) -> Decision:
        store, quotas, own = self._store, list(self.quotas().items()), super().decide(cost, now)
        degraded = self._degraded.decide(cost, own, store.on_failure, quotas, store.members, now)
        reservation = self._reservation_for(cost, now)
        if reservation is None or store.on_failure == STOP:
            return degraded
        # The other members use theirs, too: so all of the quota is used until the last of them.
        return _later(self.gate(cost, now), reservation)

    def rejoin(self, members: int, now: float, settle_seconds: float) -> None:
        """The store can be reached again; all *members* will have noticed after *settle_seconds*.

        Members of before, or of now, whichever are more.
        """
        if members > 1 and self.quotas():
            # Until then the others keep to their shares: nothing else may be given out.
            self._pause_until = max(self._pause_until, now + settle_seconds)
        self._store.notify_pending()


def _later(gate: Decision, reservation: Reservation) -> Decision:
    return gate if gate.ready_at >= reservation.at else Decision(reservation.at, RESERVATION)

"""A lane's pacer that shares a store, and a coordinator that asks at once, without a thread."""

from __future__ import annotations

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import RATE, Feedback, RateLimit
from claude_throttle.core.domain.quota import Quota
from claude_throttle.features.sharing.shared_pacer import SharedPacer
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.testing import ManualClock

CALL = Cost(1.0, 0.0, 0.0)


def tokens(units):
    """A call of so many input tokens."""
    return Cost(1.0, float(units), 0.0)


def headers(limit, remaining, kind="requests", **more):
    """What an answer says of one quota."""
    return Feedback(rate_limits={kind: RateLimit(float(limit), float(remaining))}, **more)


def refusal(seconds):
    """A 429 that says how long to wait."""
    return Feedback(cause=RATE, retry_after=seconds, status=429)


class Member:
    """Stands for one process: its pacer, and the coordinator between it and the store."""

    def __init__(self, clock, store, name="one", account="account", on_failure="share", **told):
        self.clock, self.store, self.name, self.account = clock, store, name, account
        self.store_lost, self.members, self.on_failure = False, 1, on_failure
        self.asked = 0
        self.told_late = 0
        burst = told.pop("burst", 1.0 if told else "auto")
        quotas = {kind: q if isinstance(q, Quota) else Quota(q) for kind, q in told.items()}
        self.pacer = SharedPacer(quotas, burst, lane="lane", jitter=lambda seconds: 0.0, store=self)

    # What a pacer wants of its coordinator.

    def notify_pending(self):
        self.told_late += 1

    # What a test does.

    def exchange(self, costs=()):
        """Tell and ask; what was reserved."""
        self.asked += 1
        now = self.clock.monotonic()
        request = self.pacer.make_request(self.name, float("inf"), list(costs), now)
        response = self.store.transact(self.account, "lane", request)
        self.events = self.pacer.apply(request, response, now, now)
        return response

    def leaves_at(self, cost=CALL, behind=()):
        """When *cost* may leave; reserves if it has to, as soon as it may."""
        for _ in range(5):
            now = self.clock.monotonic()
            costs = self.pacer.needs_reservation(cost, lambda most: list(behind)[:most], now)
            if costs is not None:
                self.exchange(costs)
                continue
            at = self.pacer.ready_at(cost, now)
            if self.store_lost or self.pacer._reservations or at <= now:
                return at
            self.clock.advance(at - now)  # until then there is no use in reserving
        raise AssertionError("it may never leave")

    def leave(self, cost=CALL, behind=()):
        """Wait until it may, then let it leave; its stamp."""
        at = self.leaves_at(cost, behind)
        self.clock.advance(max(0.0, at - self.clock.monotonic()))
        return self.pacer.take(cost, self.clock.monotonic())


def two(**told):
    """Two processes with one store, and the clock of both."""
    clock = ManualClock()
    store = MemoryStore(clock.monotonic)
    return clock, Member(clock, store, "one", **told), Member(clock, store, "two", **told)

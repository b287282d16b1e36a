"""One process of a simulated fleet: it plays the worker and the clerk around a real pacer."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Dispatch, Feedback
from claude_throttle.simulation.fleet_parts import (
    FROM_THE_BACKLOG,
    FleetCall,
    FleetParts,
    Work,
)

if TYPE_CHECKING:
    from claude_throttle.simulation.fleet_simulation import FleetSimulation

#: Seconds, as clerk.py has them: an exchange at most; until news are told; between signs of life,
#: the first few and all others; between looks for a silent store.
TIMEOUT_SECONDS = 0.25
NEWS_SECONDS = 0.05
FIRST_BEAT_SECONDS = 0.1
BEAT_SECONDS = 1.0
BEAT_SECONDS_A_MEMBER = 0.01
LOOK_SECONDS = 0.5
STALE_SECONDS = 0.25

#: Microseconds in a second.
SECOND = 1e6

ACCOUNT, LANE, NO_LANE = "account", "lane", ""


class SimulatedProcess:
    """Everything it does it does in the instants that the simulation gives it."""

    def __init__(self, fleet: FleetSimulation, number: int, parts: FleetParts, work: Work) -> None:
        self.number, self.work = number, work
        # As a pacer's clerk.
        self.store_lost, self.members, self.on_failure = False, 1, fleet.on_failure
        self.dead = False
        #: Answers that refused for the rate.
        self.refused = 0
        self._fleet = fleet
        self._beat = parts.beat
        self._time = parts.time()
        self._name = f"process {number}"
        self._stalled_until = -math.inf
        self._urgent: deque[FleetCall] = deque()
        self._waiting: deque[FleetCall] = deque()
        #: The worker itself is asking, and does nothing else.
        self._worker_asks = False
        self._news_at = self._look_at = math.inf
        self._out = self._ticks = 0
        self._beat_at, self._beat_gap = -math.inf, FIRST_BEAT_SECONDS / 2.0
        self.pacer = parts.pacer(number, self)

    # -- its life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Its first instant."""
        self._come(self.work.per_second, False)
        self._come(self.work.urgent_per_second, True)
        self._tick_after(0.0)
        self._look()

    def die(self) -> None:
        """At once, without a word."""
        self.dead = True

    def stall(self, until: float) -> None:
        """Nothing happens in it until then; what would have, happens after."""
        self._stalled_until = until

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._fleet.at(self._fleet.now + seconds, partial(self._live, happen))

    def _live(self, happen: Callable[[], None]) -> None:
        if self.dead:
            return
        if self._fleet.now < self._stalled_until:
            self._fleet.at(self._stalled_until, partial(self._live, happen))
        else:
            happen()

    def _come(self, per_second: float, urgent: bool) -> None:
        if per_second > 0:
            self._after(
                self._fleet.chance.expovariate(per_second),
                partial(self._submit, per_second, urgent),
            )

    def _submit(self, per_second: float, urgent: bool) -> None:
        (self._urgent if urgent else self._waiting).append(FleetCall(self._fleet.now, urgent))
        self._come(per_second, urgent)
        self._look()

    @property
    def waiting_since(self) -> float:
        """When the oldest call that waits was submitted; inf if none does. Not of a backlog."""
        return min((line[0].at for line in (self._urgent, self._waiting) if line), default=math.inf)

    # -- its worker ------------------------------------------------------------------------------

    @property
    def _head(self) -> Optional[FleetCall]:
        for line in (self._urgent, self._waiting):
            if line:
                return line[0]
        return FROM_THE_BACKLOG if self.work.backlogged else None

    def _ahead(self, head: FleetCall, most: int) -> list[Cost]:
        """Those of the head's own rank behind it."""
        waiting = len(self._urgent if head.urgent else self._waiting) - 1
        if self.work.backlogged and not head.urgent:
            waiting = most
        return [self._fleet.cost] * min(most, waiting) if self._fleet.batches else []

    def _look(self) -> None:
        """As flow/worker.py does it: a reservation first, then whoever may leave."""
        while not self._worker_asks:
            head, now = self._head, self._fleet.now
            if head is None:
                return None
            ahead = partial(self._ahead, head)
            costs = self.pacer.needs_reservation(self._fleet.cost, ahead, now)
            if costs is not None:
                self._worker_asks = True
                self._ask(costs)
                continue
            ready_at = self.pacer.ready_at(self._fleet.cost, now)
            if ready_at > now:
                return self._look_again(ready_at)
            self._leave(head, now)
        return None

    def _look_again(self, at: float) -> None:
        if at == math.inf or self._fleet.now < self._look_at <= at:
            return
        self._look_at = at
        self._after(at + self._fleet.late() - self._fleet.now, self._woken)

    def _woken(self) -> None:
        self._look_at = math.inf
        self._look()

    def _leave(self, head: FleetCall, now: float) -> None:
        for line in (self._urgent, self._waiting):
            if line and line[0] is head:
                line.popleft()
        self._fleet.left(self.number, head, self.store_lost)
        dispatch = self.pacer.take(self._fleet.cost, now, answers=self._fleet.server is not None)
        if self._fleet.server is not None:
            self._out += 1
            done_at, reply = self._fleet.server.arrive(self._fleet.request, now)
            self._after(done_at - now, lambda: self._hear(head, dispatch, reply(self._fleet.now)))

    def _hear(self, call: FleetCall, dispatch: Dispatch, feedback: Feedback) -> None:
        cost, now = self._fleet.cost, self._fleet.now
        self._out -= 1
        if feedback.cause:
            self.refused += 1
            wait_seconds = feedback.retry_after or 1.0
            self.pacer.refused(feedback, dispatch, cost, wait_seconds, self._out, now)
            (self._urgent if call.urgent else self._waiting).appendleft(call)
        else:
            asked = self._fleet.request
            actual = Cost(cost.requests, asked.input_tokens, asked.output_tokens)
            self.pacer.settle(cost, actual, dispatch.at)
            self.pacer.answered(feedback, dispatch, actual.minus(cost), now)
        self._look()

    # -- its clerk -------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """A refusal that holds for everybody."""
        self._live(lambda: self._pause(seconds))

    def _pause(self, seconds: float) -> None:
        self.pacer.pause_for(seconds, self._fleet.now)

    def notify_pending(self) -> None:
        """To be told soon."""
        if self._news_at == math.inf:
            self._news_at = self._fleet.now + NEWS_SECONDS
            self._after(NEWS_SECONDS, self._tell)

    def _tell(self) -> None:
        self._news_at = math.inf
        if self.store_lost or not self.pacer.has_pending:
            return
        if self.pacer.is_exchanging:
            self.notify_pending()
        else:
            self._ask([])

    def _not_after(self) -> float:
        return self._time.to_store(self._fleet.now + TIMEOUT_SECONDS)

    def _ask(self, costs: list[Cost]) -> None:
        order = self.pacer.make_request(self._name, self._not_after(), costs, self._fleet.now)
        self.pacer.is_exchanging = True
        self._exchange("slots" if costs else "news", LANE, order, partial(self._told, order))

    def _told(self, order: Any, reply: Any) -> None:
        self.pacer.is_exchanging = False
        now = self._fleet.now
        if reply is None:
            self.pacer.restore(order, now, in_doubt=True)
        else:
            said_at = self._time.to_local(reply.now)
            self.pacer.apply(order, reply, said_at, now)
            self._fleet.slots += [said_at + wait / SECOND for wait in reply.waits]
        self._worker_asks = self._worker_asks and not order.reservations
        self._look()

    def _exchange(self, what: str, lane: str, order: Any, hear: Callable[[Any], None]) -> None:
        ledger, asked_at = self._fleet.store.ledger, self._fleet.now

        def feedback(reply: Any) -> None:
            if reply is not None:
                self._time.observe(reply.now, asked_at, self._fleet.now)
            hear(reply)

        self._bounded(what, lambda: ledger.transact(ACCOUNT, lane, order), feedback)

    def _bounded(self, what: str, do: Callable[[], Any], hear: Callable[[Any], None]) -> None:
        """*hear* is called once: with the answer, or with None when it did not come in time."""
        ended: list[bool] = []

        def end(answer: Any) -> None:
            if not ended:
                ended.append(True)
                if answer is None:
                    self._lose()
                hear(answer)

        self._fleet.store.ask(what, do, lambda answer: self._live(partial(end, answer)))
        self._after(TIMEOUT_SECONDS, partial(end, None))

    def _tick_after(self, seconds: float) -> None:
        self._ticks += 1
        self._after(seconds, partial(self._tick, self._ticks))

    def _tick(self, number: int) -> None:
        """Now and then: say that we are there, or find out whether the store is."""
        if number != self._ticks:
            return  # another was agreed on
        if self.store_lost:
            self._bounded("looks", self._fleet.store.ledger.now, self._found)
            return
        now = self._fleet.now
        if not self._fleet.beats:
            self._tick_after(STALE_SECONDS)
            return
        if self.pacer.is_stale(now) and not self.pacer.is_exchanging:
            self._ask([])
        if now >= self._beat_at and (self._head is not None or self._out):
            longest = max(BEAT_SECONDS, BEAT_SECONDS_A_MEMBER * self.members)
            self._beat_gap = min(2.0 * self._beat_gap, longest)
            self._beat_at = now + self._beat_gap
            self._be_there(self._counted)
        self._tick_after(min(self._beat_gap, STALE_SECONDS))

    def _be_there(self, hear: Callable[[Any], None]) -> None:
        self._exchange("beats", NO_LANE, self._beat(self._name, self._not_after()), hear)

    def _counted(self, reply: Any) -> None:
        if reply is not None and reply.done:
            self.members = reply.members

    def _found(self, at: Optional[float]) -> None:
        if at is None:
            self._tick_after(LOOK_SECONDS)
        else:
            self._be_there(self._returned)

    def _returned(self, reply: Any) -> None:
        if reply is None:
            self._tick_after(LOOK_SECONDS)
            return
        self._counted(reply)
        self.store_lost = False
        self.pacer.rejoin(self._fleet.now, LOOK_SECONDS)
        self._tick_after(STALE_SECONDS)
        self._look()

    def _lose(self) -> None:
        if not self.store_lost:
            self.store_lost = True
            self.pacer.lose_store()
            self._tick_after(LOOK_SECONDS)
            self._look()

"""One process of a simulated fleet: a real lane whose quotas a real coordinator shares.

The coordinator lies in features/sharing, above this package, so it is passed in as a function
(:data:`MakeMember`) and known here by a protocol only.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, NamedTuple, Optional, Protocol

from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.blocking import Blocking, BlockingCall
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.simulation.client import (
    SimulatedCall,
    SimulatedClient,
    SimulatedTransport,
    no_delay,
)
from claude_throttle.simulation.fleet_store import SimulatedStore
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.virtual_time import (
    Ended,
    Event,
    VirtualPool,
    VirtualThread,
    VirtualTime,
)

#: Seconds after which an exchange with the store has failed: the default of ``store_timeout``.
STORE_TIMEOUT_SECONDS = 0.25

#: Calls that wait in a process that always has some: more than one reservation takes.
BACKLOG_CALLS = 22


class Workload(NamedTuple):
    """The calls that one process has to send: a steady backlog, random arrivals, or both."""

    #: There is always another call waiting.
    backlogged: bool = False
    #: Calls that come at random.
    per_second: float = 0.0
    #: Calls of priority INTERACTIVE that come at random.
    urgent_per_second: float = 0.0


@dataclass
class FleetCall(SimulatedCall):
    """A simulated call, and how its process came to submit it."""

    urgent: bool = False
    #: It is one of those of which there is always another.
    backlogged: bool = False


class FleetCoordinator(Protocol):
    """The part of the interface of features/sharing's coordinator that the simulation uses."""

    #: The store cannot be reached.
    store_lost: bool

    def working(self) -> Blocking[None]:
        """The steps of its thread; it ends when there was nothing to do for long."""
        ...

    def reserving(self, lane: Lane, costs: list[Cost]) -> Blocking[None]:
        """The steps of a reservation, made by the lane's worker."""
        ...


class MemberParts(NamedTuple):
    """Everything that the coordinator of one process is made from."""

    store: SimulatedStore
    limiter: ConcurrencyLimiter
    #: The process's only lane; not made yet when this is handed over.
    lanes: Callable[[], list[Lane]]
    thread_pool: ThreadPool
    clock: VirtualTime


#: Makes the pacer of a process, and the coordinator it reserves through.
MakeMember = Callable[[MemberParts], "tuple[Pacer, FleetCoordinator]"]


class FleetConditions(NamedTuple):
    """Everything that the processes of one fleet have in common."""

    time: VirtualTime
    chance: random.Random
    store: SimulatedStore
    #: Made when the store did not answer in time.
    store_failed: Callable[[str], Exception]
    server: Optional[SimulatedServer]
    request: SimulatedRequest
    cost: Cost
    #: Calls that wait in a process that always has some.
    backlog_calls: int
    late: Callable[[], float]
    #: Called with each call as an attempt of it leaves.
    departed: Callable[[int, FleetCall, bool], None]


class ProcessSchedule:
    """The events of one process: they are late while it is stalled, and lost when it is dead.

    A stall stands for a paused container or a long garbage collection: time goes on, and everything
    that was due happens at its end, in order. Death is a kill: nothing is given back or signed off.
    """

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._stalled_until = -math.inf
        self.dead = False

    @property
    def now(self) -> float:
        """The present instant, in seconds."""
        return self._time.now

    def at(self, instant: float, event: Event) -> None:
        """Have *event* happen at *instant*, or when the process goes on."""
        self._time.at(instant, partial(self._happen, event))

    def stall(self, until: float) -> None:
        """Delay everything that is due before *until* to that instant."""
        self._stalled_until = until

    def die(self) -> None:
        """Drop every event from now on, as a kill does."""
        self.dead = True

    def _happen(self, event: Event) -> None:
        if self.dead:
            return
        if self.now < self._stalled_until:
            self.at(self._stalled_until, event)
        else:
            event()


class SimulatedProcess:
    """Submits its workload, and runs the threads of its lane and of its coordinator."""

    def __init__(
        self, conditions: FleetConditions, number: int, make: MakeMember, load: Workload
    ) -> None:
        self.number, self.load = number, load
        self.schedule = ProcessSchedule(conditions.time)
        self._conditions = conditions
        self._numbers = itertools.count(1)
        pool, limiter = VirtualPool(self.schedule), ConcurrencyLimiter()
        parts = MemberParts(
            conditions.store, limiter, lambda: [self.client.lane], pool, conditions.time
        )
        self.pacer, self.coordinator = make(parts)
        self.client = SimulatedClient(
            conditions.time,
            self.schedule,
            pool,
            pacer=self.pacer,
            limiter=limiter,
            transport=SimulatedTransport(
                self.schedule, conditions.server, no_delay, conditions.chance
            ),
            price=lambda _call: conditions.cost,
            reserving=self.coordinator.reserving,
            sent=self._sent,
        )
        self._working: Optional[VirtualThread] = None
        self._coordinating: Optional[VirtualThread] = None

    def start(self) -> None:
        """Begin to work."""
        steps = self.client.worker.working()
        self._working = VirtualThread(self.schedule, steps, self._ask, self._conditions.late)
        self._working.start()
        self._submit_later(self.load.per_second, urgent=False)
        self._submit_later(self.load.urgent_per_second, urgent=True)
        for _ in range(self._conditions.backlog_calls * self.load.backlogged):
            self._submit(backlogged=True)

    def close(self) -> None:
        """End its threads."""
        for thread in (self._working, self._coordinating):
            if thread is not None:
                thread.close()

    def pause_by_server(self, seconds: float) -> None:
        """Pause the lane for *seconds*, as a 429 with ``retry-after`` would."""
        with self.client.lane.mutex:
            self.pacer.pause_for(seconds, self.schedule.now)

    @property
    def store_lost(self) -> bool:
        """Whether it goes on without the store."""
        return self.coordinator.store_lost

    @property
    def waiting_since(self) -> float:
        """When the oldest waiting call was submitted; inf if none waits. Not of a backlog."""
        waiting: list[Any] = self.client.lane.backlog.waiting_locked()
        calls = [ticket.record for ticket in waiting]
        return min((call.at for call in calls if not call.backlogged), default=math.inf)

    # -- its callers -----------------------------------------------------------------------------

    def _submit_later(self, per_second: float, urgent: bool) -> None:
        if per_second > 0:
            at = self.schedule.now + self._conditions.chance.expovariate(per_second)
            self.schedule.at(at, partial(self._submit_one_of_many, per_second, urgent))

    def _submit_one_of_many(self, per_second: float, urgent: bool) -> None:
        self._submit(urgent=urgent)
        self._submit_later(per_second, urgent)

    def _submit(self, urgent: bool = False, backlogged: bool = False) -> None:
        self._ensure_coordinating()
        call = FleetCall(
            next(self._numbers),
            self._conditions.request,
            self.schedule.now,
            urgent=urgent,
            backlogged=backlogged,
        )
        self.client.submit(call, Priority.INTERACTIVE if urgent else Priority.NORMAL)

    def _sent(self, call: SimulatedCall) -> None:
        if isinstance(call, FleetCall):
            self._conditions.departed(self.number, call, self.store_lost)
            if call.backlogged and len(call.sent_at) == 1:
                self._submit(backlogged=True)

    # -- its threads -----------------------------------------------------------------------------

    def _ensure_coordinating(self) -> None:
        if self._coordinating is None or self._coordinating.ended:
            steps = self.coordinator.working()
            self._coordinating = VirtualThread(self.schedule, steps, self._ask)
            self._coordinating.start()

    def _ask(self, call: BlockingCall, ended: Ended) -> None:
        """Make a call at the store; it fails if the answer does not come in time."""
        unanswered = [True]

        def end(result: Any, error: Optional[BaseException]) -> None:
            if unanswered:
                unanswered.clear()
                ended(result, error)

        def answer(result: Any) -> None:
            self.schedule.at(self.schedule.now, partial(end, result, None))

        self._conditions.store.ask(call, answer)
        failure = self._conditions.store_failed("no answer in time")
        give_up_at = self.schedule.now + STORE_TIMEOUT_SECONDS
        self.schedule.at(give_up_at, partial(end, None, failure))

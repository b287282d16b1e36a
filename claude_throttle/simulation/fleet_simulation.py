"""A discrete-event simulation of many processes that share one quota, in virtual time.

No threads, no sockets, no store: a thousand processes for minutes in seconds, the same for the same
seed. What decides is given to it (the real pacers, the real ledger: :mod:`fleet_parts`); it plays
what lies between them: workers and clerks (:mod:`fleet_process`), the wire, and a store that serves
one exchange at a time (:mod:`fleet_store`). :mod:`fleet_report` tells what came of it::

    fleet = FleetSimulation(parts, [Work(backlogged=True)] * 1000, StoreSpeed(0.001))
    report = report_on(fleet.run(until=120.0), rate=100.0)
    print(report.utilisation, report.fairness)
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable
from functools import partial
from typing import Callable, NamedTuple, Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.simulation.fleet_parts import FleetCall, FleetParts, Work
from claude_throttle.simulation.fleet_process import SimulatedProcess
from claude_throttle.simulation.fleet_store import SimulatedStore, StoreSpeed
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer

#: Mean seconds by which a worker wakes late.
LATE_SECONDS = 0.0002

#: Seconds over which the processes start.
START_SECONDS = 1.0

#: What a call costs where nothing else is said.
ONE = Cost(1.0, 0.0, 0.0)

#: What the server makes of each.
ANSWERED = SimulatedRequest()


class FleetDeparture(NamedTuple):
    """One call as it left."""

    at: float
    #: Number of the process.
    process: int
    call: FleetCall
    #: Without the store: on its own part of the quota.
    alone: bool


class FleetSimulation:
    """Run it with :meth:`run`; then look at ``leaves``, ``processes``, ``store`` and ``server``."""

    def __init__(
        self,
        parts: FleetParts,
        works: Iterable[Work],
        speed: StoreSpeed,
        *,
        cost: Cost = ONE,
        batches: bool = True,
        beats: bool = True,
        on_failure: str = "share",
        server: Optional[SimulatedServer] = None,
        request: SimulatedRequest = ANSWERED,
        start_seconds: float = START_SECONDS,
        late_seconds: float = LATE_SECONDS,
        seed: int = 0,
    ) -> None:
        """*works*: one for each process. *batches*: whether slots are reserved ahead.

        *beats*: whether each busy process says once a second that it is there; who leaves them out
        saves most of the run's time, but nobody knows then how many share. Without a *server*
        nothing is ever answered, and nothing refused.
        """
        self.now = 0.0
        self.cost, self.batches, self.beats = cost, batches, beats
        self.on_failure = on_failure
        self.server, self.request = server, request
        self.chance = random.Random(seed)
        #: Every call that left, in order.
        self.leaves: list[FleetDeparture] = []
        #: Instants of the slots that were given.
        self.slots: list[float] = []
        #: What is to happen beside the calls, and when.
        self.changes: list[tuple[float, Callable[[], None]]] = []
        self.until = 0.0
        self._late_seconds = late_seconds
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.store = SimulatedStore(self, parts.ledger(lambda: self.now), speed)
        self.processes = [
            SimulatedProcess(self, number, parts, work) for number, work in enumerate(works)
        ]
        for process in self.processes:
            self.at(start_seconds * self.chance.random(), process.start)

    def run(self, until: float) -> FleetSimulation:
        """Let time pass until that instant."""
        self.until = until
        for at, change in self.changes:
            self.at(at, change)
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._agenda)
            happen()
        self.now = until
        return self

    def at(self, at: float, happen: Callable[[], None]) -> None:
        """Have it happen then."""
        heapq.heappush(self._agenda, (at, next(self._order), happen))

    def left(self, process: int, call: FleetCall, alone: bool) -> None:
        """It leaves in this instant."""
        self.leaves.append(FleetDeparture(self.now, process, call, alone))

    def late(self) -> float:
        """Seconds by which a worker wakes late, this time."""
        if not self._late_seconds:
            return 0.0
        return self.chance.expovariate(1.0 / self._late_seconds)

    # -- what may happen to them -----------------------------------------------------------------

    def freeze_store(self, at: float, seconds: float) -> None:
        """It serves nobody for so long; what is asked meanwhile it serves after."""
        self.changes.append((at, partial(self.store.freeze, at + seconds)))

    def stall(self, number: int, at: float, seconds: float) -> None:
        """That process does nothing for so long: SIGSTOP, a swapped-out host."""
        self.changes.append((at, partial(self.processes[number].stall, at + seconds)))

    def kill(self, number: int, at: float) -> None:
        """That process is gone, and says nothing to anybody."""
        self.changes.append((at, self.processes[number].die))

    def pause(self, number: int, at: float, seconds: float) -> None:
        """That process hears that nothing may leave for so long."""
        self.changes.append((at, partial(self.processes[number].pause, seconds)))

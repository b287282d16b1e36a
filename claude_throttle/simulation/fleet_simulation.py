"""A discrete-event simulation of many processes that share one quota, in virtual time.

No threads, no sockets: hundreds of processes for minutes in seconds, the same for the same seed.
Each process is a real lane, worker, pacer and coordinator (:mod:`fleet_process`), and the store is
a real one (:mod:`fleet_store`); simulated are time, the wires, and what the processes have to send.
Pacer, coordinator and store are given to it, in :class:`FleetParts`: they are a feature, which
nothing here may import. :mod:`fleet_report` tells what came of it::

    fleet = FleetSimulation(parts, [Workload(backlogged=True)] * 1000, StoreSpeed(0.001))
    report = report_on(fleet.run(until=120.0), rate=100.0)
    print(report.utilisation, report.fairness)
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import Callable, NamedTuple, Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.simulation.client import LATE_SECONDS
from claude_throttle.simulation.fleet_process import (
    BACKLOG_CALLS,
    FleetCall,
    FleetConditions,
    MakeMember,
    SimulatedProcess,
    Workload,
)
from claude_throttle.simulation.fleet_store import FleetStore, SimulatedStore, StoreSpeed
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.virtual_time import VirtualTime

#: Seconds over which the processes start.
START_SECONDS = 1.0

#: What a call costs where nothing else is said.
ONE = Cost(1.0, 0.0, 0.0)

#: What the server makes of each.
ANSWERED = SimulatedRequest()


class FleetParts(NamedTuple):
    """The parts of features/sharing that a fleet is simulated with."""

    #: By a clock that tells seconds.
    make_store: Callable[[Callable[[], float]], FleetStore]
    #: The exception of a store that does not answer.
    store_failed: Callable[[str], Exception]
    make_member: MakeMember


class FleetDeparture(NamedTuple):
    """One call as it left: the instant, its process, and whether the store was reachable."""

    at: float
    #: Number of the process.
    process: int
    call: FleetCall
    #: It left on its process's own part of the quota: the store could not be reached.
    store_lost: bool


class FleetSimulation:
    """Many processes and one store. Run it with :meth:`run`; then look at what was recorded.

    ``departures`` has every call that left, ``processes`` and ``store`` their figures;
    :func:`claude_throttle.simulation.fleet_report.report_on` sums them up. Runs once, in one
    thread.
    """

    def __init__(
        self,
        parts: FleetParts,
        loads: Iterable[Workload],
        speed: StoreSpeed,
        *,
        cost: Cost = ONE,
        batches: bool = True,
        server: Optional[SimulatedServer] = None,
        request: SimulatedRequest = ANSWERED,
        start_seconds: float = START_SECONDS,
        late_seconds: float = LATE_SECONDS,
        seed: int = 0,
    ) -> None:
        """*loads*: one for each process. *batches*: whether slots are reserved ahead.

        Without a *server* each call is answered as it is sent, and nothing is refused.
        """
        self.server = server
        #: Every call that left, in order.
        self.departures: list[FleetDeparture] = []
        #: What is to happen beside the calls, and when.
        self.changes: list[tuple[float, Callable[[], None]]] = []
        self.until = 0.0
        self._time, chance = VirtualTime(), random.Random(seed)
        self.store = SimulatedStore(
            self._time, parts.make_store(self._time.monotonic), speed, chance
        )
        late = partial(chance.expovariate, 1.0 / late_seconds) if late_seconds else _never_late
        conditions = FleetConditions(
            self._time,
            chance,
            self.store,
            parts.store_failed,
            server,
            request,
            cost,
            # A reservation is for calls that wait: where only one does, it is for one.
            BACKLOG_CALLS if batches else 1,
            late,
            self._departed,
        )
        self.processes = [
            SimulatedProcess(conditions, number, parts.make_member, load)
            for number, load in enumerate(loads)
        ]
        for process in self.processes:
            process.schedule.at(start_seconds * chance.random(), process.start)

    def run(self, until: float) -> FleetSimulation:
        """Let time pass until that instant. To be called once."""
        self.until = until
        for at, change in self.changes:
            self._time.at(at, change)
        try:
            self._time.run_until_idle(until)
        finally:
            for process in self.processes:
                process.close()
        return self

    def _departed(self, process: int, call: FleetCall, store_lost: bool) -> None:
        self.departures.append(FleetDeparture(call.sent_at[-1], process, call, store_lost))

    # -- what may happen to them -----------------------------------------------------------------

    def freeze_store(self, at: float, seconds: float) -> None:
        """The store serves nothing for *seconds*; what is asked meanwhile it serves afterwards.

        Exchanges that take longer than the store's time-out have failed for their process by then.
        """
        self.changes.append((at, partial(self.store.freeze, at + seconds)))

    def stall(self, number: int, at: float, seconds: float) -> None:
        """Stop process *number* for *seconds*, as SIGSTOP or a swapped-out host does.

        Its reservations pass unused meanwhile; what was due happens when it goes on.
        """
        self.changes.append((at, partial(self.processes[number].schedule.stall, at + seconds)))

    def kill(self, number: int, at: float) -> None:
        """End a process at once, without a word to the others: its reservations pass unused."""
        self.changes.append((at, self.processes[number].schedule.die))

    def pause_process(self, number: int, at: float, seconds: float) -> None:
        """Have the server ask one process to send nothing for *seconds*."""
        process = self.processes[number]
        self.changes.append((at, partial(process.pause_by_server, seconds)))


def _never_late() -> float:
    return 0.0

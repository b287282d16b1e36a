"""How a simulated fleet used its quota: did it exceed it, how much was left unused, was it fair.

Pure functions over the log of departures, so a test can also ask for one figure of part of a run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from claude_throttle.simulation.fleet_simulation import FleetDeparture, FleetSimulation
from claude_throttle.simulation.fleet_store import RESERVATIONS
from claude_throttle.simulation.windows import worst_excess


class FleetReport(NamedTuple):
    """Figures for the time from *since* to the end."""

    calls: int
    #: Calls that left, as a share of what the quota allowed.
    utilisation: float
    #: Calls beyond what any window may hold, each instant given 5 ms; 0 or less means none.
    excess: float
    #: Jain's index over the backlogged: 1 = all had as much, 1/n = one had all.
    fairness: float
    #: Calls of the backlogged process that had least, and most.
    least: int
    most: int
    #: Exchanges with the store in a second, by their purpose.
    exchanges_per_second: dict[str, float]
    #: Exchanges that reserve, and all exchanges, for each call.
    reservations_per_call: float
    exchanges_per_call: float
    #: Share of its time the store was busy.
    store_busy: float
    #: Reservations that passed unused, including those that were returned.
    missed: int
    #: Urgent calls, and the seconds they waited too long; see :func:`waits_beyond_place`.
    urgent: int
    urgent_p99_seconds: float
    urgent_longest_seconds: float


def report_on(
    fleet: FleetSimulation, rate: float, burst: float = 1.0, since: float = 0.0
) -> FleetReport:
    """The figures of a fleet that has run. *rate*: of its quota, in requests a second."""
    departures = [departure for departure in fleet.departures if departure.at >= since]
    seconds = fleet.until - since
    shares = shares_of(fleet, departures)
    waits = sorted(waits_beyond_place(departures, rate))
    asked = fleet.store.asked
    calls = max(1, len(fleet.departures))
    return FleetReport(
        calls=len(departures),
        utilisation=len(departures) / (rate * seconds),
        excess=excess(departures, rate, burst),
        fairness=jain(shares),
        least=min(shares, default=0),
        most=max(shares, default=0),
        exchanges_per_second={what: count / fleet.until for what, count in asked.items()},
        reservations_per_call=asked[RESERVATIONS] / calls,
        exchanges_per_call=sum(asked.values()) / calls,
        store_busy=fleet.store.busy_seconds / fleet.until,
        missed=missed(fleet),
        urgent=len(waits),
        urgent_p99_seconds=waits[int(len(waits) * 0.99)] if waits else 0.0,
        urgent_longest_seconds=waits[-1] if waits else 0.0,
    )


def excess(departures: Sequence[FleetDeparture], rate: float, burst: float = 1.0) -> float:
    """Calls beyond what any window may hold; 0 or less means none."""
    return worst_excess(
        [departure.at for departure in departures], [1.0] * len(departures), rate, burst
    )


def shares_of(fleet: FleetSimulation, departures: Sequence[FleetDeparture]) -> list[int]:
    """Calls of each process that always had some waiting and has not been killed."""
    left = Counter(departure.process for departure in departures if not departure.call.urgent)
    alive = [process for process in fleet.processes if process.load.backlogged]
    return [left[process.number] for process in alive if not process.schedule.dead]


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 = all have the same, 1/n = one has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def missed(fleet: FleetSimulation) -> int:
    """Reservations that passed unused: instants of the quota that no process can use any more."""
    passed = sum(at <= fleet.until for at in fleet.store.reserved_at)
    return passed - sum(not departure.store_lost for departure in fleet.departures)


def waits_beyond_place(departures: Sequence[FleetDeparture], rate: float) -> list[float]:
    """Seconds by which each urgent call left later than it would have from one common queue.

    From there it would have left before all other calls: one interval after the urgent call before
    it, or one interval after it was submitted. Only the difference is blamed on sharing the quota
    between processes; an urgent call that follows many urgent ones must wait in any case.
    """
    last, waits = -math.inf, []
    for departure in sorted(
        (some for some in departures if some.call.urgent), key=lambda s: s.call.at
    ):
        last = max(last, departure.call.at) + 1.0 / rate
        waits.append(max(0.0, departure.at - last))
    return waits

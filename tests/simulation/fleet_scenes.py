"""Scenes for the simulated fleet: the real pacers and the real ledger, up to 1,000 processes."""

from __future__ import annotations

import math
import random

from claude_throttle.core.domain.quota import Quota
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.shared_pacer import (
    HORIZON_SECONDS,
    MOST_RESERVATIONS,
    SharedPacer,
)
from claude_throttle.features.sharing.stores.contract import SECOND, ExchangeRequest, MemberClaim
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.simulation.fleet_parts import FleetParts, Work
from claude_throttle.simulation.fleet_simulation import FleetSimulation
from claude_throttle.simulation.fleet_store import SERVICE_SECONDS, StoreSpeed

#: Round trips, in seconds.
LOCAL, DATACENTRE, FAR = 0.0002, 0.001, 0.010

#: Seconds after which a member that says nothing counts as gone.
LEASE_SECONDS = 15.0

BACKLOGGED = Work(backlogged=True)


def parts(rpm, burst=1.0):
    """The real things, told so much a minute."""
    quotas = {"rpm": Quota(rpm)}
    return FleetParts(
        lambda number, coordinator: SharedPacer(
            quotas, burst, lane="lane", jitter=lambda seconds: 0.0, store=coordinator
        ),
        MemoryStore,
        _beat,
        ClockOffset,
    )


def _beat(member, not_after):
    return ExchangeRequest(
        member, not_after, (), claim=MemberClaim(0, 0, 0.0, LEASE_SECONDS * SECOND)
    )


def fleet(
    rpm,
    works,
    *,
    burst=1.0,
    round_trip=DATACENTRE,
    service=SERVICE_SECONDS,
    jitter=0.0,
    seed=0,
    **more,
):
    """A scene that has not begun. Signs of life only where the store fails: see FleetSimulation."""
    random.seed(seed)  # a process's part of the quota begins at a random instant
    speed = StoreSpeed(round_trip, service, jitter)
    return FleetSimulation(parts(rpm, burst), works, speed, seed=seed, **{"beats": False, **more})


def batch_of(rpm):
    """Reservations in one exchange, at most."""
    return min(MOST_RESERVATIONS, math.floor(HORIZON_SECONDS * rpm / 60.0) + 1)


def one_batch_of_each(count, rpm):
    """Seconds of quota in one batch of so many processes."""
    return count * batch_of(rpm) * 60.0 / rpm


def fullest_second(leaves):
    """Calls in the fullest window of a second."""
    first, most = 0, 0
    for last, leave in enumerate(leaves):
        while leaves[first].at <= leave.at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def left_between(simulation, begin, end):
    """Calls that left in that time."""
    return sum(begin <= leave.at < end for leave in simulation.leaves)

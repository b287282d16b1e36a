"""Scenes for the simulated fleet: the real pacers, coordinators and store, up to 1,000 of them."""

from __future__ import annotations

import math
import random
from functools import partial

from claude_throttle.core.domain.quota import Quota
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.concurrency_share import ConcurrencyShare
from claude_throttle.features.sharing.coordinator import Coordinator, SharedAccount
from claude_throttle.features.sharing.shared_pacer import (
    ALL_HORIZONS_SECONDS,
    HORIZON_SECONDS,
    MOST_RESERVATIONS,
)
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.simulation.fleet_process import STORE_TIMEOUT_SECONDS, Workload
from claude_throttle.simulation.fleet_simulation import FleetParts, FleetSimulation
from claude_throttle.simulation.fleet_store import SERVICE_SECONDS, StoreSpeed

#: Round trips, in seconds.
LOCAL, DATACENTRE, FAR = 0.0002, 0.001, 0.010

#: Seconds after which a member that says nothing counts as gone.
LEASE_SECONDS = 15.0

BACKLOGGED = Workload(backlogged=True)


def parts(rpm, burst=1.0, on_failure="share"):
    """The real things, with so much configured a minute."""
    return FleetParts(MemoryStore, StoreFailed, partial(_member, rpm, burst, on_failure))


def _member(rpm, burst, on_failure, given):
    """As features/sharing/open_store.py puts a coordinator together."""
    offset = ClockOffset()
    share = ConcurrencyShare(
        given.limiter,
        given.lanes,
        lambda: 0.2,
        LEASE_SECONDS,
        offset,
        given.clock.monotonic,
        lambda: coordinator.wants_slot(),
    )
    coordinator = Coordinator(
        SharedAccount(given.store, "account", STORE_TIMEOUT_SECONDS, on_failure),
        share,
        given.lanes,
        lambda event, call: None,
        lambda notice: None,
        given.thread_pool,
        given.clock,
        offset,
    )
    quotas = {"rpm": Quota(rpm)}
    pacer = coordinator.make_pacer(quotas, burst, lane="lane", jitter=lambda seconds: 0.0)
    return pacer, coordinator


def fleet(
    rpm,
    loads,
    *,
    burst=1.0,
    round_trip=DATACENTRE,
    service=SERVICE_SECONDS,
    jitter=0.0,
    seed=0,
    **more,
):
    """A scene that has not begun."""
    random.seed(seed)  # a process's part of the quota begins at a random instant
    speed = StoreSpeed(round_trip, service, jitter)
    return FleetSimulation(parts(rpm, burst), loads, speed, seed=seed, **more)


def batch_of(rpm, count=1):
    """Slots in one reservation of each of so many processes, at most."""
    horizon = min(HORIZON_SECONDS, ALL_HORIZONS_SECONDS / count)
    return min(MOST_RESERVATIONS, math.floor(horizon * rpm / 60.0) + 1)


def one_batch_of_each(count, rpm):
    """Seconds of quota in one batch of so many processes."""
    return count * batch_of(rpm, count) * 60.0 / rpm


def fullest_second(departures):
    """Calls in the fullest window of a second."""
    first, most = 0, 0
    for last, departure in enumerate(departures):
        while departures[first].at <= departure.at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def left_between(simulation, begin, end):
    """Calls that left in that time."""
    return sum(begin <= departure.at < end for departure in simulation.departures)

"""Many processes, one quota, in virtual time: none beyond it, none lost, nobody starved."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.simulation.fleet_process import Workload
from claude_throttle.simulation.fleet_report import jain, report_on
from claude_throttle.simulation.fleet_simulation import FleetDeparture, FleetSimulation
from claude_throttle.simulation.fleet_store import StoreSpeed
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import SimulatedServer
from tests.simulation.fleet_scenes import (
    BACKLOGGED,
    DATACENTRE,
    FAR,
    LOCAL,
    batch_of,
    fleet,
    fullest_second,
    left_between,
    one_batch_of_each,
    parts,
)
from tests.support.thorough import LONG, only_thorough, tried

pytestmark = LONG

FLEETS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
round_trips = st.sampled_from([LOCAL, DATACENTRE, FAR])
seeds = st.integers(0, 10_000)


def judged(simulation, rpm, seconds, since=2.0):
    return report_on(simulation.run(seconds), rpm / 60, since=since)


# -- the report itself -----------------------------------------------------------------------------


def test_the_judge_sees_a_call_too_many():
    """A report that finds no fault with anything says nothing."""
    scene = fleet(600, [BACKLOGGED] * 3)
    scene.run(10.0)
    assert report_on(scene, 10.0).excess <= 0
    first = scene.departures[20]
    scene.departures[21:21] = [FleetDeparture(first.at, 0, first.call, False)] * 3
    assert report_on(scene, 10.0).excess == pytest.approx(3.0, abs=0.2)


def test_the_judge_sees_one_process_that_had_all():
    assert jain([5, 5, 5, 5]) == 1.0
    assert jain([20, 0, 0, 0]) == 0.25


def test_it_is_the_same_for_the_same_seed():
    """So that a figure can be looked into."""
    works = [Workload(per_second=0.5, urgent_per_second=0.1)] * 10
    first, again = (fleet(600, works, seed=5).run(20.0).departures for _ in range(2))
    assert first == again
    assert first != fleet(600, works, seed=6).run(20.0).departures


# -- scenes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_trip", [LOCAL, only_thorough(DATACENTRE), only_thorough(FAR)])
def test_ten_backlogged_processes_use_all_of_it_and_share_alike(round_trip):
    done = judged(fleet(1200, [BACKLOGGED] * 10, round_trip=round_trip), 1200, 60.0)
    assert done.utilisation >= 0.99
    assert done.excess <= 0
    assert done.most - done.least <= 2 * batch_of(1200)
    assert done.missed == 0


@pytest.mark.parametrize("count", [50, only_thorough(100), only_thorough(1000)])
def test_many_backlogged_processes_use_all_of_it(count):
    """None has two batches more than another."""
    rpm = 60 * count
    done = judged(fleet(rpm, [BACKLOGGED] * count), rpm, 10.0, since=1.0)
    assert done.utilisation >= 0.99
    assert done.excess <= 0
    # The first ones begin with a batch of 20, while they do not know of the others.
    assert done.most - done.least <= 2 * batch_of(rpm)
    assert done.missed <= 1
    assert done.reservations_per_call <= 0.55


def test_batches_save_most_of_the_exchanges():
    """Six slots for one, where a twentieth of a second holds as many."""
    many, single = (
        judged(fleet(6000, [BACKLOGGED] * 20, batches=batches), 6000, 6.0)
        for batches in (True, False)
    )
    assert batch_of(6000, 20) == 6
    assert many.reservations_per_call == pytest.approx(1 / 6, rel=0.1)
    assert single.reservations_per_call == pytest.approx(1.0, rel=0.1)
    assert (many.utilisation, single.utilisation) >= (0.99, 0.99)


@pytest.mark.parametrize("count", [30, only_thorough(100), only_thorough(1000)])
def test_many_quiet_processes_ask_once_for_each_call(count):
    """Poisson, 90 % of the quota: none waits long, and none is left behind."""
    scene = fleet(6000, [Workload(per_second=90 / count)] * count)
    done = judged(scene, 6000, 20.0)
    assert done.excess <= 0
    assert done.utilisation == pytest.approx(0.9, abs=0.07)
    assert done.reservations_per_call == pytest.approx(1.0, abs=0.05)
    assert min(process.waiting_since for process in scene.processes) >= 20.0 - 3.0


@pytest.mark.parametrize(
    ("count", "rpm", "urgent", "since"),
    # Of a large fleet, once its members know of each other: see batch_of().
    [(10, 1200, 0.1, 2.0), only_thorough(200, 12_000, 0.01, 10.0)],
)
def test_an_urgent_call_waits_for_one_batch_of_each_other_at_most(count, rpm, urgent, since):
    loads = [Workload(backlogged=True, urgent_per_second=urgent)] * count
    done = judged(fleet(rpm, loads), rpm, 60.0, since)
    assert done.urgent > 50
    assert done.urgent_longest_seconds <= one_batch_of_each(count, rpm)


@pytest.mark.thorough
def test_half_of_them_die():
    """Each takes a batch with it; then the others have all of it."""
    scene = fleet(6000, [BACKLOGGED] * 20)
    for number in range(10):
        scene.kill(number, 5.0)
    done = judged(scene, 6000, 16.0)
    assert done.missed <= 10 * batch_of(6000)
    assert left_between(scene, 8.0, 16.0) == pytest.approx(800, abs=2)
    assert done.excess <= 0


@pytest.mark.thorough
def test_a_store_that_is_too_slow_for_so_many_is_the_bottleneck():
    """Two thousandths of a second each, one at a time: 500 calls a second without batches."""
    ways = {
        batches: judged(
            fleet(60_000, [BACKLOGGED] * 20, service=0.002, batches=batches), 60_000, 4.0
        )
        for batches in (True, False)
    }
    assert ways[True].utilisation >= 0.99
    assert ways[False].utilisation == pytest.approx(0.5, abs=0.03)


def test_a_store_frozen_for_ten_seconds():
    """Everybody goes on with a part, and all of it is used again two seconds after."""
    scene = fleet(1200, [BACKLOGGED] * 10)
    scene.freeze_store(20.0, 10.0)
    scene.run(40.0)
    assert fullest_second(scene.departures) <= 20 * 1.05 + 10
    assert left_between(scene, 22.0, 30.0) >= 0.9 * 160
    assert left_between(scene, 32.0, 40.0) >= 0.97 * 160
    assert not any(process.store_lost for process in scene.processes)


def test_headers_cost_news_but_not_more_than_twenty_a_second_each():
    """Each answer tells of limits, and is compared with what all have taken."""
    server = SimulatedServer(SimulatedLimits(rpm=6000, burst=100))
    done = judged(fleet(6000, [BACKLOGGED] * 10, server=server), 6000, 10.0)
    assert done.excess <= 0
    assert done.utilisation >= 0.97
    assert 0 < done.exchanges_per_second["reports"] <= 200
    assert not any(seen.cause for seen in server.log)


# -- whatever comes --------------------------------------------------------------------------------

kinds = st.sampled_from(
    [
        BACKLOGGED,
        Workload(),
        Workload(per_second=0.2),
        Workload(backlogged=True, urgent_per_second=0.2),
    ]
)


def fleets(most_rpm):
    """Works, quota, round trip, what befalls which of them, and a seed."""
    troubles = st.tuples(st.integers(0, 24), st.floats(2.0, 9.0), st.floats(0.0, 3.0))
    return (
        st.lists(kinds, min_size=1, max_size=25),
        st.integers(300, most_rpm),
        round_trips,
        st.lists(troubles, max_size=4),
        seeds,
    )


@tried(*fleets(6_000), few=3, how=FLEETS)
def test_never_over_the_quota_and_nobody_starves(works, rpm, round_trip, troubles, seed):
    """Some stall, some die (a stall of less than half a second): the rest have all that is left."""
    judge_fleet(works, rpm, round_trip, troubles, seed)


@pytest.mark.thorough
@FLEETS
@given(*fleets(30_000))
def test_never_over_the_quota_and_nobody_starves_of_large_quotas(
    works, rpm, round_trip, troubles, seed
):
    """Five times as large: most of the time of the thorough run goes here."""
    judge_fleet(works, rpm, round_trip, troubles, seed)


def judge_fleet(works, rpm, round_trip, troubles, seed):
    """All of a quota is used and not more, and each has its part, whatever befalls some."""
    scene, seconds = fleet(rpm, works, round_trip=round_trip, seed=seed), 16.0
    for number, at, lasts in troubles:
        if number < len(works):
            scene.stall(number, at, lasts) if lasts >= 0.5 else scene.kill(number, at)
    done = judged(scene, rpm, seconds)
    # A reply that is read late moves the slots in it.
    assert done.excess <= batch_of(rpm) * len(troubles)
    turn = one_batch_of_each(len(works), rpm)
    hit = {number for number, _, _ in troubles}
    shares = [
        sum(departure.process == process.number for departure in scene.departures)
        for process in scene.processes
        if process.load.backlogged and process.number not in hit
    ]
    if turn < seconds / 2:
        assert min(shares, default=1) >= 1
    if not hit:
        assert done.most - done.least <= 2 * batch_of(rpm) + 0.2 * seconds * 4
        assert done.missed <= 1
    for process in scene.processes:
        if not process.load.per_second and process.number not in hit:
            assert process.waiting_since >= seconds - 2 * turn - 1.0


@tried(
    st.integers(2, 20),
    st.integers(300, 6_000),
    st.floats(3.0, 8.0),
    round_trips,
    seeds,
    few=3,
    how=FLEETS,
)
def test_a_silent_store_costs_one_more_for_each_process(count, rpm, lasts, round_trip, seed):
    """In any window of a second: the quota and a twentieth, and one for each.

    And, when it is back, the parts of those who have not noticed: they look each 0.75 s.
    """
    scene = fleet(rpm, [BACKLOGGED] * count, round_trip=round_trip, seed=seed)
    scene.freeze_store(10.0, lasts)
    scene.run(10.0 + lasts + 6.0)
    assert fullest_second(scene.departures) <= rpm / 60 * (1.05 + 0.75) + count


# -- what may go wrong ----------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_pause_holds_for_everybody():
    """Heard within a second, and all of it is used again when it is over."""
    scene = fleet(6000, [BACKLOGGED] * 100)
    scene.pause_process(0, 5.0, 5.0)
    scene.run(14.0)
    assert left_between(scene, 6.0, 10.0) == 0
    assert left_between(scene, 12.0, 14.0) >= 0.97 * 200


def test_a_pause_of_ten_processes_holds_within_a_second():
    scene = fleet(600, [BACKLOGGED] * 10)
    scene.pause_process(0, 20.0, 5.0)
    scene.run(40.0)
    assert left_between(scene, 21.0, 25.0) == 0


def test_two_processes_find_the_store_again():
    """A twentieth above the quota, and one for each."""
    scene = fleet(1050, [BACKLOGGED] * 2, round_trip=LOCAL)
    scene.freeze_store(10.0, 9.390625)
    scene.run(31.0)
    assert fullest_second(scene.departures) <= 1050 / 60 * 1.05 + 2


class RestartableStore:
    """A store that keeps nothing on disk."""

    def __init__(self, monotonic):
        self.restart = lambda: vars(self).update(store=MemoryStore(monotonic))
        self.restart()

    def transact(self, *asked):
        return self.store.transact(*asked)

    def read_clock(self):
        return self.store.read_clock()


def test_the_first_that_finds_an_empty_store_waits_for_those_who_have_not_looked_yet():
    """It was the only member that the store knew, and took all of the quota at once."""
    random.seed(0)
    made = []
    real = parts(1200)._replace(
        make_store=lambda monotonic: made.append(RestartableStore(monotonic)) or made[0]
    )
    scene = FleetSimulation(real, [BACKLOGGED] * 5, StoreSpeed(DATACENTRE))
    scene.freeze_store(10.0, 6.0)
    scene.changes.append((15.99, made[0].restart))
    scene.run(25.0)
    assert fullest_second(scene.departures) <= 20 + 1
    assert left_between(scene, 18.0, 25.0) >= 0.95 * 7 * 20


def test_a_store_that_freezes_in_the_first_second():
    scene = fleet(1200, [BACKLOGGED] * 10)
    scene.freeze_store(0.9, 10.0)
    scene.run(20.0)
    assert fullest_second(scene.departures) <= 20 * 1.05 + 10


@pytest.mark.parametrize("count", [40, only_thorough(100), only_thorough(1000)])
def test_a_freeze_costs_a_large_fleet_the_second_in_which_it_ends(count):
    """Ten seconds are reserved ahead: they are used all the same, without the store and after."""
    rate = count / 10.0
    scene = fleet(60 * rate, [BACKLOGGED] * count)
    scene.freeze_store(5.0, 5.0)
    scene.run(16.0)
    assert left_between(scene, 6.0, 10.0) >= 0.95 * 4.0 * rate
    assert left_between(scene, 12.0, 16.0) >= 0.95 * 4.0 * rate


@pytest.mark.thorough
def test_a_far_store_with_a_restless_wire():
    """Each way 5 ms, and 5 more on average: soon each process knows the quickest way back."""
    scene = fleet(12_000, [BACKLOGGED] * 20, round_trip=FAR, jitter=0.005)
    assert judged(scene, 12_000, 12.0, since=8.0).excess <= 0


@pytest.mark.parametrize(("count", "used"), [(1, 20 / (20 + 10)), (2, 0.99)])
def test_a_process_waits_a_round_trip_for_each_batch(count, used):
    """1,000 calls a second, the store 10 ms away, batches of 20 slots.

    The next batch is asked for when the last slot is used: one process alone uses two thirds of the
    quota, two use all of it.
    """
    done = judged(fleet(60_000, [BACKLOGGED] * count, round_trip=FAR), 60_000, 3.0, since=1.0)
    assert done.utilisation >= used


def test_what_left_while_the_store_was_silent_is_told():
    scene = fleet(6000, [BACKLOGGED] * 10, burst=100.0)
    scene.freeze_store(10.0, 10.0)
    scene.run(30.0)
    assert report_on(scene, 100.0, burst=100.0).excess <= 0

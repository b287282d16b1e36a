"""One quota of requests, nothing told: which buckets, on which networks, how much of it is used.

What decides is the server's bucket against what the network shuffles: of the calls that left within
its spread (the slowest way less the fastest), all may arrive in one instant. The bounds were
measured over 15,000 runs.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from claude_throttle.simulation.client import MAX_RETRIES
from claude_throttle.simulation.quotas import SimulatedLimits
from tests.simulation.scenes import refusals, simulate, spread_over, unanswered
from tests.support.simulated_calls import (
    SCENES,
    calls,
    latencies,
    rates,
    second_half,
    seeds,
    stamps,
)
from tests.support.thorough import LONG, only_thorough, tried

pytestmark = LONG

OFTEN = settings(SCENES, max_examples=100)


def one_quota_of_requests(rpm, burst, latency, spread, at, seed):
    """Calls enough for half a minute and more; nothing told. *spread*: the network's, in seconds.

    Returns the run and the share of the quota that it used, once it knew it.
    """
    count = round(burst + rpm / 60 * (30 + 15 * latency))
    done = simulate(
        SimulatedLimits(rpm=rpm, burst=burst),
        calls(count, latency, seed),
        network=spread_over(spread),
        headers_at=at,
        seed=seed,
    )
    return done, second_half(done, lambda request: 1.0, rpm / 60)


#: Seconds between the fastest and the slowest way: loopback to a bad line.
spreads = st.floats(-3.7, -0.7).map(lambda power: 10**power)
#: Requests that a bucket holds beyond those that a test names.
depths = st.floats(0.0, 2.5).map(lambda power: 10**power - 1.0)


@pytest.mark.parametrize("latency", [0.0, only_thorough(0.3), 0.6, only_thorough(1.0), 4.0])
@pytest.mark.parametrize("way", [0.05, 0.45])
def test_thirty_callers_at_once_meet_two_refusals_at_most(latency, way):
    """Nothing told, a burst of two; refusals may be slow on their *way*, as answers are."""
    done = simulate(
        SimulatedLimits(rpm=60, burst=2), calls(30, latency, 1), network=lambda _: way, seed=1
    )
    assert refusals(done) <= 2
    assert not unanswered(done)


@tried(rates, depths, latencies, spreads, stamps, seeds, few=4, how=OFTEN)
def test_one_quota_of_requests_is_used_and_not_overdrawn(rpm, depth, latency, spread, at, seed):
    """Nothing told: 0.97 of it in the second half, a few 429s while it is learned, none failed.

    For buckets of four requests and what the network shuffles together: of the calls that left
    within its spread all may arrive in one instant. On a narrow network that is four.
    """
    burst = math.ceil(4 + spread * rpm / 60 + depth)
    done, used = one_quota_of_requests(rpm, burst, latency, spread, at, seed)
    assert unanswered(done) == []
    assert used > 0.97
    # Ours is late by what is on the way: a wave or two, each by a part of what was in flight.
    assert refusals(done) <= 7 + 0.1 * rpm / 60 * latency


#: Requests that a bucket holds beyond what the network shuffles, at least, and what is used of it.
#: One alone would do for a client that spaced strictly and knew the pace before. Who learns it by
#: trial meets a 429 now and then, and each stands still for a second of the fifteen that count.
SMALL_BUCKETS = {1: 0.6, 2: 0.8, 3: 0.9}


@pytest.mark.parametrize("room", [only_thorough(1), 2, only_thorough(3)])
@tried(rates, st.floats(0.0, 0.99), latencies, spreads, stamps, seeds, few=4, how=SCENES)
def test_a_small_bucket_is_used_for_the_most_part(room, rpm, part, latency, spread, at, seed):
    """Two requests, or three, or four: less than the guard of two calls needs, and none failed."""
    burst = math.ceil(spread * rpm / 60 + room + part)
    if burst == 1:
        burst = 2  # one at a time is another matter
    done, used = one_quota_of_requests(rpm, burst, latency, spread, at, seed)
    assert unanswered(done) == []
    assert used > SMALL_BUCKETS[min(3, math.floor(burst - spread * rpm / 60))]
    assert refusals(done) <= 12 + 0.1 * rpm / 60 * latency


@tried(rates, st.floats(0.0, 0.1), latencies, stamps, seeds, few=4, how=SCENES)
def test_one_at_a_time_on_a_narrow_network(rpm, shuffled, latency, at, seed):
    """A bucket of one, where at most every tenth call may overtake: 0.85, for some distance.

    Nobody reaches all of it: calls must be apart by the interval and the spread.
    """
    spread = shuffled * 60 / rpm
    done, used = one_quota_of_requests(rpm, 1, latency, spread, at, seed)
    assert unanswered(done) == []
    assert used > 0.85 / (1 + shuffled)
    assert refusals(done) <= 8 + 0.1 * rpm / 60 * latency


@tried(rates, st.integers(1, 8), st.floats(0.0, 0.9), latencies, stamps, seeds, few=4, how=SCENES)
def test_a_bucket_smaller_than_what_the_network_shuffles(rpm, burst, beyond, latency, at, seed):
    """No client can use it all: a part of what it could, and every call has its end.

    How much less is no promise: each 429 stands still for a second, which is many calls at such
    paces. Some use up all their retries.
    """
    shuffled = burst - 1 + 10**beyond / 5
    spread = shuffled * 60 / rpm
    done, used = one_quota_of_requests(rpm, burst, latency, spread, at, seed)
    assert all(call.done_at is not None for call in done.calls)
    assert all(len(done.calls[n - 1].sent_at) == MAX_RETRIES + 1 for n in unanswered(done))
    assert used > 0.05 * min(1.0, burst / (1 + shuffled))

"""What holds for any limits, latencies and refusals.

The examples are the same each time (``derandomize``): what is judged is a share of a random run,
and a bound that holds in 999 of 1,000 would else fail once in a while.
"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    Feedback,
    RampLimit,
)
from claude_throttle.simulation.client import MAX_RETRIES
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import SimulatedRequest
from tests.simulation.scenes import (
    NETWORKS,
    between,
    limits_become,
    outage,
    pace,
    refusals,
    seconds,
    simulate,
    unanswered,
)
from tests.support.simulated_calls import (
    SCENES,
    calls,
    latencies,
    networks,
    rates,
    second_half,
    seeds,
    stamps,
)
from tests.support.thorough import LONG, only_thorough, tried

pytestmark = LONG


@tried(st.floats(0.1, 0.5), latencies, networks, stamps, seeds, few=4, how=SCENES)
def test_one_quota_of_input_tokens_is_used_and_not_overdrawn(depth, latency, network, at, seed):
    """Sizes spread tenfold, a bucket of 6 to 30 s: 0.97 of it, one call in fifty refused."""
    rate, chance = 10_000.0, random.Random(seed)
    burst = 60 * rate * depth
    total, requests = burst + rate * (30 + 15 * latency), []
    while total > 0:
        size = between(chance, 200, 2000)
        guess = size * chance.gauss(0.9, 0.05)
        requests += calls(1, latency, chance.random(), input_tokens=size, guess=guess)
        total -= size
    done = simulate(
        SimulatedLimits(itpm=60 * rate, itpm_burst=burst),
        requests,
        network=NETWORKS[network],
        headers_at=at,
        seed=seed,
    )
    assert unanswered(done) == []
    assert second_half(done, lambda request: request.input_tokens, rate) > 0.97
    assert refusals(done) <= 2 + len(requests) / 50


KINDS = {
    "overloaded": (Feedback(OVERLOAD, status=529), 20.0),
    "overloaded, with a time": (Feedback(OVERLOAD, 3.0, status=529), 20.0),
    "fault": (Feedback(FAULT, status=500), 20.0),
    "reset": (Feedback(FAULT), 20.0),
    "rate limit": (Feedback(RATE, 2.0, status=429), 20.0),
    "rate limit, short": (Feedback(RATE, 1.0, status=429), 3.0),
    # Those that use up retries must be shorter than the retries take.
    "too many connections": (Feedback(CONCURRENCY, status=429), 0.4),
}


#: One that pauses the lane and one that does not; the others in the thorough run.
BY_DEFAULT = ("rate limit", "fault")


@pytest.mark.parametrize(
    "kind", [kind if kind in BY_DEFAULT else only_thorough(kind) for kind in KINDS]
)
@tried(
    network=networks,
    at=stamps,
    seed=seeds,
    latency=st.floats(0.05, 1.0),
    few=2,
    how=settings(SCENES, max_examples=6),
)
def test_full_pace_comes_back_after_every_refusal(kind, network, at, seed, latency):
    """From ten seconds after its end on; whoever failed had used up all its retries."""
    feedback, lasts = KINDS[kind]
    changes = [(5.0, outage(feedback)), (5.0 + lasts, outage(None))]
    done = simulate(
        SimulatedLimits(rpm=1200, burst=20),
        calls(1000, latency, seed),
        network=NETWORKS[network],
        headers_at=at,
        seed=seed,
        changes=changes,
    )
    end = 5.0 + lasts
    assert all(len(done.calls[n - 1].sent_at) == MAX_RETRIES + 1 for n in unanswered(done))
    assert all(call.done_at is not None for call in done.calls)
    left = sum(call.done_at > end + 10.0 for call in done.calls)
    assert left > 200, "else nothing is left to judge by"
    assert pace(done, end + 10.0, end + 18.0) >= 0.94 * 20.0


@tried(st.floats(5.0, 60.0), networks, stamps, seeds, few=4, how=SCENES)
def test_an_outage_fails_nobody_and_is_not_doubled(lasts, network, at, seed):
    """However long: every call is answered after it, and a probe each few seconds is all it saw."""
    done = simulate(
        SimulatedLimits(rpm=1200, burst=20),
        calls(300, 0.3, seed),
        network=NETWORKS[network],
        headers_at=at,
        seed=seed,
        changes=[(5.0, outage(Feedback(OVERLOAD))), (5.0 + lasts, outage(None))],
    )
    assert unanswered(done) == []
    # What was in flight, the five that opened the circuit and their like, then the probes.
    assert refusals(done, (OVERLOAD,)) <= 14 + 5 + lasts / 5


@tried(st.integers(1, 20), latencies, networks, seeds, few=4, how=SCENES)
def test_a_concurrency_cap_is_found(cap, latency, network, seed):
    """Nothing told: answered all, near the cap most of the time, and few are refused for it."""
    done = simulate(
        SimulatedLimits(rpm=1e6, max_concurrency=cap),
        calls(40 * cap, latency, seed),
        network=NETWORKS[network],
        seed=seed,
    )
    way = 0.0004 if network == "loopback" else 0.08
    # A look for a permit may come late by 0.25 s, as the worker's does, where nobody wakes it.
    assert unanswered(done) == []
    assert seconds(done) <= 1.35 * 40 * (latency + way) + 5.0
    assert refusals(done) <= 12 + 40 * cap / 10


@tried(seeds, networks, stamps, st.integers(2, 30), few=4, how=SCENES)
def test_nobody_starves(seed, network, at, large):
    """Every tenth call takes most of the bucket: all leave in their order, large and small."""
    requests = [
        SimulatedRequest(input_tokens=large * 1000.0 if n % 10 == 0 else 300.0, latency=0.3)
        for n in range(200)
    ]
    done = simulate(
        SimulatedLimits(itpm=600_000, itpm_burst=33_000),
        requests,
        network=NETWORKS[network],
        headers_at=at,
        seed=seed,
    )
    first = [call.sent_at[0] for call in done.calls]
    assert first == sorted(first)
    assert unanswered(done) == []
    total = sum(request.input_tokens for request in requests)
    assert seconds(done) <= 1.1 * total / 10_000 + 5.0


@tried(
    st.lists(st.tuples(st.floats(1.0, 8.0), rates, st.integers(1, 100)), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.floats(0.1, 5.0),
            st.sampled_from(
                [
                    *(feedback for feedback, _ in KINDS.values()),
                    Feedback(RAMP, 5.0, growth=RampLimit("input_tokens", 30_000.0, 40_000.0)),
                    Feedback(RAMP, 5.0),
                ]
            ),
            st.floats(0.1, 10.0),
        ),
        max_size=3,
    ),
    networks,
    stamps,
    seeds,
    few=4,
    how=SCENES,
)
def test_whatever_happens_every_call_has_an_end(limits, troubles, network, at, seed):
    """Limits change and refusals of all kinds come: answered, or failed after all its retries."""
    now, changes = 0.0, []
    for gap, rpm, burst in limits:
        now += gap
        changes.append((now, limits_become(rpm=rpm, burst=min(rpm, burst), itpm=1e6)))
    now = 0.0
    for gap, feedback, lasts in troubles:
        changes += [(now + gap, outage(feedback)), (now + gap + lasts, outage(None))]
        now += gap + lasts
    done = simulate(
        SimulatedLimits(rpm=600, burst=20, itpm=1e6),
        calls(200, 0.3, seed),
        network=NETWORKS[network],
        headers_at=at,
        seed=seed,
        changes=changes,
        overloaded=0.02,
    )
    assert all(call.done_at is not None for call in done.calls)
    assert all(len(done.calls[n - 1].sent_at) > MAX_RETRIES for n in unanswered(done))
    assert done.limiter.in_use == 0
    assert max(done.pacer.traffic.pending) < 1e-3
    assert math.isfinite(done.pacer.ready_at(done.calls[0].cost, done.now))

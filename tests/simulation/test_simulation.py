"""The simulation itself: what it plays must be what it says."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from claude_throttle.core.domain.cost import Cost
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
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from tests.simulation.fleet_scenes import BACKLOGGED, fleet
from tests.simulation.scenes import arrivals, limits_become, outage, simulate, unanswered


def test_the_server_lets_in_what_its_buckets_hold():
    """Three at once, then one a second; a refusal says when, and about what."""
    server = SimulatedServer(SimulatedLimits(rpm=60, burst=3))
    causes = [server.arrive(SimulatedRequest(), 0.0)[1](0.0).cause for _ in range(4)]
    assert causes == ["", "", "", RATE]
    refused = server.arrive(SimulatedRequest(), 0.0)[1](0.0)
    assert (refused.retry_after, refused.kind, refused.status) == (1, "requests", 429)
    assert server.arrive(SimulatedRequest(), 1.0)[1](1.0).cause == ""
    assert [seen.cause for seen in server.log] == ["", "", "", RATE, RATE, ""]


@pytest.mark.parametrize(("headers_at", "left"), [("admission", 59.0), ("answer", 58.0)])
def test_headers_are_stamped_when_it_was_told(headers_at, left):
    """A second call was let in before the first was answered."""
    server = SimulatedServer(SimulatedLimits(rpm=60), headers_at=headers_at)
    _, answer = server.arrive(SimulatedRequest(), 0.0)
    server.arrive(SimulatedRequest(), 0.0)
    assert answer(0.2).rate_limits["requests"] == (60, left)


def test_tokens_are_told_in_thousands_and_requests_whole():
    """As the API rounds them; the sum of both kinds of tokens is no limit."""
    server = SimulatedServer(SimulatedLimits(rpm=60, itpm=30_000, otpm=8_000))
    _, answer = server.arrive(SimulatedRequest(input_tokens=1400), 0.0)
    told = answer(0.2).rate_limits
    assert sorted(told) == ["input_tokens", "output_tokens", "requests"]
    assert told["input_tokens"].remaining == 29_000
    assert told["output_tokens"].remaining == 8_000
    assert told["requests"].remaining == 59


def test_a_cap_and_a_ramp_refuse_by_their_own_names():
    """A ramp's refusal tells its growth."""
    full = SimulatedServer(SimulatedLimits(max_concurrency=1))
    full.arrive(SimulatedRequest(), 0.0)
    assert full.arrive(SimulatedRequest(), 0.0)[1](0.0).cause == CONCURRENCY
    steep = SimulatedServer(SimulatedLimits(ramp=1000, ramp_step=500))
    refused = steep.arrive(SimulatedRequest(input_tokens=2000), 10.0)[1](10.0)
    assert (refused.cause, refused.retry_after) == (RAMP, 50)
    assert refused.growth == RampLimit("input_tokens", 1000, 1500)


def test_faults_come_as_often_as_told():
    """None of them gets as far as the quotas."""
    server = SimulatedServer(
        SimulatedLimits(rpm=1e6), overloaded=0.2, errors=0.1, resets=0.1, headers_at="answer"
    )
    feedback = [server.arrive(SimulatedRequest(latency=0.0), 0.0)[1](0.0) for _ in range(5000)]
    shares = {
        "overloaded": sum(h.cause == OVERLOAD for h in feedback) / 5000,
        "errors": sum(h.cause == FAULT and h.status == 500 for h in feedback) / 5000,
        "resets": sum(h.cause == FAULT and h.status is None for h in feedback) / 5000,
    }
    assert shares == pytest.approx({"overloaded": 0.2, "errors": 0.1, "resets": 0.1}, abs=0.02)
    counted = sum(not h.cause for h in feedback)
    assert server.rate_limits(0.0)["requests"].remaining == 1e6 - counted
    assert not any(h.rate_limits for h in feedback if h.cause and h.status is None)


def test_an_unknown_stamp_is_refused():
    """A typo must not choose one silently."""
    with pytest.raises(ValueError, match="headers_at"):
        SimulatedServer(SimulatedLimits(), headers_at="arrival")


def test_time_stands_still_between_what_happens():
    """A call takes the network twice and its answer's time; nothing else."""
    done = simulate(
        SimulatedLimits(), [(5.0, SimulatedRequest(latency=2.0))], network=lambda chance: 0.25
    )
    call = done.calls[0]
    assert (call.sent_at, call.done_at) == ([5.0], 7.5)
    assert arrivals(done) == [5.25]


def test_it_can_be_stopped_and_goes_on():
    """Look at what is in flight, then let the rest happen."""
    done = simulate(
        SimulatedLimits(), [SimulatedRequest(latency=1.0)] * 3, changes=[(0.5, lambda s: None)]
    )
    assert unanswered(done) == []
    assert done.server.in_flight == 0
    assert done.limiter.in_use == 0


def test_a_call_fails_after_its_retries():
    """The server has no end of faults: five attempts each, unless the circuit makes them free."""
    done = simulate(
        SimulatedLimits(), [(float(n * 100), SimulatedRequest()) for n in range(3)], errors=0.99
    )
    assert all(len(call.sent_at) > MAX_RETRIES for call in done.calls if call.failed)
    assert any(call.failed for call in done.calls)


def test_changes_happen_when_told():
    """Limits, and what everything is refused with."""
    changes = [(1.0, outage(Feedback(OVERLOAD))), (2.0, outage(None)), (2.0, limits_become(rpm=60))]
    requests = [(n / 4, SimulatedRequest()) for n in range(16)]
    done = simulate(SimulatedLimits(rpm=6000), requests, changes=changes)
    refused = [seen.at for seen in done.server.log if seen.cause == OVERLOAD]
    assert refused
    assert all(1.0 <= at < 2.0 for at in refused)
    assert done.server.limits == SimulatedLimits(rpm=60)


def test_what_is_booked_is_what_was_estimated_and_then_what_it_took():
    """The real estimator learns from each answer; nothing stays booked."""
    requests = [SimulatedRequest(input_tokens=850, guess=1000.0)] * 40
    done = simulate(SimulatedLimits(itpm=1e6, otpm=1e6), requests)
    assert done.calls[0].cost.input_tokens == 1000.0
    assert done.calls[-1].cost.input_tokens == pytest.approx(850, rel=0.03)
    assert done.calls[-1].held == Cost(1.0, 850, 50.0)
    assert done.pacer.traffic.taken.input_tokens == pytest.approx(40 * 850)


@pytest.mark.parametrize(
    "run",
    [
        lambda: simulate(SimulatedLimits(rpm=60), [SimulatedRequest()] * 9),
        lambda: fleet(600, [BACKLOGGED] * 3).run(3.0),
    ],
    ids=["one", "fleet"],
)
def test_any_thread_may_collect_what_was_simulated(run, monkeypatch):
    """A simulated thread that waits holds a lock, which only the thread that ran it can release."""
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    kept = [run()]

    def drop():
        kept.clear()
        gc.collect()

    dropping = threading.Thread(target=drop)
    dropping.start()
    dropping.join()
    assert complaints == []

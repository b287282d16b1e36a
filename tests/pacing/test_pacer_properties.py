"""All quotas of a lane together: what holds for any timeline."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.backoff import pause_jitter
from claude_throttle.core.pacing.configured_quotas import KINDS
from claude_throttle.core.pacing.gcra import SLACK_SECONDS
from claude_throttle.core.pacing.pacer import Pacer

amounts = st.floats(1.0, 1e5)
quotas = st.dictionaries(
    st.sampled_from(sorted(KINDS)),
    st.builds(
        Quota,
        amounts,
        per=st.sampled_from([1.0, 60.0, 86_400.0]),
        burst=st.one_of(st.none(), st.floats(1.0, 1e4)),
    ),
    min_size=1,
)
costs = st.builds(
    Cost, st.just(1.0), st.sampled_from([0.0, 1.0, 30.0, 5e3]), st.sampled_from([0.0, 7.0, 2e3])
)
#: (seconds until the next ask, cost, seconds by which the worker wakes late)
timelines = st.lists(
    st.tuples(st.floats(0.0, 20.0), costs, st.floats(0.0, 0.004)), min_size=1, max_size=25
)


def bursts_of(lane):
    """What each quota lets leave at once, as the lane keeps it."""
    return {told.name: told.burst for told in lane.configured}


def run(lane, timeline, start=500.0):
    """What left when."""
    now, left = start, []
    for gap, cost, late in timeline:
        now += gap
        ready = lane.ready_at(cost, now)
        if ready > now:
            now = ready + late
        lane.take(cost, now)
        left.append((now, cost))
    return left


@settings(max_examples=30)
@given(quotas, st.integers(1, 30), timelines)
def test_no_window_of_any_quota_holds_more_than_it_may(quotas, burst, timeline):
    """burst + rate * (window + slack), for each quota by itself, whatever is asked when."""
    lane = Pacer(quotas, burst)
    bursts = bursts_of(lane)
    left = run(lane, timeline)
    for name, quota in quotas.items():
        units = [(at, getattr(cost, KINDS[name])) for at, cost in left]
        _require_no_window_over(units, quota.rate, bursts[name])


def _require_no_window_over(left, rate, burst):
    for first, (begin, _) in enumerate(left):
        held = 0.0
        for end, units in left[first:]:
            held += units
            allowed = burst + rate * (end - begin + SLACK_SECONDS) + max(0.0, units - burst)
            assert units == 0 or held <= allowed * (1 + 1e-6) + 1e-6


@given(quotas, timelines, costs)
def test_settling_is_as_if_the_truth_had_been_taken(quotas, timeline, truth):
    """In either direction, a settled estimate leaves no trace."""
    guessed, known = Pacer(quotas), Pacer(quotas)
    for lane in (guessed, known):
        run(lane, timeline)
    at = max(lane.ready_at(Cost(1.0, 5e3, 2e3), 500.0) for lane in (guessed, known)) + 1.0
    estimate = Cost(1.0, 40.0, 3.0)
    truth = Cost(1.0, truth.input_tokens + 1.0, truth.output_tokens + 1.0)
    guessed.take(estimate, at)
    known.take(truth, at)
    guessed.settle(estimate, truth, 0.0)
    for probe in (Cost(1.0, 1.0, 1.0), Cost(1.0, 900.0, 1.0), Cost(1.0, 1.0, 900.0)):
        assert guessed.ready_at(probe, at) == pytest.approx(known.ready_at(probe, at), abs=1e-4)


@given(quotas, timelines, costs)
def test_looking_ahead_agrees_with_what_happens(quotas, timeline, cost):
    """ready_at is kept: at that instant it may leave, a moment earlier it may not."""
    lane = Pacer(quotas)
    now = run(lane, timeline)[-1][0]
    ready = lane.ready_at(cost, now)
    assert lane.ready_at(cost, ready) == ready
    assume(ready > now)
    assert lane.ready_at(cost, math.nextafter(ready, 0.0)) == ready


@given(
    st.floats(1.0, 1e4),
    st.floats(1.0, 50.0),
    st.integers(0, 30),
    st.integers(0, 30),
    st.floats(0.0, 60.0),
)
def test_the_expected_leave_is_the_one_that_comes(amount, burst, before, queued, gap):
    """leaves_at(all that waits, mine) is where a lane that lets them all leave arrives."""
    lane, one = Pacer({"rpm": Quota(amount)}, burst), Cost(1.0, 0.0, 0.0)
    now = run(lane, [(0.0, one, 0.0)] * before)[-1][0] + gap if before else 500.0
    expected = lane.leaves_at(Cost(float(queued), 0.0, 0.0), one, now)
    come = run(lane, [(0.0, one, 0.0)] * (queued + 1), start=now)[-1][0]
    assert expected == pytest.approx(come, abs=SLACK_SECONDS + 1e-6)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 100.0)), min_size=1))
def test_a_pause_is_never_shortened_and_never_below_the_servers_word(pauses):
    """Whatever comes later, nothing leaves before any instant the server has named."""
    lane, now, named = Pacer({"rpm": Quota(6000)}), 100.0, 0.0
    for gap, seconds in pauses:
        now += gap
        before = lane.pause.until
        remaining = lane.pause_for(seconds, now)
        named = max(named, now + seconds)
        assert lane.pause.until >= max(before, named)
        assert remaining == lane.pause.until - now >= seconds
        assert lane.ready_at(Cost(1.0, 0.0, 0.0), now) >= named


@given(st.floats(0.0, 1e5))
def test_jitter_is_on_top_and_bounded(seconds):
    """Up to a tenth, at most 2 s, never negative."""
    drawn = [pause_jitter(seconds) for _ in range(20)]
    assert min(drawn) >= 0.0
    assert max(drawn) <= min(2.0, max(0.05, seconds / 10))
    assert len(set(drawn)) > 1


@given(timelines, amounts, amounts, costs)
def test_a_changed_rate_waits_as_many_units_as_before(timeline, old, new, cost):
    """Reconfigured there and back, nothing has changed."""
    there = Pacer({"tpm": Quota(old, burst=5.0)})
    now = run(there, timeline)[-1][0]
    before = there.ready_at(cost, now)
    for amount in (new, old):
        there.set_quotas({"tpm": Quota(amount, burst=5.0)}, 1.0, now)
    assert there.ready_at(cost, now) == pytest.approx(before, rel=1e-6)


@given(quotas, timelines)
def test_nothing_booked_changes_nothing(quotas, timeline):
    """A cost of zero neither waits nor takes."""
    lane = Pacer(quotas)
    now = run(lane, timeline)[-1][0]
    probe = Cost(1.0, 10.0, 10.0)
    before = lane.ready_at(probe, now)
    assert lane.ready_at(NO_COST, now) == now
    lane.take(NO_COST, now)
    assert not any(lane.settle(probe, probe, 0.0))
    assert lane.ready_at(probe, now) == before

"""Running values: a mean that forgets, a sum that fades, an exposure without survivors' bias."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.pacing.traffic import (
    AverageCost,
    DecayingCost,
    DecayingSum,
    LastMinute,
    LatencyEstimator,
)

values = st.floats(0.0, 1e6)


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=10))
def test_a_mean_of_a_few_is_exact(few):
    """Up to ten, all count alike."""
    mean = AverageCost()
    for value in few:
        mean.add(Cost(1.0, value, 2.0 * value))
    of_all = statistics.fmean(few)
    assert mean.value == pytest.approx((1.0, of_all, 2.0 * of_all), rel=1e-6, abs=1e-6)


def test_a_mean_is_of_those_that_take_any_of_the_kind():
    """Permits may tell one kind only, and a retry's tokens may be booked already."""
    mean = AverageCost()
    for cost in [Cost(1.0, 500.0, 1000.0), Cost(1.0, 300.0, 0.0), Cost(1.0, 0.0, 0.0)] * 3:
        mean.add(cost)
    assert mean.value == pytest.approx((1.0, 400.0, 1000.0))


def test_a_mean_forgets():
    """After sixty others a thousand old ones weigh less than a hundredth."""
    mean = AverageCost()
    for value in [100.0] * 1000 + [1.0] * 60:
        mean.add(Cost(1.0, value, value))
    assert 1.0 < mean.value.input_tokens < 2.0


@given(values, st.floats(0.1, 60.0), st.floats(-100.0, 1e6))
def test_a_sum_fades_to_a_third_in_its_time(amount, seconds, begin):
    """To 1/e, to be exact; and it is whole at the instant itself."""
    fading = DecayingSum(seconds)
    assert fading.value(begin) == 0.0
    fading.add(amount, begin)
    assert fading.value(begin) == amount
    assert fading.value(begin + seconds) == pytest.approx(amount / math.e, rel=1e-6)


def test_sums_add_up():
    """What is left of the old, and the new."""
    fading = DecayingSum(3.0)
    fading.add(10.0, 0.0)
    fading.add(10.0, 3.0)
    assert fading.value(3.0) == pytest.approx(10.0 + 10.0 / math.e)


@given(st.lists(st.tuples(st.floats(0.0, 9.0), values, values, values), max_size=20))
def test_a_cost_fades_as_its_parts_do(steps):
    """All of them at once, with one look at the clock."""
    together, apart, now = DecayingCost(3.0), [DecayingSum(3.0) for _ in range(3)], 5.0
    for seconds, *amounts in steps:
        now += seconds
        before = together.add(Cost(*amounts), now)
        assert before == pytest.approx(
            [one.add(amount, now) for one, amount in zip(apart, amounts)]
        )
    assert together.value(now + 1) == pytest.approx([one.value(now + 1) for one in apart])


@given(st.lists(st.tuples(st.floats(0.0, 40.0), values), max_size=200))
def test_what_left_within_the_last_minute_is_known_to_a_second(steps):
    """No less than what left 59 s ago or later, and no more than what did 60 s ago."""
    minute, left, now = LastMinute(), [], 5.0
    for seconds, amount in steps:
        now += seconds
        minute.add(Cost(1.0, amount, 7.0), now)
        left.append((now, amount))
    found = minute.total(now)
    within = [[amount for at, amount in left if at > now - s] for s in (59.0, 60.0)]
    assert len(within[0]) <= found.requests <= len(within[1])
    assert sum(within[0]) * (1 - 1e-9) <= found.input_tokens <= sum(within[1]) * (1 + 1e-9)


def test_before_the_first_answer_nothing_is_known():
    """No latency, no stretch; also while some are out."""
    exposure = LatencyEstimator()
    assert (exposure.mean(0.0), exposure.stretch(0.0)) == (0.0, 1.0)
    exposure.start_request(0.0)
    assert (exposure.mean(9.0), exposure.stretch(9.0)) == (0.0, 1.0)


def test_one_at_a_time_is_the_plain_mean():
    """Nobody is out unseen: nothing to stretch."""
    exposure, now = LatencyEstimator(), 0.0
    for _ in range(20):
        exposure.start_request(now)
        now += 2.0
        exposure.end(now, 2.0)
    assert exposure.mean(now) == pytest.approx(2.0)
    assert exposure.stretch(now) == pytest.approx(1.0)


def test_the_long_ones_still_out_count():
    """Half take 1 s and half 9: after 5 s only the short are back, and the mean says over 4."""
    exposure = LatencyEstimator()
    for _ in range(20):
        exposure.start_request(0.0)
    for _ in range(10):
        exposure.end(1.0, 1.0)
    assert exposure.mean(1.0) > 1.5
    assert exposure.mean(5.0) == pytest.approx(4.0)  # the most it stretches
    for _ in range(10):
        exposure.end(9.0, 9.0)
    assert exposure.mean(9.0) == pytest.approx(5.0, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_steady_flow_the_mean_is_the_true_one(seed):
    """Answer times spread over two orders of magnitude, one begins every 0.1 s."""
    chance, exposure = random.Random(seed), LatencyEstimator()
    spans = [0.1 * 100 ** chance.random() for _ in range(600)]
    ends = sorted((n * 0.1 + span, span) for n, span in enumerate(spans))
    begins = [n * 0.1 for n in range(len(spans))]
    seen = []
    while begins:
        if begins[0] <= ends[0][0]:
            exposure.start_request(begins.pop(0))
        else:
            exposure.end(*ends.pop(0))
            seen.append(exposure.mean(60.0 * len(seen) / 600))
    assert statistics.fmean(seen[200:]) == pytest.approx(statistics.fmean(spans), rel=0.35)


def test_a_lost_one_says_nothing_about_how_long_answers_take():
    """It ends its exposure, and is no answer."""
    exposure = LatencyEstimator()
    exposure.start_request(0.0)
    exposure.end(2.0, 2.0)
    exposure.start_request(2.0)
    exposure.lose(2.0)
    exposure.lose(2.0)  # nor does one too many matter
    assert exposure.mean(100.0) == pytest.approx(2.0)


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.sampled_from("bel")), max_size=80))
def test_a_stretch_stays_between_one_and_four(steps):
    """Whatever comes and goes."""
    exposure, now, out = LatencyEstimator(), 0.0, []
    for gap, step in steps:
        now += gap
        if step == "b":
            exposure.start_request(now)
            out.append(now)
        elif out:
            begun = out.pop(0)
            exposure.end(now, now - begun) if step == "e" else exposure.lose(now)
        assert 1.0 <= exposure.stretch(now) <= 4.0
        assert 0.0 <= exposure.mean(now) < math.inf

"""The fake server's buckets, with time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.simulation.buckets import SimulatedBucket
from claude_throttle.simulation.quotas import ModelQuotas, SimulatedLimits
from claude_throttle.testing import worst_excess

gaps = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=60)
rates = st.integers(1, 6000)


def instants(gaps):
    now = 1000.0
    for gap in gaps:
        now += gap
        yield now


@given(gaps, rates, st.integers(1, 20))
def test_no_window_holds_more_than_burst_and_refill(gaps, rpm, burst):
    """Whenever requests come, those let in fit the quota in every window."""
    quotas = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst), 1000.0)
    let_in = [now for now in instants(gaps) if quotas.admit(1, now) is None]
    assert worst_excess(let_in, [1] * len(let_in), rpm / 60, burst, 0) <= 1e-3


@given(gaps, rates, st.integers(1, 20))
def test_a_full_bucket_lets_its_burst_in(gaps, rpm, burst):
    """The fake is not stricter than it says: the burst and what was refilled is let in."""
    quotas = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst), 1000.0)
    taken = 0
    for now in instants(gaps):
        refused = quotas.admit(1, now)
        if refused is not None:
            # Only an empty bucket refuses, so since the start all of it must have been taken.
            assert taken >= burst
        taken += refused is None
    assert taken >= min(burst, len(gaps))


@given(
    rates,
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), max_size=30),
)
def test_after_retry_after_the_same_request_is_let_in(itpm, capacity, traffic):
    """``retry-after`` is enough, if nobody else comes in between."""
    quotas = ModelQuotas(SimulatedLimits(itpm=itpm, itpm_burst=capacity), 0.0)
    now = 0.0
    for size, gap in traffic:
        now += gap
        refusal = quotas.admit(min(size, capacity), now)
        if refusal is not None:
            now += refusal.retry_after
            assert quotas.admit(min(size, capacity), now) is None


def test_a_client_exactly_on_time_is_never_refused():
    """Crumbs of floats do not add up to a refusal."""
    quotas = ModelQuotas(SimulatedLimits(rpm=70, burst=1), 0.1)
    assert [quotas.admit(1, 0.1 + n * 60 / 70) for n in range(1000)] == [None] * 1000


def test_retry_after_is_whole_seconds_and_at_least_one():
    """50 per minute refill one in 1.2 s: two whole seconds."""
    quotas = ModelQuotas(SimulatedLimits(rpm=50, burst=1), 0.0)
    assert quotas.admit(1, 0.0) is None
    assert quotas.admit(1, 0.0) == ("requests", 50, 2)
    assert quotas.admit(1, 1.1) == ("requests", 50, 1)


def test_a_refusal_for_tokens_takes_no_request():
    """As in the captured 429: requests-remaining stayed whole."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, itpm=600), 0.0)
    assert quotas.admit(601, 0.0) == ("input tokens", 600, 1)
    assert quotas.standings(0.0)[0].remaining == 60


def test_what_is_larger_than_the_bucket_never_fits():
    """However long one waits."""
    quotas = ModelQuotas(SimulatedLimits(itpm=600, itpm_burst=100), 0.0)
    assert [quotas.admit(101, 1e6 * n) is None for n in range(5)] == [False] * 5


def test_output_is_owed_and_refilled():
    """Output may fall below zero; then the next request waits until there is some again."""
    quotas = ModelQuotas(SimulatedLimits(otpm=60), 0.0)
    assert quotas.admit(1, 0.0) is None
    quotas.charge_output(65, 0.0)
    assert quotas.admit(1, 0.0) == ("output tokens", 60, 6)
    assert quotas.admit(1, 4.9) is not None
    assert quotas.admit(1, 6.0) is None


def test_changed_limits_keep_what_is_in_the_bucket():
    """A smaller bucket spills, a larger one does not fill by itself."""
    bucket = SimulatedBucket(60, 10, 0.0)
    bucket.reshape(60, 4, 0.0)
    assert bucket.level(0.0) == 4
    bucket.reshape(120, 100, 0.0)
    assert bucket.level(3.0) == 10


def test_time_that_stands_or_goes_back_refills_nothing():
    """Two threads may read the clock in one order and come in the other."""
    bucket = SimulatedBucket(60, 10, 5.0)
    bucket.take(10, 5.0)
    assert bucket.level(4.0) == 0
    bucket.take(0, 4.0)
    assert bucket.level(6.0) == 1


def test_standings_know_the_sum_of_tokens():
    """``tokens`` is there when both are limited, and full when both are."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, itpm=600, otpm=60), 0.0)
    quotas.admit(100, 0.0)
    quotas.charge_output(30, 0.0)
    assert quotas.standings(0.0) == [
        ("requests", 60, 59, 1.0),
        ("input-tokens", 600, 500, 10.0),
        ("output-tokens", 60, 30, 30.0),
        ("tokens", 660, 530, 30.0),
    ]


def test_no_limits_no_standings():
    """An account without limits has no such headers."""
    quotas = ModelQuotas(SimulatedLimits(), 0.0)
    assert quotas.admit(10**9, 0.0) is None
    assert quotas.standings(0.0) == []


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_limit_of_nothing_is_refused(wrong):
    """``None`` is unlimited; 0 would be a server that never answers well."""
    with pytest.raises(ValueError, match="rpm must be more than 0"):
        SimulatedLimits(rpm=wrong)

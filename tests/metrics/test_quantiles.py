"""Quantiles of durations, judged by sorted lists."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.metrics.histogram import NO_QUANTILES, Histogram, Quantiles

SMALLEST_SECONDS = 1e-5

durations = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=300)


def histogram(values):
    filled = Histogram()
    for value in values:
        filled.observe(value)
    return filled


def exact(values, share):
    """The smallest value that at least that share of all values does not exceed."""
    ordered = sorted(max(value, SMALLEST_SECONDS) for value in values)
    return next(v for n, v in enumerate(ordered, 1) if n >= share * len(ordered))


@given(durations)
def test_a_quantile_is_off_by_two_percent_at_most(values):
    """Against the sorted list; durations below 10 µs count as 10 µs."""
    found = histogram(values).quantiles()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert getattr(found, name) == pytest.approx(exact(values, share), rel=0.0201), name


@given(durations)
def test_count_and_maximum_are_exact(values):
    """And no quantile exceeds the maximum, or a higher quantile."""
    found = histogram(values).quantiles()
    assert found.count == len(values)
    assert found.max == max(SMALLEST_SECONDS, *values)
    assert 0 < found.p50 <= found.p90 <= found.p99 <= found.max


def test_without_a_duration_all_is_zero():
    """No division by nothing."""
    assert Histogram().quantiles() == NO_QUANTILES == Quantiles(0, 0.0, 0.0, 0.0, 0.0)


def test_a_clock_that_went_backwards_does_no_harm():
    """A negative duration counts as the smallest."""
    assert histogram([-1.0]).quantiles().max == SMALLEST_SECONDS


def test_memory_does_not_grow_with_the_count():
    """A hundred thousand durations need no more room than a thousand spread alike."""
    few, many = histogram(range(1000)), histogram([*range(1000)] * 100)
    assert many.quantiles().count == 100_000
    assert sys.getsizeof(many._buckets) == sys.getsizeof(few._buckets)

"""The retry budget: a share of the traffic, and a few a second."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.pacing.backoff import MOST_SAVED, PER_SECOND, RetryBudget


def test_ten_are_saved_up_at_first():
    """A small program has no traffic to speak of: its first retries wait for nothing."""
    budget = RetryBudget(0.0)
    waits = [budget.withdraw(0.0) for _ in range(12)]
    assert waits == pytest.approx([0.0] * 10 + [1 / PER_SECOND, 2 / PER_SECOND])


def test_an_empty_budget_delays_and_fails_none():
    """A thousand retries at once: the last waits five and a half minutes, none for ever."""
    budget = RetryBudget(0.2)
    waits = [budget.withdraw(0.0) for _ in range(1000)]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(990 / PER_SECOND)


def test_three_a_second_are_always_allowed():
    """Once it is empty, a third of a second earns one."""
    budget = RetryBudget(0.0)
    for _ in range(10):
        budget.withdraw(0.0)
    for second in range(1, 20):
        assert budget.withdraw(float(second) / PER_SECOND) == pytest.approx(0.0, abs=1e-9)


def test_a_fifth_of_the_traffic_may_be_retries():
    """A hundred calls a second with a steady tenth of faults never wait."""
    budget = RetryBudget(0.2)
    waits = []
    for call in range(5000):
        budget.sends += 1
        if call % 10 == 0:
            waits.append(budget.withdraw(call / 100))
    assert max(waits) == 0.0


def test_more_than_the_share_waits():
    """Of a hundred a second that all fail, 3 + a fifth of what leaves may be retried."""
    budget = RetryBudget(0.2)
    for call in range(1000):
        budget.sends += 1
        wait = budget.withdraw(call / 100)
    owed = 1000 - MOST_SAVED - 1000 * 0.2 - 10 * PER_SECOND
    assert wait == pytest.approx(owed / PER_SECOND, rel=0.05)


def test_no_more_than_ten_are_saved():
    """An hour of good traffic is not an hour's worth of retries at once."""
    budget = RetryBudget(1.0)
    for _ in range(1000):
        budget.sends += 1
    budget.withdraw(3600.0)
    waits = [budget.withdraw(3600.0) for _ in range(20)]
    assert sum(wait == 0.0 for wait in waits) == 9


@given(st.floats(0.0, 1.0), st.lists(st.tuples(st.floats(0.0, 30.0), st.booleans()), max_size=80))
def test_a_wait_is_finite_and_never_negative(share, steps):
    """Whatever the traffic; nor does a clock that starts at a million matter."""
    budget, now = RetryBudget(share), 1e6
    for gap, retry in steps:
        now += gap
        if retry:
            assert 0.0 <= budget.withdraw(now) < math.inf
        else:
            budget.sends += 1

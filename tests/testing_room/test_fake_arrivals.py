"""The log of arrivals and the judge of windows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.testing import Arrival, worst_excess
from claude_throttle.testing.arrivals import ArrivalLog

pairs = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=25)


def brute_force(pairs, rate, burst, tolerance):
    worst = -math.inf
    for start, _ in pairs:
        for end, _ in pairs:
            if end >= start:
                held = sum(weight for at, weight in pairs if start <= at <= end)
                worst = max(worst, held - burst - rate * (end - start + 2 * tolerance))
    return worst


@given(pairs, st.floats(0, 100), st.floats(0, 100), st.floats(0, 0.1))
def test_the_quick_judge_agrees_with_the_slow_one(pairs, rate, burst, tolerance):
    """Every pair of start and end, in any order of input."""
    instants, weights = zip(*pairs)
    quick = worst_excess(instants, weights, rate, burst, tolerance)
    assert math.isclose(quick, brute_force(pairs, rate, burst, tolerance), abs_tol=1e-6)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=25), st.integers(0, 5))
def test_the_judge_counts_everything_of_one_instant(instants, rate):
    """A closed window of no length holds all that came at once."""
    pairs = [(at, 1) for at in instants]
    quick = worst_excess(instants, [1] * len(instants), rate, 1, 0)
    assert math.isclose(quick, brute_force(pairs, rate, 1, 0), abs_tol=1e-9)


def test_one_too_many_is_seen():
    """Three at once, two allowed: one too many; spaced by a second, none."""
    assert worst_excess([5, 5, 5], [1, 1, 1], 1, 2, 0) == 1
    assert worst_excess([5, 6, 7], [1, 1, 1], 1, 1, 0) == 0


def test_nothing_came_nothing_was_too_much():
    """No window at all."""
    assert worst_excess([], [], 1, 1) == -math.inf


def test_the_log_forgets_the_oldest():
    """With a limit; without one it keeps all."""
    log, bounded = ArrivalLog(None), ArrivalLog(2)
    for at in range(5):
        arrival = Arrival(at, "m", 1, 1, 200, "", {}, True, "wxyz", 1)
        log.append(arrival)
        bounded.append(arrival)
    assert [arrival.at for arrival in log.copy()] == [0, 1, 2, 3, 4]
    assert [arrival.at for arrival in bounded.copy()] == [3, 4]

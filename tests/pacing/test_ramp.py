"""A ramp limit: growth held to the server's step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.feedback import RampLimit
from claude_throttle.core.pacing.growth_limit import GrowthLimit

#: From a captured refusal of 2026.
SEEN = RampLimit("input_tokens", 58_276.0, 68_276.0)


def leave(ramp, units, now):
    """As early as it may; returns when."""
    at = max(now, ramp.ready_at(units, now))
    ramp.take(units, at)
    return at


def sent_in(ramp, begin, end, units=100.0):
    """Units that leave between two instants, if as many as may do."""
    now, sent = begin, 0.0
    while True:
        now = leave(ramp, units, now)
        if now >= end:
            return sent
        sent += units


def test_the_next_minutes_limit_holds_from_the_refusals_end_on():
    """68,276 in the first minute, 10,000 more in each that follows."""
    ramp = GrowthLimit(SEEN, 100.0)
    minutes = [sent_in(ramp, 100.0 + 60 * n, 160.0 + 60 * n) for n in range(3)]
    assert minutes == pytest.approx([68_276, 78_276, 88_276], rel=0.02)


def test_nothing_leaves_before_it_begins():
    """The refusal's own pause is no time to save anything up in."""
    ramp = GrowthLimit(SEEN, 100.0)
    assert ramp.ready_at(100.0, 90.0) >= 100.0


def test_at_most_a_second_s_worth_leaves_at_once():
    """A minute of rest is not a minute's worth at once: growth is what it is about."""
    ramp = GrowthLimit(SEEN, 0.0)
    at_once = 0
    while ramp.ready_at(100.0, 59.0) <= 59.0:
        ramp.take(100.0, 59.0)
        at_once += 100
    assert at_once == pytest.approx(68_276 / 60, abs=100)


def test_a_rest_of_hours_takes_all_its_steps_at_once():
    """The limit is what it would be by now."""
    ramp = GrowthLimit(SEEN, 0.0)
    ramp.ready_at(1.0, 3600.0)
    assert ramp.limit == pytest.approx(68_276 + 60 * 10_000)


def test_looking_twice_steps_once():
    """A step is a minute, not a look."""
    ramp = GrowthLimit(SEEN, 0.0)
    assert len({ramp.ready_at(1000.0, 61.0) for _ in range(5)}) == 1
    assert ramp.limit == pytest.approx(78_276)


def test_settling_moves_it_both_ways():
    """What was booked too high comes back; what was too low is owed."""
    ramp = GrowthLimit(SEEN, 0.0)
    ramp.take(10_000.0, 1.0)
    before = ramp.ready_at(1000.0, 1.0)
    ramp.correct(-5000.0)
    assert before - ramp.ready_at(1000.0, 1.0) == pytest.approx(5000 * 60 / 68_276)
    ramp.correct(5000.0)
    assert ramp.ready_at(1000.0, 1.0) == pytest.approx(before)


@given(
    st.floats(100.0, 1e6),
    st.floats(0.0, 1e5),
    st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(1.0, 1e4)), min_size=1, max_size=40),
)
def test_no_minute_holds_more_than_its_limit_and_a_second(now_limit, step, asked):
    """Plus the one call that may be larger than a second's worth."""
    ramp, now, sent = (
        GrowthLimit(RampLimit("input_tokens", now_limit, now_limit + step), 0.0),
        0.0,
        [],
    )
    for gap, units in asked:
        now = leave(ramp, units, now + gap)
        sent.append((now, units))
    for begin, _ in sent:
        window = [units for at, units in sent if begin <= at < begin + 60]
        limit = now_limit + step + max(1.0, step) * (begin // 60 + 1)
        assert sum(window) <= limit * (1 + 1 / 60) + max(window) + 1

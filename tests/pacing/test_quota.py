"""One quota, one instant: the arithmetic, with time as an argument."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing import gcra
from claude_throttle.core.pacing.gcra import ROUNDING_SECONDS, SLACK_SECONDS

NEVER_USED = -math.inf

rates = st.floats(0.01, 1000.0)
bursts = st.floats(0.5, 500.0)
instants = st.floats(0.0, 1e5)
#: (seconds until the next ask, units, seconds by which the worker wakes late)
asks = st.lists(
    st.tuples(st.floats(0.0, 30.0), st.floats(0.01, 600.0), st.floats(0.0, 0.005)),
    min_size=1,
    max_size=40,
)


def departures(rate, burst, asks, cap=math.inf):
    """Instants and units of everything that leaves, as a worker would let it."""
    empty_at, now, left = NEVER_USED, 1000.0, []
    for gap, units, late in asks:
        units = min(units, cap)
        now += gap
        ready = gcra.ready_at(empty_at, rate, burst, units)
        if ready > now:
            now = ready + late
        empty_at = gcra.take(empty_at, rate, burst, units, now)
        left.append((now, units))
    return left


def most_over(left, rate, burst):
    """By how many units the fullest window holds more than it may; negative if none does."""
    worst = -math.inf
    for first, (begin, _) in enumerate(left):
        held = 0.0
        for end, units in left[first:]:
            # A call larger than the burst leaves when full: the rest of it is a debt, paid later.
            window = burst + rate * (end - begin + SLACK_SECONDS) + max(0.0, units - burst)
            held += units
            worst = max(worst, (held - window) / max(1.0, window))
    return worst


@given(rates, bursts, asks)
def test_no_window_holds_more_than_the_quota(rate, burst, asks):
    """At most burst + rate * (window + slack) units leave in any window, whenever who asks."""
    assert most_over(departures(rate, burst, asks, cap=burst), rate, burst) <= 1e-6


@given(rates, bursts, asks)
def test_a_large_call_is_a_debt_that_is_paid_before_the_next_leaves(rate, burst, asks):
    """Only the last call of a window may reach beyond it, by what it exceeds the burst."""
    assert most_over(departures(rate, burst, asks), rate, burst) <= 1e-6


@given(rates, bursts, asks)
def test_nothing_waits_longer_than_the_quota_demands(rate, burst, asks):
    """After any past, a call that asks and waits leaves once all that left has been refilled."""
    left = departures(rate, burst, [(gap, units, 0.0) for gap, units, _ in asks])
    gone = 0.0
    for (gap, _, _), (before, units), (now, more) in zip(asks[1:], left, left[1:]):
        gone += units
        longest = max(gap, (gone + min(more, burst)) / rate)
        assert now - before <= longest + 1e-6 * max(1.0, now)


def test_with_a_burst_of_one_it_is_the_fixed_interval():
    """50 a minute leave 1.2 s apart, the first at once."""
    left = departures(50 / 60, 1.0, [(0.0, 1.0, 0.0)] * 4)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(left, left[1:])]
    assert gaps == pytest.approx([1.2, 1.2, 1.2])


def test_a_call_larger_than_the_burst_goes_when_full_and_is_paid_afterwards():
    """10 units from a bucket of 2: it leaves at once, the next unit 9 s later."""
    empty_at = gcra.take(NEVER_USED, 1.0, 2.0, 10.0, now=100.0)
    assert empty_at == pytest.approx(108.0)
    assert gcra.ready_at(empty_at, 1.0, 2.0, 1.0) == pytest.approx(109.0)
    assert gcra.ready_at(empty_at, 1.0, 2.0, 10.0) == pytest.approx(110.0)


@given(st.floats(0.0, 0.99 * SLACK_SECONDS), rates)
def test_a_departure_up_to_one_millisecond_late_is_caught_up(late, rate):
    """The one after it leaves at the instant it would have had without the delay."""
    first = gcra.take(NEVER_USED, rate, 1.0, 1.0, now=0.0)
    due = gcra.ready_at(first, rate, 1.0, 1.0)
    punctual = gcra.take(first, rate, 1.0, 1.0, now=due)
    assert gcra.take(first, rate, 1.0, 1.0, now=due + late) == pytest.approx(punctual, abs=1e-9)


@given(st.floats(2 * SLACK_SECONDS, 100.0), rates)
def test_a_later_departure_moves_the_instant(late, rate):
    """We lose the time rather than send two on each other's heels."""
    first = gcra.take(NEVER_USED, rate, 1.0, 1.0, now=0.0)
    due = gcra.ready_at(first, rate, 1.0, 1.0)
    after = gcra.take(first, rate, 1.0, 1.0, now=due + late)
    next_gap = gcra.ready_at(after, rate, 1.0, 1.0) - (due + late)
    assert next_gap == pytest.approx(1 / rate, abs=2 * ROUNDING_SECONDS)


@given(st.floats(2 * SLACK_SECONDS, 1000.0), rates)
def test_a_rest_gives_no_credit(rest, rate):
    """The call after an idle one leaves a whole interval later: a server may allow no burst."""
    first = gcra.take(NEVER_USED, rate, 1.0, 1.0, now=0.0)
    now = gcra.ready_at(first, rate, 1.0, 1.0) + rest
    after = gcra.take(first, rate, 1.0, 1.0, now=now)
    assert gcra.ready_at(after, rate, 1.0, 1.0) >= now + 1 / rate - 2 * ROUNDING_SECONDS


@given(st.floats(-1e4, 1e5), rates, rates, instants)
def test_keep_level_leaves_the_level_where_it_is(empty_at, old, new, now):
    """Another rate, the same units: neither a gift nor a fine."""
    kept = gcra.keep_level(empty_at, old, new, now)
    assert (now - kept) * new == pytest.approx((now - empty_at) * old, rel=1e-6, abs=1e-3)


def test_keep_level_of_a_quota_nobody_used_yet():
    """It stays full."""
    assert gcra.keep_level(NEVER_USED, 1.0, 2.0, 100.0) == NEVER_USED


def test_a_rate_is_amount_over_period():
    """Quota(50) is 50 a minute; Quota(10, per=1) is 10 a second."""
    assert Quota(50).rate == pytest.approx(50 / 60)
    assert Quota(10, per=1).rate == 10.0
    assert Quota(60).burst is None


def test_headroom_leaves_a_share_to_others():
    """The amount shrinks; the period and a told burst stay."""
    assert Quota(100, 30.0, 7).with_headroom(0.2) == Quota(80.0, 30.0, 7)


@pytest.mark.parametrize("name", ["amount", "per", "burst"])
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_a_quota_of_nothing_is_refused(name, value):
    """Each of its numbers must be positive and finite; the message names it."""
    with pytest.raises(ValueError, match=f"{name} must be a positive, finite number"):
        Quota(**{"amount": 1, name: value})


@pytest.mark.parametrize("name", ["amount", "per", "burst"])
@pytest.mark.parametrize("value", ["50", True, [1], object()])
def test_a_quota_of_no_number_is_refused(name, value):
    """Not even True, which Python counts as 1."""
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        Quota(**{"amount": 1, name: value})


def test_a_number_no_float_can_hold_is_refused_in_our_words():
    """10**400 is no OverflowError of Python's."""
    with pytest.raises(ValueError, match="amount must be"):
        Quota(10**400)

"""What a process believes of the store's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.stores.contract import SECOND

#: Seconds of one way.
WAYS = st.floats(0.0, 0.5)


def hear(time, ahead, there, back, asked_at=100.0):
    """One exchange with a store that many seconds ahead of us; the instant of its saying so."""
    said_at = asked_at + there
    time.observe((said_at + ahead) * SECOND, asked_at, said_at + back)
    return said_at


def test_nothing_is_too_late_for_a_store_never_heard_of():
    assert ClockOffset().to_store(5.0) > 1e17


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(WAYS, WAYS), min_size=1))
def test_it_is_wrong_by_the_quickest_way_back_at_most(ahead, ways):
    """And never takes the store for being further ahead than it is."""
    time = ClockOffset()
    for there, back in ways:
        hear(time, ahead, there, back)
    late = time.to_local((200.0 + ahead) * SECOND) - 200.0
    assert -1e-3 <= late <= min(back for _, back in ways) + 1e-3


def test_a_slow_way_back_moves_nothing():
    """An instant that was told while all was quick, and one told on a slow wire."""
    time = ClockOffset()
    hear(time, 30.0, 0.001, 0.001)
    said_at = hear(time, 30.0, 0.001, 0.2)
    assert time.to_local((said_at + 30.0) * SECOND) == pytest.approx(said_at + 0.001, abs=1e-4)


@pytest.mark.parametrize("step", [-60.0, 60.0])
def test_a_clock_that_is_set_is_followed_at_once(step):
    """Or reservations would lie a minute off."""
    time = ClockOffset()
    hear(time, 30.0, 0.001, 0.001)
    said_at = hear(time, 30.0 + step, 0.001, 0.001)
    assert time.to_local((said_at + 30.0 + step) * SECOND) == pytest.approx(said_at, abs=0.0021)

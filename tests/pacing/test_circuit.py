"""The circuit: when nothing gets through, one probe at a time."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.pacing.circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    MEMORY,
    OPEN,
    CircuitBreaker,
)


def opened(now=0.0, first=1):
    """A circuit that five failures have just opened."""
    circuit = CircuitBreaker()
    assert [circuit.record_failure(first + n, now) for n in range(5)] == [False] * 4 + [True]
    return circuit


def test_five_sent_one_after_another_open_it():
    """Not four; and it says so once."""
    circuit = opened()
    assert (circuit.state, circuit.is_open) == (OPEN, True)
    assert not circuit.record_failure(6, 0.0)


@given(st.permutations(range(10, 15)))
def test_the_order_of_coming_back_is_of_no_account(numbers):
    """Failures are quick, answers slow: only the order of sending says anything."""
    circuit = CircuitBreaker()
    assert [circuit.record_failure(number, 0.0) for number in numbers] == [False] * 4 + [True]


def test_failures_with_an_answer_among_them_do_not_open_it():
    """Every second one fails: a bad server, but one that answers."""
    circuit = CircuitBreaker()
    assert not any(circuit.record_failure(number, 0.0) for number in range(1, 500, 2))
    assert circuit.state == CLOSED


def test_one_that_was_still_out_completes_a_streak():
    """1, 2, 4, 5 failed and 3 is slow: when it fails too, those are five."""
    circuit = CircuitBreaker()
    assert not any(circuit.record_failure(number, 0.0) for number in (1, 2, 4, 5))
    assert circuit.record_failure(3, 9.0)


def test_one_in_ten_failures_opens_it_once_in_a_hundred_thousand_calls():
    """By accident, in half a million calls with a tenth of random faults: about five times."""
    chance, circuit, openings = random.Random(1), CircuitBreaker(), 0
    for number in range(1, 500_001):
        if chance.random() < 0.1 and circuit.record_failure(number, 0.0):
            openings += 1
            circuit.close(number)
    assert 1 <= openings <= 10


def test_it_does_not_remember_for_ever():
    """A day's failures, four in a row each time, take no memory and open nothing."""
    circuit = CircuitBreaker()
    assert not any(circuit.record_failure(n, 0.0) for n in range(1, 50_000) if n % 5)
    assert len(circuit._failed) <= MEMORY


def test_closed_it_holds_up_nobody():
    """And what leaves is no probe."""
    circuit = CircuitBreaker()
    assert circuit.opens_at() < 0
    assert not circuit.is_open


def test_probes_leave_at_growing_gaps():
    """0.5, 1, 2, 4, 5, 5 s after the one before: full pace is back soon after the end."""
    circuit, now, gaps = opened(100.0), 100.0, []
    for number in range(6, 13):
        gaps.append(circuit.opens_at() - now)
        now = circuit.opens_at()
        circuit.probe(number, now)
        assert circuit.state == HALF_OPEN
        assert not circuit.record_failure(number, now)
        assert circuit.state == OPEN
    assert gaps == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_a_silent_probe_does_not_keep_the_others_waiting():
    """A probe that hangs for ten minutes is followed by the next after the usual gap."""
    circuit = opened(0.0)
    circuit.probe(6, 0.5)
    assert circuit.opens_at() == 1.5
    circuit.probe(7, 1.5)
    assert circuit.opens_at() == 3.5
    assert circuit.record_answer(6)
    assert circuit.state == CLOSED


def test_an_answered_probe_closes_it():
    """Once; and then it takes five new failures, and begins with the shortest gap again."""
    circuit = opened(0.0)
    circuit.probe(6, 0.5)
    assert circuit.record_answer(6)
    assert (circuit.state, circuit.opens_at() < 0) == (CLOSED, True)
    assert not circuit.record_answer(7)
    assert [circuit.record_failure(n, 50.0) for n in range(7, 12)] == [False] * 4 + [True]
    assert circuit.opens_at() == 50.5


def test_an_answer_to_a_call_from_before_does_not_close_it():
    """A slow one that was let in before the outage says nothing about now."""
    circuit = opened(first=10)
    assert not circuit.record_answer(9)
    assert circuit.is_open
    circuit.probe(15, 0.5)
    assert not circuit.record_answer(9)
    assert circuit.is_open


def test_old_failures_after_the_closing_do_not_open_it_again():
    """They left before the probe that was answered: they tell what is known."""
    circuit = opened()
    circuit.probe(40, 0.5)
    assert circuit.record_answer(40)
    assert not any(circuit.record_failure(number, 0.6) for number in range(6, 40))
    assert circuit.state == CLOSED


def test_an_old_failure_while_a_probe_is_out_is_not_the_probes():
    """Only the probe tells how the probe went."""
    circuit = opened()
    circuit.probe(40, 0.5)
    circuit.record_failure(20, 0.6)
    assert circuit.state == HALF_OPEN
    circuit.record_failure(40, 0.7)
    assert circuit.state == OPEN

"""Permits: borrowed, put back, waited for."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.pacing.concurrency import Concurrency


def test_no_more_than_the_limit_are_out():
    """The third of two is refused; one put back is one to be had."""
    permits = Concurrency(2)
    assert [permits.try_acquire() for _ in range(3)] == [True, True, False]
    assert not permits.is_free()
    permits.give_back()
    assert permits.is_free()
    assert (permits.try_acquire(), permits.try_acquire(), permits.in_use) == (True, False, 2)


def test_without_a_limit_they_are_still_counted():
    """None means unbounded."""
    permits = Concurrency(None)
    assert all(permits.try_acquire() for _ in range(1000))
    assert permits.is_free()
    assert permits.in_use == 1000
    permits.give_back()
    assert permits.in_use == 999


@given(st.one_of(st.none(), st.integers(1, 4)), st.lists(st.sampled_from("+-~"), max_size=60))
def test_in_use_is_what_was_borrowed_and_not_put_back(limit, steps):
    """Whatever the order, loud or quiet."""
    permits, out = Concurrency(limit), 0
    for step in steps:
        if step == "+":
            may = limit is None or out < limit
            assert (permits.is_free(), permits.try_acquire()) == (may, may)
            out += may
        elif out:
            out -= 1
            permits.give_back() if step == "-" else permits.give_back_quietly()
        assert permits.in_use == out


def test_who_starves_is_woken_once():
    """A wake is used up; who found none again has to say so again."""
    permits, woken = Concurrency(1), []
    permits.try_acquire()
    permits.starve(wake := lambda: woken.append("a"))
    permits.starve(wake)
    permits.starve(lambda: woken.append("b"))
    permits.give_back()
    permits.try_acquire()
    permits.give_back()
    assert sorted(woken) == ["a", "b"]


def test_a_quiet_return_wakes_nobody():
    """It may come from the garbage collector, inside anybody's lock; the next loud one wakes."""
    permits, woken = Concurrency(1), []
    permits.try_acquire()
    permits.starve(lambda: woken.append(1))
    permits.give_back_quietly()
    assert (woken, permits.is_free()) == ([], True)
    permits.try_acquire()
    permits.give_back()
    assert woken == [1]


def test_who_is_woken_may_call_back():
    """No lock is held while calling out: it may borrow, or starve again."""
    permits, woken = Concurrency(1), []
    permits.try_acquire()

    def wake():
        woken.append(permits.try_acquire())
        permits.starve(lambda: woken.append("again"))

    permits.starve(wake)
    permits.give_back()
    permits.give_back()
    assert woken == [True, "again"]


def test_a_higher_limit_wakes_who_starves():
    """Those that are out stay out."""
    permits, woken = Concurrency(1), []
    permits.try_acquire()
    permits.starve(lambda: woken.append(1))
    permits.set_limit(2)
    assert (woken, permits.try_acquire(), permits.try_acquire()) == ([1], True, False)


def test_a_lower_limit_lets_those_out_come_home_first():
    """Three out under a limit of one: the next leaves when all three are back."""
    permits = Concurrency(None)
    for _ in range(3):
        permits.try_acquire()
    permits.set_limit(1)
    free = []
    for _ in range(3):
        free.append(permits.is_free())
        permits.give_back()
    assert (free, permits.try_acquire()) == ([False] * 3, True)


def test_threads_never_hold_more_than_there_are():
    """Eight threads, three permits, counted by those who hold one."""
    permits, held, most = Concurrency(3), [], []
    begin = threading.Barrier(8)

    def work():
        begin.wait(20)
        for _ in range(300):
            if permits.try_acquire():
                held.append(1)
                most.append(len(held))
                held.pop()
                permits.give_back()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert max(most) <= 3
    assert permits.in_use == 0

"""Permits: borrowed, put back, waited for."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter

NORMAL = Priority.NORMAL
INTERACTIVE = Priority.INTERACTIVE


class Purse:
    """Permits, and the places that are out."""

    def __init__(self, *args, **more):
        self.limiter = ConcurrencyLimiter(*args, **more)
        self.places = []

    def __getattr__(self, name):
        return getattr(self.limiter, name)

    def try_acquire(self, now, priority):
        slot = self.limiter.try_acquire(priority, now)
        self.places += [slot] if slot else []
        return slot is not None

    def release(self):
        """The one that was borrowed first."""
        self.places.pop(0).release()

    def release_nowait(self):
        self.places.pop(0).release_nowait()


def borrow(limiter, most, now=0.0, priority=NORMAL):
    """Borrow up to *most*; returns how many there were."""
    for count in range(most):
        if not limiter.try_acquire(now, priority):
            return count
    return most


def is_free(limiter, now=0.0):
    return limiter.admissible_priority(now) == math.inf


def test_no_more_than_the_limit_are_out():
    """The third of two is refused; one put back is one to be had."""
    limiter = Purse(2)
    assert [limiter.try_acquire(0.0, NORMAL) for _ in range(3)] == [True, True, False]
    assert limiter.admissible_priority(0.0) == -math.inf
    limiter.release()
    assert limiter.admissible_priority(0.0) == math.inf
    assert (borrow(limiter, 2), limiter.in_use) == (1, 2)


def test_without_a_limit_they_are_still_counted():
    """Nothing told and nothing probed: unbounded, until the server says otherwise."""
    limiter = Purse(None)
    assert (borrow(limiter, 1000), limiter.limit, limiter.in_use) == (1000, math.inf, 1000)
    assert is_free(limiter)
    limiter.release()
    assert limiter.in_use == 999


@given(st.one_of(st.none(), st.integers(1, 4)), st.lists(st.sampled_from("+-~"), max_size=60))
def test_in_use_is_what_was_borrowed_and_not_put_back(limit, steps):
    """Whatever the order, loud or quiet."""
    limiter, out = Purse(limit), 0
    for step in steps:
        if step == "+":
            may = limit is None or out < limit
            assert (is_free(limiter), limiter.try_acquire(0.0, NORMAL)) == (may, may)
            out += may
        elif out:
            out -= 1
            limiter.release() if step == "-" else limiter.release_nowait()
        assert limiter.in_use == out


def test_looking_borrows_nothing():
    """Ask as often as you like, within one instant."""
    limiter = Purse(probing=True)
    borrow(limiter, 1)
    assert {limiter.admissible_priority(0.0) for _ in range(10)} == {math.inf}
    borrow(limiter, 1)
    assert {limiter.admissible_priority(0.0) for _ in range(10)} == {-math.inf}
    assert (limiter.in_use, limiter.limit) == (2, 2)


# -- waking ----------------------------------------------------------------------------------------


def test_who_starves_is_woken_once():
    """A wake is used up; who found none again has to say so again."""
    limiter, woken = Purse(1), []
    borrow(limiter, 1)
    limiter.notify_when_free(wake := lambda: woken.append("a"))
    limiter.notify_when_free(wake)
    limiter.notify_when_free(lambda: woken.append("b"))
    limiter.release()
    borrow(limiter, 1)
    limiter.release()
    assert sorted(woken) == ["a", "b"]


def test_a_quiet_return_wakes_nobody():
    """It may come from the garbage collector, inside anybody's lock; the next loud one wakes."""
    limiter, woken = Purse(1), []
    borrow(limiter, 1)
    limiter.notify_when_free(lambda: woken.append(1))
    limiter.release_nowait()
    assert (woken, is_free(limiter)) == ([], True)
    borrow(limiter, 1)
    limiter.release()
    assert woken == [1]


def test_who_is_woken_may_call_back():
    """No lock is held while calling out: it may borrow, or starve again."""
    limiter, woken = Purse(1), []
    borrow(limiter, 1)

    def wake():
        woken.append(limiter.try_acquire(0.0, NORMAL))
        limiter.notify_when_free(lambda: woken.append("again"))

    limiter.notify_when_free(wake)
    limiter.release()
    limiter.release()
    assert woken == [True, "again"]


def test_a_higher_limit_wakes_who_starves():
    """Those that are out stay out."""
    limiter, woken = Purse(1), []
    borrow(limiter, 1)
    limiter.notify_when_free(lambda: woken.append(1))
    limiter.set_told(2)
    assert (woken, borrow(limiter, 2)) == ([1], 1)


def test_the_first_headers_wake_who_starves():
    """There is more room at once, and nobody else would say so."""
    limiter, woken = Purse(probing=True), []
    borrow(limiter, 2)
    limiter.notify_when_free(lambda: woken.append(1))
    limiter.headers_came()
    limiter.headers_came()
    assert (woken, borrow(limiter, 20)) == ([1], 8)


def test_a_lower_limit_lets_those_out_come_home_first():
    """Three out under a limit of one: the next leaves when all three are back."""
    limiter = Purse(None)
    borrow(limiter, 3)
    limiter.set_told(1)
    free = []
    for _ in range(3):
        free.append(is_free(limiter))
        limiter.release()
    assert (free, borrow(limiter, 1)) == ([False] * 3, 1)


# -- who may have the last ones --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "share", "for_all"), [(10, 0.2, 8), (10, 0.0, 10), (4, 0.25, 3), (3, 0.25, 3)]
)
def test_a_share_is_kept_for_interactive_calls(limit, share, for_all):
    """Of ten with a share of a fifth, eight are everybody's and two are kept."""
    limiter = Purse(limit, interactive_share=share)
    assert borrow(limiter, limit, priority=Priority.BATCH) == for_all
    if for_all < limit:
        assert limiter.admissible_priority(0.0) == INTERACTIVE
    assert borrow(limiter, limit, priority=INTERACTIVE) == limit - for_all
    assert limiter.admissible_priority(0.0) == -math.inf


def test_what_interactive_calls_hold_is_taken_from_their_share_first():
    """Two of ten kept, and two interactive calls out: the other eight are still everybody's."""
    limiter = Purse(10, interactive_share=0.2)
    assert borrow(limiter, 2, priority=INTERACTIVE) == 2
    assert borrow(limiter, 20, priority=NORMAL) == 8


def test_a_look_is_enough_to_see_what_came_back():
    """The worker only looks: it would else wait for ever for permits that are all there."""
    limiter = Purse(10, interactive_share=0.2)
    assert borrow(limiter, 20, priority=NORMAL) == 8
    for _ in range(8):
        limiter.release_nowait()
    assert limiter.admissible_priority(0.0) == math.inf


@given(st.integers(1, 30), st.floats(0.0, 1.0))
def test_the_reserve_never_takes_the_last(limit, share):
    """However large the share and small the limit: one permit is everybody's."""
    limiter = Purse(limit, interactive_share=share)
    assert limiter.try_acquire(0.0, Priority.BATCH)


def test_without_a_limit_nothing_is_kept():
    """There is always one more."""
    limiter = Purse(None, interactive_share=0.5)
    assert borrow(limiter, 100) == 100


# -- probing ---------------------------------------------------------------------------------------


def fill_and_look(limiter, instants):
    """Take all there are whenever one looks; returns what the limit was then."""
    limits = []
    for now in instants:
        limiter.admissible_priority(now)
        borrow(limiter, 1000, now)
        limits.append(limiter.limit)
    return limits


def test_silence_doubles_the_probes_once_before_anything_came_back():
    """A server with a burst of two refuses two, however long its refusals take."""
    limiter = Purse(probing=True)
    halves = [0.0, 0.49, 0.5, 0.99, 1.0, 1.5, 2.0, 60.0]
    assert fill_and_look(limiter, halves) == [2, 2, 4, 4, 4, 4, 4, 4]


def test_silence_doubles_the_probes_up_to_eight_once_one_was_answered():
    """4, 8 per half second without a refusal; then it takes headers."""
    limiter = Purse(probing=True)
    assert fill_and_look(limiter, [0.0, 0.5, 1.0]) == [2, 4, 4]
    limiter.answered()
    assert fill_and_look(limiter, [1.5, 2.0, 60.0]) == [8, 8, 8]


def test_silence_counts_only_while_somebody_waits():
    """An idle hour is no admission: half a second after the second permit went, not before."""
    limiter = Purse(probing=True)
    borrow(limiter, 2, 0.0)
    limiter.release()
    assert limiter.try_acquire(3600.0, NORMAL)
    limiter.admissible_priority(3600.0)
    limiter.admissible_priority(3600.4)
    assert limiter.limit == 2
    limiter.admissible_priority(3600.5)
    assert limiter.limit == 4


def test_the_first_headers_give_ten():
    """The server tells its limits: no need to grope."""
    limiter = Purse(probing=True)
    limiter.headers_came()
    assert limiter.limit == 10


def test_headers_change_nothing_where_a_rate_is_told():
    """Rate times latency bounds it; there is nothing to probe."""
    limiter = Purse(None)
    limiter.headers_came()
    assert limiter.limit == math.inf


def test_answers_alone_let_no_probe_more_leave():
    """Before the headers came a limit of two is two, however many were answered."""
    limiter = Purse(probing=True)
    borrow(limiter, 2)
    limiter.admissible_priority(0.0)
    limiter.answered()
    assert limiter.limit == 2


# -- growing ---------------------------------------------------------------------------------------


def test_while_full_each_answer_makes_room_for_one_more():
    """Ten out and one waiting: eleven."""
    limiter = Purse(probing=True)
    limiter.headers_came()
    borrow(limiter, 10)
    limiter.admissible_priority(0.0)  # somebody waits
    limiter.answered()
    limiter.answered()
    assert limiter.limit == 12


def test_an_answer_to_who_was_not_short_of_permits_changes_nothing():
    """Nine of ten are out: ten are enough."""
    limiter = Purse(probing=True)
    limiter.headers_came()
    borrow(limiter, 9)
    limiter.admissible_priority(0.0)
    limiter.answered()
    assert limiter.limit == 10


def test_full_and_unrefused_for_half_a_second_doubles():
    """Answers may take half a minute; a refusal would have come by now."""
    limiter = Purse(probing=True)
    limiter.headers_came()
    assert fill_and_look(limiter, [0.0, 0.4, 0.5, 1.0, 1.5]) == [10, 10, 20, 40, 80]


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.sampled_from("lab")), max_size=60))
def test_told_is_a_ceiling(steps):
    """Whatever happens, no more than that are out."""
    limiter, now = Purse(5, probing=True), 0.0
    limiter.headers_came()
    for gap, step in steps:
        now += gap
        limiter.admissible_priority(now)
        borrow(limiter, 100, now)
        if step == "a":
            limiter.answered()
        elif step == "b" and limiter.in_use:
            limiter.refused(now)
            limiter.release()
        assert 1 <= limiter.limit <= 5
        assert limiter.in_use <= 5


# -- refused ---------------------------------------------------------------------------------------


def full(limit, now=0.0):
    """As many out as are taken without complaint."""
    limiter = Purse(None)
    assert borrow(limiter, limit, now) == limit
    return limiter


def refuse(limiter, now):
    """The server refuses one that is out, and it comes home."""
    limiter.refused(now)
    limiter.release()


def test_a_refusal_sets_the_limit_to_the_others_in_flight():
    """Seven out, one refused: six are what the server took."""
    limiter = full(7)
    refuse(limiter, 0.0)
    assert (limiter.limit, limiter.in_use) == (6, 6)
    assert not is_free(limiter)


def test_a_wave_of_refusals_ends_at_what_was_let_in():
    """Ten sent at once to a server that takes four: six refusals, and four it is."""
    limiter = full(10)
    for _ in range(6):
        refuse(limiter, 0.0)
    assert (limiter.limit, limiter.in_use) == (4, 4)


def test_one_is_always_allowed():
    """Even the only one out may be refused: somebody else holds the connections."""
    limiter = full(1)
    refuse(limiter, 0.0)
    assert (limiter.limit, borrow(limiter, 3)) == (1, 1)


def test_after_a_refusal_it_creeps():
    """One more after a second, and no doubling for silence any more."""
    limiter = full(5)
    refuse(limiter, 0.0)
    assert fill_and_look(limiter, [0.9, 1.0, 1.5, 1.9, 2.0, 3.0]) == [4, 5, 5, 5, 6, 7]


def test_answers_do_not_hasten_the_creeping():
    """Else a short answer time would undo the refusal at once."""
    limiter = full(5)
    refuse(limiter, 0.0)
    limiter.admissible_priority(0.5)
    limiter.answered()
    assert limiter.limit == 4


def test_it_creeps_ever_more_slowly():
    """Each refused step doubles the gap: 1, 2, 4 ... s, and at most ten minutes."""
    limiter, now, gaps = full(5), 0.0, []
    refuse(limiter, now)
    for _ in range(14):
        begin = now
        while limiter.limit == 4:
            now += 0.5
            limiter.admissible_priority(now)
        gaps.append(now - begin)
        borrow(limiter, 10, now)
        refuse(limiter, now)
    assert gaps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600]


def test_a_wave_doubles_the_gap_once():
    """Three refusals of one step say what one says."""
    limiter = full(5)
    refuse(limiter, 0.0)
    limiter.admissible_priority(1.0)
    borrow(limiter, 1, 1.0)
    limiter.refused(1.0)
    limiter.refused(1.0)
    limiter.refused(1.0)
    limiter.release()
    assert fill_and_look(limiter, [2.9, 3.0]) == [4, 5]


def test_nobody_waiting_lets_nothing_creep():
    """What is not needed is not tried: an idle hour is one step, not thousands."""
    limiter = full(5)
    refuse(limiter, 0.0)
    for _ in range(4):
        limiter.release()
    assert is_free(limiter, 3600.0)
    assert borrow(limiter, 10, 3600.0) == 5


def test_after_an_outage_it_begins_with_eight():
    """A server that has just come back is not met with everything at once; then as always."""
    limiter = Purse(None)
    limiter.ramp()
    assert fill_and_look(limiter, [0.0, 0.5, 1.0]) == [8, 16, 32]
    small = full(4)
    refuse(small, 0.0)
    small.ramp()
    assert small.limit == 3


# -- news ------------------------------------------------------------------------------------------


def test_a_fall_is_news_and_so_is_half_as_much_again():
    """It grows by ones: not each of them is worth a line."""
    limiter = Purse(probing=True)
    assert limiter.news() is None
    limiter.headers_came()
    assert limiter.news() == (10, 2)
    assert limiter.news() is None
    borrow(limiter, 10)
    limiter.admissible_priority(0.0)
    told = []
    for _ in range(6):
        limiter.answered()
        told.append(limiter.news())
    assert told == [None] * 4 + [(15, 10), None]
    limiter.refused(0.0)
    assert limiter.news() == (9, 15)


def test_the_first_refusal_without_a_limit_is_news():
    """From no limit to four."""
    limiter = full(5)
    refuse(limiter, 0.0)
    assert limiter.news() == (4, math.inf)


# -- threads ---------------------------------------------------------------------------------------


def test_threads_never_hold_more_than_there_are():
    """Eight threads, three permits, counted by those who hold one."""
    limiter, held, most = ConcurrencyLimiter(3), [], []
    begin = threading.Barrier(8)

    def work():
        begin.wait(20)
        for _ in range(300):
            slot = limiter.try_acquire(NORMAL, 0.0)
            if slot is not None:
                held.append(1)
                most.append(len(held))
                held.pop()
                slot.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert max(most) <= 3
    assert limiter.in_use == 0


def test_threads_that_grow_and_shrink_it_lose_no_permit():
    """Eight threads borrow, return, answer and refuse; in the end none is out and one is free."""
    limiter, begin = ConcurrencyLimiter(probing=True), threading.Barrier(8)

    def work(mine):
        begin.wait(20)
        for turn in range(300):
            now = turn * 0.1
            slot = limiter.try_acquire(NORMAL, now)
            if slot is not None:
                limiter.headers_came()
                limiter.answered() if (turn + mine) % 7 else limiter.refused(now)
                slot.release()

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert limiter.in_use == 0
    assert 1 <= limiter.limit < math.inf
    assert is_free(limiter)

"""A lane's pacer among several processes. No threads, time by hand."""

from __future__ import annotations

import math

import pytest

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.quota import Quota
from claude_throttle.features.sharing.reservations import LATE_SECONDS
from tests.support.shared_pacers import CALL, headers, refusal, tokens, two


def test_two_processes_share_one_pace():
    """Whoever leaves, the next of all leaves an interval later."""
    _clock, one, two_ = two(rpm=60)
    dispatches = [member.leave().at for member in (one, two_, two_, one)]
    assert [b - a for a, b in zip(dispatches, dispatches[1:])] == pytest.approx([1, 1, 1])


def test_reservations_are_reserved_for_what_waits_within_a_tenth_of_a_second():
    """6,000 a minute: ten intervals fit, and the first."""
    _clock, one, _ = two(rpm=6000)
    one.leaves_at(behind=[CALL] * 50)
    assert len(one.pacer._reservations) == 11
    asked = one.asked
    for _ in range(11):
        one.leave(behind=[CALL] * 50)
    assert one.asked == asked


def test_never_more_reservations_than_twenty_or_than_calls_wait():
    _clock, one, two_ = two(rpm=6e6)
    one.leaves_at(behind=[CALL] * 50)
    two_.leaves_at(behind=[CALL] * 2)
    assert [len(member.pacer._reservations) for member in (one, two_)] == [20, 3]


def test_a_reservation_that_was_missed_is_not_used():
    """The next belongs to somebody else, perhaps; another has to be reserved."""
    clock, one, two_ = two(rpm=600)
    one.leave()
    at = one.leaves_at()
    assert two_.leaves_at() == pytest.approx(at + 0.1)
    clock.advance(at + LATE_SECONDS + 0.001 - clock.monotonic())
    assert one.pacer.ready_at(CALL, clock.monotonic()) == math.inf
    assert one.leaves_at() == pytest.approx(at + 0.2)


@pytest.mark.parametrize(("rpm", "late"), [(6000, 0.005), (60, 0.05), (50, 0.06), (6, 0.1)])
def test_a_reservation_may_be_missed_by_a_twentieth_of_the_interval(rpm, late):
    """A busy machine wakes a process some milliseconds late: its turn would be lost to all."""
    clock, one, _ = two(rpm=rpm)
    one.leave()
    at = one.leaves_at()
    clock.advance(at + late - 0.001 - clock.monotonic())
    assert one.pacer.ready_at(CALL, clock.monotonic()) <= clock.monotonic()
    clock.advance(0.002)
    assert one.pacer.ready_at(CALL, clock.monotonic()) == math.inf


def test_a_reservation_may_be_missed_by_as_much_as_may_be_saved_up():
    """Where ten may leave at once, being late by a few hundredths harms nobody."""
    clock, one, _ = two(rpm=Quota(600, burst=10))
    at = one.leaves_at()
    clock.advance(at + 0.09 - clock.monotonic())
    assert one.pacer.ready_at(CALL, clock.monotonic()) <= clock.monotonic()


def test_the_last_reservations_go_back_if_they_are_not_used():
    """A larger call needs others than those that were reserved for small ones."""
    _clock, one, _two = two(itpm=60_000)
    one.leave(tokens(1000))
    at = one.leaves_at(tokens(100), behind=[tokens(100)])
    assert one.leaves_at(tokens(900)) == pytest.approx(at - 0.1 + 0.9)


def test_a_little_more_than_was_reserved_is_settled_later():
    """An estimate that grew by a few tokens is no reason to ask again."""
    clock, one, two_ = two(itpm=60_000)
    one.leaves_at(tokens(100))
    asked = one.asked
    one.leave(tokens(110))
    assert one.asked == asked
    one.exchange()
    two_.leave(tokens(1000))
    assert two_.leaves_at(tokens(1000)) == pytest.approx(clock.monotonic() + 1.0, abs=0.12)


def test_what_one_call_did_not_need_helps_everybody():
    clock, one, two_ = two(itpm=60_000)
    one.leave(tokens(1000))
    late = two_.leaves_at(tokens(1000))
    two_.pacer._reservations.release()
    one.pacer.settle(tokens(1000), tokens(200), clock.monotonic())
    one.exchange()
    two_.exchange()
    assert two_.leaves_at(tokens(1000)) == pytest.approx(late - 0.8)


def test_a_pause_holds_for_all_and_makes_reservations_stale():
    """Three reserved before a pause would all leave together at its end."""
    clock, one, two_ = two(rpm=600)
    one.leave()
    two_.leaves_at(behind=[CALL] * 5)
    one.pacer.pause_for(5.0, clock.monotonic())
    one.exchange()
    two_.exchange()
    ends = clock.monotonic() + 5.0
    assert two_.leaves_at(behind=[CALL] * 5) == pytest.approx(ends)
    two_.leave()
    assert one.leaves_at() >= ends + 0.1 - 1e-6


def test_a_slot_after_the_end_of_a_pause_stays():
    """The store gives its instant to no other process: to drop it would leave it unused."""
    clock, one, two_ = two(rpm=600)
    one.leave()
    first = two_.leaves_at(behind=[CALL])
    one.pacer.pause_for(first + 0.05 - clock.monotonic(), clock.monotonic())
    one.exchange()
    two_.exchange()
    assert two_.leaves_at() == pytest.approx(first + 0.1)


def test_a_429_is_heard_by_the_others_with_their_next_reservation():
    clock, one, two_ = two(rpm=600)
    dispatch = one.leave()
    one.pacer.refused(refusal(3.0), dispatch, CALL, 3.0, 1, clock.monotonic())
    assert one.told_late > 0
    one.exchange()
    assert two_.leaves_at() >= clock.monotonic() + 3.0 - 1e-6


def test_what_is_in_doubt_makes_us_slower_never_faster():
    """Nobody knows whether an request was done that was not answered."""
    clock, one, _two = two(itpm=60_000)
    one.leave(tokens(1000))
    one.pacer.settle(tokens(1000), tokens(200), clock.monotonic())
    request = one.pacer.make_request("one", math.inf, [], clock.monotonic())
    one.pacer.restore(request, clock.monotonic(), in_doubt=True)
    assert not one.pacer.has_pending
    one.pacer.settle(tokens(200), tokens(1000), clock.monotonic())
    request = one.pacer.make_request("one", math.inf, [], clock.monotonic())
    one.pacer.restore(request, clock.monotonic(), in_doubt=True)
    assert one.pacer.has_pending


def test_an_order_that_came_too_late_was_not_done_and_is_told_again():
    clock, one, _two = two(itpm=60_000)
    one.leave(tokens(1000))
    one.pacer.settle(tokens(1000), tokens(200), clock.monotonic())
    request = one.pacer.make_request("one", -1.0, [], clock.monotonic())
    response = one.store.transact("account", "lane", request)
    assert not response.done
    one.pacer.apply(request, response, clock.monotonic(), clock.monotonic())
    assert one.pacer.has_pending


# -- what is learned -------------------------------------------------------------------------------


def test_a_limit_that_one_learned_is_everybodys():
    """The second asks before it sends its first call, and keeps to it."""
    clock, one, two_ = two()
    dispatch = one.leave()
    events = one.pacer.answered(headers(60, 0), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    assert [type(event).__name__ for event in events] == ["LimitLearned"]
    one.exchange()
    two_.leaves_at()
    assert two_.pacer.learned["requests"].limit == 60
    assert two_.leaves_at() > clock.monotonic()


def test_headers_count_what_the_others_took():
    """Ten that the other sent are no strangers': the level needs no correction."""
    clock, one, two_ = two()
    first = one.leave()
    one.pacer.answered(headers(600, 99), first, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    one.exchange()
    dispatch = one.leave()
    for _ in range(10):
        two_.leave()
    one.pacer.answered(headers(600, 98), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    level = one.pacer.learned["requests"].level(clock.monotonic())
    assert level == pytest.approx(88, abs=2)


def test_two_who_saw_the_same_do_not_both_correct_it():
    """Both answers say that a stranger took fifty: they are taken off once."""
    clock, one, two_ = two()
    first = one.leave()
    one.pacer.answered(headers(600, 99), first, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    one.exchange()
    dispatches = [(member, member.leave()) for member in (one, two_)]
    for member, dispatch in dispatches:
        member.pacer.answered(headers(600, 47), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    for _ in range(3):
        for member, _ in dispatches:
            member.exchange()
    level = one.pacer.learned["requests"].level(clock.monotonic())
    assert level == pytest.approx(47, abs=3)


def test_what_left_before_anybody_knew_is_owned_up_to():
    """Of two that probed at once only one began the account."""
    clock, one, two_ = two()
    one.exchange()
    two_.exchange()
    dispatch = one.leave()
    for _ in range(8):
        two_.leave()
    one.pacer.answered(headers(600, 99), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    one.exchange()
    two_.exchange()
    two_.exchange()
    assert two_.pacer.learned["requests"].level(clock.monotonic()) == pytest.approx(91, abs=1)


# -- without the store ----------------------------------------------------------------------------


@pytest.mark.parametrize(("on_failure", "interval"), [("share", 4.0), ("full", 1.0)])
def test_alone_each_keeps_to_its_part(on_failure, interval):
    _clock, one, _ = two(rpm=60, on_failure=on_failure)
    one.leave()
    one.members, one.store_lost = 4, True
    one.pacer.lose_store()
    dispatches = [one.leave().at for _ in range(4)]
    gaps = [b - a for a, b in zip(dispatches, dispatches[1:])]
    assert gaps == pytest.approx([interval] * 3, rel=0.01)


@pytest.mark.parametrize("on_failure", ["share", "full"])
def test_what_was_reserved_is_used_when_the_store_is_lost_and_when_it_is_back(on_failure):
    """The other processes keep to theirs, too, so the quota is used as it would have been."""
    clock, one, _ = two(rpm=60, on_failure=on_failure)
    for _ in range(3):
        one.exchange([CALL])
    at = [slot.at for slot in one.pacer._reservations._reserved]
    one.members, one.store_lost = 4, True
    one.pacer.lose_store()
    assert [one.leave().at for _ in range(2)] == pytest.approx(at[:2])
    one.store_lost = False
    one.pacer.rejoin(one.members, clock.monotonic(), 0.5)
    assert one.leave().at == pytest.approx(at[2])
    assert one.pacer.make_request("one", math.inf, [], clock.monotonic()).buckets[0].spent == 0.0


def test_alone_nothing_leaves_if_that_was_wished():
    clock, one, _ = two(rpm=60, on_failure="stop")
    one.store_lost = True
    assert one.leaves_at() == math.inf
    one.store_lost = False
    one.pacer.rejoin(one.members, clock.monotonic(), 0.5)
    assert one.leaves_at() == pytest.approx(clock.monotonic(), abs=1.0)


def test_the_parts_of_all_begin_at_different_instants():
    """Else every process would send one in the moment the store is lost."""
    starts = set()
    for _ in range(20):
        clock, one, _ = two(rpm=60)
        one.members, one.store_lost = 4, True
        one.pacer.lose_store()
        starts.add(round(one.leaves_at() - clock.monotonic(), 3))
    assert len(starts) > 10
    assert all(0 <= start <= 4 for start in starts)


def test_a_store_that_lost_everything_is_told_what_was_seen_last():
    """A burst does not leave twice."""
    clock, one, _two = two(rpm=Quota(60, burst=30))
    for _ in range(30):
        one.leave()
    assert one.leaves_at() > clock.monotonic()
    one.exchange()
    one.store._lanes.clear()
    one.pacer._reservations.release()
    assert one.leaves_at() > clock.monotonic() + 0.5


# -- from the review of 2026-11 --------------------------------------------------------------------


def test_a_pause_by_hand_reserves_nothing():
    """It asked tens of thousands of times a second, and left nothing to the others."""
    _, one, two_ = two(rpm=600)
    one.leave()
    one.pacer.held_until = math.inf
    assert one.pacer.needs_reservation(CALL, lambda most: [], one.clock.monotonic()) is None
    assert two_.leaves_at() <= one.clock.monotonic() + 0.1


def test_who_is_always_woken_late_leaves_all_the_same():
    """6 ms late, each time: one of 600 calls left in a minute."""
    clock, one, two_ = two(rpm=600)
    left = 0
    for _ in range(200):
        for member in (one, two_):
            now = clock.monotonic()
            costs = member.pacer.needs_reservation(CALL, lambda most: [], now)
            if costs is not None:
                member.exchange(costs)
            at = member.pacer.ready_at(CALL, now)
            if at < math.inf:
                clock.advance(max(0.0, at - now) + 0.006)
                if member.pacer.ready_at(CALL, clock.monotonic()) <= clock.monotonic():
                    member.pacer.take(CALL, clock.monotonic())
                    left += 1
    assert left > 100


def test_alone_a_limit_learned_meanwhile_is_shared_too():
    clock, one, _ = two()
    one.exchange()
    one.members, one.store_lost = 4, True
    one.pacer.lose_store()
    dispatch = one.leave()
    one.pacer.answered(headers(600, 1), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    for _ in range(3):
        one.leave()
    before = clock.monotonic()
    one.leave()
    assert clock.monotonic() - before == pytest.approx(0.4, rel=0.01)


def test_a_shorter_pause_that_was_not_told_replaces_no_longer_one():
    clock, one, _ = two(rpm=600)
    one.leave()
    one.pacer.pause_for(1.0, clock.monotonic())
    request = one.pacer.make_request("one", math.inf, [], clock.monotonic())
    one.pacer.pause_for(30.0, clock.monotonic())
    one.pacer.restore(request, clock.monotonic(), in_doubt=True)
    again = one.pacer.make_request("one", math.inf, [], clock.monotonic())
    assert again.pause == pytest.approx(30e6, rel=0.01)


def test_the_wait_is_estimated_by_what_all_have_reserved():
    clock, one, two_ = two(rpm=60)
    two_.leave()
    one.leaves_at()
    seconds = one.pacer.leaves_at(Cost(3.0, 0.0, 0.0), CALL, clock.monotonic()) - clock.monotonic()
    assert 3.0 <= seconds <= 6.0


def test_what_a_request_of_another_lane_took_is_taken_from_all():
    """A fallback's hop: half a minute's tokens, and the other process waits for them."""
    clock, one, two_ = two(itpm=Quota(60_000, burst=1_000))
    for member in (one, two_):
        member.leave(tokens(1))
    one.pacer.charge(Cost(0.0, 30_000.0, 0.0), clock.monotonic())
    assert one.told_late
    one.exchange()
    began = clock.monotonic()
    two_.leave(tokens(1_000))
    assert clock.monotonic() - began > 25


@pytest.mark.parametrize(("units", "least", "most"), [(500, 0.5, 2.0), (10, 0.0, 0.1)])
def test_what_it_took_of_a_bucket_that_rested_leaves_no_more_saved_up_than_is_right(
    units, least, most
):
    """The store cannot take from a full bucket: much empties it, a little is nothing."""
    clock, one, two_ = two(itpm=Quota(60_000, burst=1_000))
    two_.leave(tokens(1))
    clock.advance(3_600)
    one.exchange()
    one.pacer.charge(Cost(0.0, float(units), 0.0), clock.monotonic())
    one.exchange()
    began = clock.monotonic()
    two_.leave(tokens(1_000))
    assert least <= clock.monotonic() - began <= most


# -- a quota that is learned while instants are reserved -------------------------------------------


def paced(limit, knows):
    """When the next call of the second process may leave, and the units that all have taken then.

    The first process has an answer that shows *limit*, and a reservation behind that of the second,
    which hears of the limit so often before its own call leaves.
    """
    clock, one, two_ = two(rpm=60)
    dispatch = one.leave()
    began = clock.monotonic()
    two_.leaves_at()
    one.pacer.answered(headers(limit, 1), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    assert one.leaves_at() == pytest.approx(began + 2)
    for _ in range(knows):
        two_.exchange()
    two_.leave()
    if not knows:
        two_.exchange()
    at = two_.leaves_at() - began
    return at, [two_.exchange().taken[-1] for _ in range(3)][-1]


@pytest.mark.parametrize("knows", [0, 1, 2])
@pytest.mark.parametrize("limit", [60, 61, 120, 6000])
def test_a_limit_learned_while_instants_are_reserved_leaves_none_of_them_to_nobody(limit, knows):
    """The call before it was counted again, and the next left two seconds after the last."""
    at, taken = paced(limit, knows)
    assert at == pytest.approx(3.0, abs=0.01)
    assert taken == 3.0  # the first was what the account began with


def test_a_lower_limit_learned_meanwhile_counts_what_its_own_pace_does_not_pay():
    """Half of the call before is paid by what accrues in the second that was told."""
    clock, one, two_ = two(rpm=60)
    dispatch = one.leave()
    began = clock.monotonic()
    two_.leaves_at()
    one.pacer.answered(headers(30, 1), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    one.leaves_at()
    two_.leave()
    for _ in range(3):
        two_.exchange()
    assert two_.leaves_at() - began == pytest.approx(5.0, abs=0.01)


def test_where_nothing_is_told_each_call_that_left_early_counts_whole():
    """There is no pace that would have paid for it."""
    clock, one, two_ = two()
    one.exchange()
    two_.exchange()
    dispatch = one.leave()
    two_.leave()
    one.pacer.answered(headers(60, 1), dispatch, Cost(0.0, 0.0, 0.0), clock.monotonic())
    one.exchange()
    at = one.leaves_at()
    for _ in range(3):
        two_.exchange()
    assert two_.leaves_at() == pytest.approx(at + 2.0, abs=0.01)

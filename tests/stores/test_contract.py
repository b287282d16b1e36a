"""Each sentence of contract.py about reservations, by each kind of store.

Intervals are minutes, so that the milliseconds a test takes change nothing.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    ExchangeRequest,
    MemberClaim,
    StoredBucket,
)
from tests.support.store_requests import ALWAYS, LANE, new_account, reserving

MINUTE = 60e6

#: Microseconds that a test may take from one exchange to the next: a loaded machine's.
PASSED = 10e6


def about(minutes):
    return pytest.approx(minutes * MINUTE, abs=PASSED)


@pytest.fixture
def ask(shared):
    """``ask(request, lane=…)`` of an account that is this test's."""
    account = new_account()
    return lambda request, lane=LANE: shared.transact(account, lane, request)


def asking(count=1, **more):
    """Strict ones, a minute apart."""
    return reserving(count, **{"interval": MINUTE, **more})


def tokens(costs, burst=100.0, **more):
    """One token takes a minute to accrue."""
    bucket = StoredBucket("tokens", MINUTE, burst, **more)
    return ExchangeRequest("one", ALWAYS, (bucket,), tuple((cost,) for cost in costs), 1e12)


def test_reservations_lie_an_interval_apart(ask):
    """The first is free at once; later exchanges go on where the last one ended."""
    assert ask(asking(3)).waits == (0.0, about(1), about(2))
    assert ask(asking(2)).waits == (about(3), about(4))


def test_reservations_are_given_in_the_order_of_reservation(ask):
    """Whoever asks, and however many at once."""
    members = ["one", "two", "one", "three"]
    responses = [ask(asking(2, member=member)) for member in members]
    instants = [response.now + wait for response in responses for wait in response.waits]
    assert instants == sorted(instants)
    assert len(set(instants)) == 8


def test_a_burst_leaves_at_once_and_no_more(ask):
    """Of a full bucket: the rest as it fills."""
    assert ask(asking(5, burst=3.0)).waits == (0.0, 0.0, 0.0, about(1), about(2))


def test_no_slot_is_given_beyond_the_horizon(ask):
    """Counted from the first slot, not from now."""
    assert len(ask(asking(9, horizon=2.5 * MINUTE)).waits) == 3
    assert ask(asking(9, horizon=2.5 * MINUTE)).waits == (about(3), about(4), about(5))
    assert ask(asking(9, horizon=0.0)).waits == (about(6),)


def test_a_slot_waits_for_the_slowest_of_its_buckets(ask):
    """And takes from each; a bucket it costs nothing of delays nothing."""
    buckets = (StoredBucket("requests", 1e6, 1.0), StoredBucket("tokens", MINUTE, 10.0))
    response = ask(
        ExchangeRequest("one", ALWAYS, buckets, ((1.0, 10.0), (1.0, 5.0), (1.0, 0.0)), 1e12)
    )
    assert response.waits[:2] == (0.0, about(5))
    assert response.waits[2] - response.waits[1] == pytest.approx(1e6, abs=10)
    assert response.taken == (3.0, 15.0)


def test_a_large_one_waits_for_the_full_bucket_and_leaves_it_in_debt(ask):
    """Larger than the burst can be: it goes when the bucket is full, and the next pays for it."""
    assert ask(tokens([1.0, 50.0], burst=10.0)).waits == (0.0, about(1))
    assert ask(tokens([1.0], burst=10.0)).waits == (about(1 + 41),)


def test_what_has_to_stay_stays_and_a_margin_is_kept(ask):
    """keep is not taken, only waited for; the margin comes on top of each interval."""
    kept = ask(tokens([6.0, 6.0], burst=10.0, keep=4.0))
    assert kept.waits == (0.0, about(6))
    assert kept.taken == (12.0,)
    assert ask(asking(3, margin=MINUTE / 2)).waits == (0.0, about(1.5), about(3))


def test_what_left_cost_more_or_less(ask):
    """shift moves the instant in either direction, and counts as taken."""
    assert ask(tokens([10.0], burst=10.0)).waits == (0.0,)
    more = ask(tokens([10.0], burst=10.0, shift=5 * MINUTE))
    assert more.waits == (about(15),)
    assert more.taken == (25.0,)
    assert ask(tokens([10.0], burst=10.0, shift=-20 * MINUTE)).waits == (about(5),)


def test_what_left_without_a_reservation_leaves_nothing_saved_up(ask):
    """spent, while the store could not be reached: what accrued meanwhile paid for it."""
    response = ask(asking(2, burst=10.0, spent=3.0))
    assert response.waits == (about(1), about(2))
    assert response.taken == (5.0,)
    assert ask(asking(1, burst=10.0, spent=3.0)).waits == (about(3),)


def test_tokens_go_back_always(ask):
    """Whoever reserved since."""
    first = ask(tokens([4.0, 4.0], burst=4.0))
    ask(tokens([4.0], burst=4.0)._replace(member="two"))
    back = tokens([4.0], burst=4.0, returned=4.0)._replace(sequence=first.sequence)
    response = ask(back)
    assert response.waits == (about(8),)
    assert response.taken == (12.0,)


def test_the_last_reservations_go_back_only_if_nobody_reserved_after(ask):
    """Else two would leave in one instant."""
    mine = ask(asking(3))
    response = ask(asking(1, returned=1.0, sequence=mine.sequence))
    assert response.waits == (about(2),)
    ask(asking(1, member="two"))
    late = ask(asking(1, returned=1.0, sequence=response.sequence))
    assert late.waits == (about(4),)
    assert late.taken == (4.0,)


def test_a_pause_holds_all_reservations_and_leaves_one_request(ask):
    """One interval lies between the first after it and the next, however large the burst."""
    ask(asking(1, burst=10.0))
    begun = ask(asking(0, burst=10.0, pause=5 * MINUTE, member="two"))
    assert begun.pause_until == pytest.approx(begun.now + 5 * MINUTE)
    assert ask(asking(3, burst=10.0)).waits == (about(5), about(6), about(7))


def test_a_pause_leaves_tokens_where_they_are(ask):
    """Only requests begin anew: the tokens of a full bucket leave together when it ends."""
    paused = tokens([4.0, 4.0], burst=8.0)._replace(pause=5 * MINUTE)
    assert ask(paused).waits == (about(5), about(5))


def test_reservations_reserved_before_a_pause_are_forgotten(ask):
    """They are stale, and hold up nobody after it."""
    ask(asking(3))
    ask(asking(0, pause=20 * MINUTE))
    assert ask(asking(2)).waits == (about(20), about(21))


def test_a_pause_is_never_shortened(ask):
    """The later end counts."""
    long = ask(asking(0, pause=10 * MINUTE))
    assert ask(asking(0, pause=MINUTE, member="two")).pause_until == long.pause_until
    assert ask(asking(0, pause=20 * MINUTE)).pause_until > long.pause_until


def test_another_rate_leaves_the_level_where_it_is(ask):
    """Ten units below nothing are ten below nothing, and take as long as the new rate says."""
    ask(tokens([4.0, 10.0], burst=4.0))
    slower = tokens([1.0], burst=4.0)
    slower = slower._replace(buckets=(StoredBucket("tokens", 2 * MINUTE, 4.0),))
    assert ask(slower).waits[0] == pytest.approx(22 * MINUTE, abs=2 * PASSED)


def test_another_rate_does_not_fill_beyond_the_burst(ask):
    """What a bucket could not hold does not pay for what left since."""
    ask(tokens([], burst=4.0))
    bucket = StoredBucket("tokens", 2 * MINUTE, 4.0, shift=4 * 2 * MINUTE)
    assert ask(ExchangeRequest("one", ALWAYS, (bucket,), ((1.0,),))).waits == (about(2),)


def test_a_store_that_lost_its_instant_believes_what_was_seen(ask, shared):
    """Else a burst would leave twice. One that has its own does not."""
    lost = asking(1, seen=shared.read_clock() + 3 * MINUTE)
    assert ask(lost).waits == (about(4),)
    assert ask(lost).waits == (about(5),)


def test_what_comes_too_late_does_nothing(ask, shared):
    """And says so."""
    late = asking(3, not_after=shared.read_clock() - 1.0, pause=MINUTE, counts=(("sent", 1.0),))
    late = late._replace(notice="{}", facts="{}", claim=MemberClaim(1, 1, 1.0, MINUTE))
    response = ask(late)
    assert not response.done
    assert (response.waits, response.notice, response.facts, response.members) == ((), "", "", 0)
    untouched = ask(asking(1, counts=(("sent", 0.0),)))
    assert untouched.waits == (0.0,)
    assert (untouched.totals, untouched.sequence, untouched.notice) == ((0.0,), 1.0, "")


def test_running_totals_are_kept(ask):
    """By name; those asked for come back, in the request they were named."""
    ask(asking(0, counts=(("sent", 2.0), ("refused", 1.0))))
    assert ask(asking(0, counts=(("refused", 0.5), ("sent", 0.0)))).totals == (1.5, 2.0)
    assert ask(asking(0)).totals == ()


def test_of_two_who_saw_the_same_one_corrects(ask):
    """Facts and corrections are compared and set; the second learns what the first found."""
    seen = ask(asking(1)).version
    first = ask(asking(0, version=seen, facts='{"rpm": 1}', correction=2 * MINUTE))
    assert (first.version, first.facts) == (seen + 1, '{"rpm": 1}')
    second = ask(asking(0, version=seen, facts='{"rpm": 2}', correction=9 * MINUTE, member="two"))
    assert (second.version, second.facts) == (first.version, first.facts)
    assert second.empty_at == first.empty_at
    third = ask(asking(1, version=second.version, facts="{}", correction=MINUTE))
    assert (third.version, third.waits) == (seen + 2, (about(4),))


def test_a_correction_without_facts_is_none(ask):
    """There would be no version to tell that it was made."""
    ask(asking(1))
    assert ask(asking(1, correction=9 * MINUTE)).waits == (about(1),)


def test_a_notice_is_the_whole_accounts(ask):
    """Told by one lane, read in all; "" ends it, None leaves it."""
    ask(asking(0, notice='{"reason": "spend limit"}'))
    assert ask(asking(0, member="two"), lane="claude-opus-4").notice == '{"reason": "spend limit"}'
    ask(asking(0, notice=""), lane="claude-opus-4")
    assert ask(asking(0)).notice == ""


def test_each_reservation_has_a_number(ask):
    """An exchange that reserves nothing has none."""
    assert [ask(asking(n)).sequence for n in (1, 0, 3, 1)] == [1.0, 1.0, 2.0, 3.0]


def test_lanes_and_accounts_do_not_mix(shared):
    """Not their instants, pauses, totals, facts, notices, members."""
    mine, other = new_account(), new_account()
    told = asking(3, pause=MINUTE, counts=(("sent", 1.0),), facts="{}", notice="{}")
    shared.transact(mine, LANE, told._replace(claim=MemberClaim(5, 5, 5.0, MINUTE)))
    asked = asking(1, counts=(("sent", 0.0),), claim=MemberClaim(1, 1, 5.0, MINUTE))
    lane = shared.transact(mine, "claude-opus-4", asked._replace(claim=None))
    assert (lane.waits, lane.totals, lane.facts, lane.pause_until) == ((0.0,), (0.0,), "", NEVER)
    response = shared.transact(other, LANE, asked)
    assert (response.waits, response.notice, response.members, response.granted) == (
        (0.0,),
        "",
        1,
        1,
    )


def test_time_moves_on(shared):
    """In microseconds, and never back."""
    first = shared.read_clock()
    assert first <= shared.transact(new_account(), LANE, asking()).now <= shared.read_clock()
    assert shared.read_clock() - first < 60e6


def test_its_name_is_for_people(shared, kind):
    """It says which store it is."""
    assert shared.name.startswith(kind)


def test_threads_never_get_the_same_instant(shared):
    """Eight at once on one store: each slot once, none left out, no response torn."""
    account, responses = new_account(), []
    begin = threading.Barrier(8)

    def reserve():
        begin.wait()
        for _ in range(25):
            responses.append(shared.transact(account, LANE, asking(2, counts=(("sent", 2.0),))))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    instants = sorted(response.now + wait for response in responses for wait in response.waits)
    gaps = [after - before for before, after in zip(instants, instants[1:])]
    assert len(instants) == 400
    assert min(gaps) > MINUTE - 1e3
    assert max(gaps) < MINUTE + PASSED
    assert Counter(response.sequence for response in responses) == Counter(range(1, 201))
    assert max(response.totals[0] for response in responses) == 400.0

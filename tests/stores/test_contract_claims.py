"""Each sentence of contract.py about members and what they have in flight."""

from __future__ import annotations

import pytest

from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    MemberClaim,
    StoredBucket,
)
from tests.support.store_requests import ALWAYS, LANE, new_account, reserving

MINUTE = 60e6


@pytest.fixture
def sit(shared):
    """``sit(member, in_use, want, limit)``: one claim of an account that is this test's."""
    account = new_account()

    def ask(member, in_use, want, limit=10.0, lease=MINUTE, info="{}"):
        claim = MemberClaim(in_use, want, limit, lease, info)
        return shared.transact(account, LANE, ExchangeRequest(member, ALWAYS, (), claim=claim))

    ask.account = account
    return ask


def test_one_alone_has_all_slots_and_no_more(sit):
    """Or as many as it wants."""
    assert sit("one", 0, 4).granted == 4
    assert sit("one", 4, 99).granted == 10


def test_slots_are_granted_once(sit):
    """What one holds the other cannot have."""
    assert sit("one", 0, 10).granted == 10
    response = sit("two", 0, 10)
    assert (response.granted, response.members, response.in_flight) == (0, 2, 10)


def test_where_another_is_hungry_each_has_its_share(sit):
    """Whoever came first gives back as its calls end, and nobody is left with nothing."""
    sit("one", 0, 10)
    sit("two", 0, 10)
    assert sit("one", 10, 10).granted == 5
    assert sit("two", 0, 10).granted == 0, "the first still has ten in flight"
    sit("one", 5, 10)
    response = sit("two", 0, 10)
    assert (response.granted, response.in_flight) == (5, 10)


def test_who_wants_little_leaves_the_rest_to_others(sit):
    """A share is not reserved for whoever does not use it."""
    sit("one", 0, 2)
    assert sit("two", 0, 99).granted == 8


def _settled(sit, members, limit):
    """What each has when all want more than there is, and have come again and again."""
    have = dict.fromkeys(members, 0)
    for _ in range(9):
        for member in have:
            have[member] = sit(member, have[member], 50, limit).granted
    return sorted(have.values())


def test_hungry_ones_use_all_there_is_and_share_it(sit):
    """Each comes again and again, as calls end and begin."""
    have = _settled(sit, ("one", "two", "three"), 10.0)
    assert sum(have) == 10
    assert have[-1] <= 4
    assert have[0] >= 1


@pytest.mark.parametrize(("limit", "least"), [(4.0, 1), (9.0, 2)])
def test_no_hungry_one_is_left_with_nothing(sit, limit, least):
    """Four places for three; nine for four."""
    members = ("one", "two", "three", "four")[: 3 if limit == 4.0 else 4]
    assert _settled(sit, members, limit)[0] >= least


def test_each_member_has_one_place_at_least_if_it_is_free(sit):
    """More members than places: one place each, until there are none."""
    granted = [sit(str(number), 0, 5, limit=3.0).granted for number in range(5)]
    assert granted == [3, 0, 0, 0, 0]
    assert sit("0", 1, 5, limit=3.0).granted == 1
    assert [sit(str(number), 0, 5, limit=3.0).granted for number in (1, 2, 3)] == [1, 1, 0]


def test_no_limit_is_no_limit(sit):
    """All it wants, and what is in flight is still counted."""
    sit("one", 3, 500, limit=0.0)
    response = sit("two", 3, 700, limit=0.0)
    assert (response.granted, response.members, response.in_flight) == (700, 2, 1200)


def test_what_is_in_flight_counts_whatever_was_granted(sit):
    """A limit that fell below it: nothing new until enough have ended."""
    sit("one", 8, 8, limit=0.0)
    response = sit("two", 0, 5, limit=6.0)
    assert (response.granted, response.in_flight) == (0, 8)


def test_one_that_does_not_come_again_is_gone(sit, shared):
    """With all it had in flight, after its lease and not before."""
    sit("one", 0, 10, lease=0.3 * SECOND)
    assert sit("two", 0, 10).granted == 0
    began = shared.read_clock()
    while not (response := sit("two", 0, 10)).granted:
        assert response.members == 2
        assert shared.read_clock() - began < 30 * SECOND
    assert (response.granted, response.members) == (10, 1)


def test_one_that_comes_again_stays(sit, shared):
    """Each time for another lease."""
    until = shared.read_clock() + 0.6 * SECOND
    while shared.read_clock() < until:
        assert sit("one", 5, 5, lease=60 * SECOND).granted == 5
        assert sit("two", 0, 10).granted == 5


def test_an_exchange_without_a_seat_takes_none(sit, shared):
    """Nor does it end one's own."""
    sit("one", 2, 4)
    response = shared.transact(sit.account, LANE, reserving(1))
    assert (response.granted, response.members, response.in_flight) == (0, 0, 0)
    assert sit("two", 0, 99).members == 2


def test_the_fleet_shows_who_is_there_and_what_there_is(sit, shared):
    """Lanes with their levels, pause and facts; members that are there; notices."""
    sit("one", 2, 4, info='{"host": "a"}')
    sit("gone", 1, 1, lease=1.0)
    bucket = StoredBucket("requests", MINUTE, 5.0)
    more = {"pause": 2 * MINUTE, "facts": '{"rpm": 1}', "notice": '{"reason": "spend limit"}'}
    shared.transact(sit.account, LANE, ExchangeRequest("one", ALWAYS, (bucket,), ((3.0,),), **more))
    fleet = shared.fleet()
    while any(member.member == "gone" for member in fleet.members):
        fleet = shared.fleet()
    lanes = {lane.lane: lane for lane in fleet.lanes if lane.account == sit.account}
    level, rate = lanes[LANE].levels["requests"]
    assert level <= 2.0 + 0.2
    assert rate == pytest.approx(1 / 60)
    assert 60 < lanes[LANE].paused_seconds <= 120
    assert lanes[LANE].facts == '{"rpm": 1}'
    (member,) = [one for one in fleet.members if one.account == sit.account]
    assert (member.member, member.in_flight, member.info) == ("one", 4, '{"host": "a"}')
    assert 30 < member.expires_seconds <= 60
    assert fleet.notices[sit.account] == '{"reason": "spend limit"}'

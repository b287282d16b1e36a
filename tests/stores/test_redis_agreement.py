"""The script decides as arithmetic.py does, to the last digit."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    ExchangeRequest,
    MemberClaim,
    StoredBucket,
)
from claude_throttle.features.sharing.stores.redis import RedisStore
from claude_throttle.features.sharing.stores.transaction import AccountRecord, LaneRecord, transact
from tests.support.store_requests import ALWAYS, LANE, new_account
from tests.support.thorough import tried

LOOSE = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

#: Times pass in a test as they do: some hundred microseconds from one exchange to the next.
INTERVALS = st.sampled_from([1.0, 37.0, 1e3 / 3, 1200.0, 6e7 / 50, 1e6 / 7])
UNITS = st.one_of(st.just(0.0), st.integers(1, 50).map(float), st.floats(0.01, 1e5))
SHIFTS = st.one_of(st.just(0.0), st.floats(-1e5, 1e5))
#: Before or after the first exchange.
SEEN = st.one_of(st.just(NEVER), st.floats(-1e6, 1e6))
NAMES = ("requests", "input_tokens", "Ausgabe-Wörter")


@st.composite
def buckets(draw, name, seen_from):
    seen = draw(SEEN)
    return StoredBucket(
        name,
        draw(INTERVALS),
        draw(st.sampled_from([0.5, 1.0, 2.0, 30.0, 1e5])),
        seen if seen == NEVER else seen_from + seen,
        shift=draw(SHIFTS),
        spent=draw(st.one_of(st.just(0.0), UNITS)),
        correction=draw(SHIFTS),
        returned=draw(st.one_of(st.just(0.0), UNITS)),
        keep=draw(st.sampled_from([0.0, 0.0, 1.5, 40.0])),
        margin=draw(st.sampled_from([0.0, 0.0, 250.0])),
        strict=draw(st.booleans()),
    )


CLAIMS = st.builds(
    MemberClaim,
    in_use=st.integers(0, 9),
    want=st.integers(0, 9),
    limit=st.one_of(st.just(0.0), st.integers(1, 20).map(float), st.floats(0.1, 20)),
    lease=st.sampled_from([1.0, 2e3, 15e6, 15e6, 15e6]),
    info=st.sampled_from(["{}", '{"host": "a b", "pid": 1}']),
)


@st.composite
def requests(draw, seen_from):
    names = NAMES[: draw(st.integers(0, len(NAMES)))]
    chosen = tuple(draw(buckets(name, seen_from)) for name in names)
    reservations = draw(st.lists(st.tuples(*(UNITS for _ in names)), max_size=12))
    return ExchangeRequest(
        member=draw(st.sampled_from(["one", "two", "three"])),
        not_after=draw(st.sampled_from([ALWAYS, ALWAYS, ALWAYS, ALWAYS, 0.0])),
        buckets=chosen,
        reservations=tuple(reservations),
        horizon=draw(st.sampled_from([0.0, 5e3, 1e5, 1e12])),
        sequence=draw(st.integers(-1, 8).map(float)),
        pause=draw(st.sampled_from([0.0, 0.0, 0.0, 300.0, 2e6])),
        counts=draw(st.sampled_from([(), (("sent", 1.0),), (("sent", 0.1), ("refused", -2.5))])),
        version=draw(st.integers(0, 4).map(float)),
        facts=draw(st.sampled_from([None, None, "", '{"rpm": 50}', '{"größer": "\\u0000"}'])),
        notice=draw(st.sampled_from([None, None, "", '{"reason": "spend"}'])),
        claim=draw(st.one_of(st.none(), CLAIMS)),
    )


MEMBERS = ["one", "two", "three", "four", "five"]


@pytest.fixture
def store(redis_url):
    store = RedisStore(redis_url, time.monotonic, timeout_seconds=5)
    yield store
    store.close()


@tried(how=LOOSE, few=15, data=st.data())
def test_lua_and_python_agree(store, data):
    """In every digit of every response of a random history."""
    account, lane, holders = new_account(), LaneRecord(), AccountRecord()
    began = store.read_clock()
    for request in data.draw(st.lists(requests(began), min_size=1, max_size=20)):
        response = store.transact(account, LANE, request)
        assert response == transact(lane, holders, request, response.now)
        assert response.now >= began


@tried(
    how=LOOSE,
    few=15,
    seated=st.lists(st.tuples(st.sampled_from(MEMBERS), CLAIMS), min_size=5, max_size=20),
)
def test_lua_and_python_share_slots_alike(store, seated):
    """Of many members, most of whom want more than there is."""
    account, holders = new_account(), AccountRecord()
    for member, claim in seated:
        request = ExchangeRequest(member, ALWAYS, (), claim=claim)
        response = store.transact(account, LANE, request)
        assert response == transact(LaneRecord(), holders, request, response.now)


def test_shares_are_cut_as_python_cuts_them(store):
    """Limits that lie a hair below a multiple of those who want some."""
    for members in range(1, 9):
        account, holders = new_account(), AccountRecord()
        for limit in (members * 7 * (1 - 1e-16), members * 3.0, 0.1 * members * 3, 20.9):
            for name in range(members):
                claim = MemberClaim(0, 9, limit, 15e6)
                request = ExchangeRequest(f"m{name}", ALWAYS, (), claim=claim)
                response = store.transact(account, LANE, request)
                assert response == transact(LaneRecord(), holders, request, response.now)


def test_a_thousand_members_and_a_long_batch(store):
    """As many as a script's stack must bear."""
    account, lane, holders = new_account(), LaneRecord(), AccountRecord()
    names = [StoredBucket(f"quota {index}", 10.0, 3.0) for index in range(6)]
    for number in range(1500):
        claim = MemberClaim(1, 2, 0.0, 60e6 if number % 2 else 1.0)
        request = ExchangeRequest(f"member {number}", ALWAYS, (), claim=claim)
        store.transact(account, LANE, request)
    request = ExchangeRequest(
        "last", ALWAYS, tuple(names), ((1.0,) * 6,) * 500, horizon=1e12, claim=claim
    )
    response = store.transact(account, LANE, request)
    assert response.members == 751
    alike = transact(lane, holders, request, response.now)
    assert (response.waits, response.empty_at, response.taken) == (
        alike.waits,
        alike.empty_at,
        alike.taken,
    )


def test_a_slot_must_name_all_buckets(store):
    """A batch that is cut short would be read askew."""
    short = ExchangeRequest(
        "one", ALWAYS, (StoredBucket("a", 1.0, 1.0), StoredBucket("b", 1.0, 1.0)), ((1.0,),)
    )
    with pytest.raises(ValueError, match="each bucket"):
        store.transact(new_account(), LANE, short)

"""Random histories: every store decides as arithmetic.py does, and never gives too much."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    SECOND,
    ExchangeRequest,
    MemberClaim,
    StoredBucket,
)
from claude_throttle.features.sharing.stores.transaction import (
    ROUNDING,
    SLACK,
    AccountRecord,
    LaneRecord,
    transact,
)
from tests.support.store_requests import ALWAYS, LANE, new_account
from tests.support.thorough import tried

MEMBERS = ("one", "two", "three")
INTERVALS = (37.0, 1e3 / 3, 6e7 / 50, 1e6 / 7)
NAMES = ("requests", "input tokens", "output tokens")

LOOSE = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class MovingClock:
    """Real time, and more of it when told. A Redis has its own and is not moved."""

    def __init__(self):
        self.ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock():
    return MovingClock()


@pytest.fixture
def moved(make_store, kind, clock):
    """A store of each kind, by a clock that can be moved."""
    return make_store(kind, clock.monotonic)


def _number(least, most):
    return st.one_of(st.just(0.0), st.floats(least, most))


@st.composite
def news(draw, name):
    """A bucket, and what became of it since its owner asked last."""
    return StoredBucket(
        name,
        draw(st.sampled_from(INTERVALS)),
        draw(st.sampled_from([0.5, 1.0, 3.0, 1e4])),
        draw(st.sampled_from([NEVER, 0.0, 1e15])),
        draw(_number(-1e5, 1e5)),
        draw(_number(0.0, 20.0)),
        draw(_number(-1e5, 1e5)),
        draw(_number(0.0, 20.0)),
        draw(st.sampled_from([0.0, 2.5])),
        draw(st.sampled_from([0.0, 250.0])),
        draw(st.booleans()),
    )


@st.composite
def steps(draw):
    """One request, but for what its member learns from its last response; and time before it."""
    names = NAMES[: draw(st.integers(0, 3))]
    costs = st.tuples(*(_number(0.01, 100.0) for _ in names))
    claim = st.builds(
        MemberClaim,
        st.integers(0, 9),
        st.integers(0, 9),
        st.sampled_from([0.0, 1.0, 7.5, 20.0]),
        st.sampled_from([1.0, 2e6, 15e6]),
        st.just('{"pid": 1}'),
    )
    request = ExchangeRequest(
        draw(st.sampled_from(MEMBERS)),
        draw(st.sampled_from([ALWAYS] * 5 + [0.0])),
        tuple(draw(news(name)) for name in names),
        tuple(draw(st.lists(costs, max_size=6))) if names else (),
        draw(st.sampled_from([0.0, 5e3, 1e12])),
        pause=draw(st.sampled_from([0.0, 0.0, 300.0, 2e6])),
        counts=draw(st.sampled_from([(), (("sent", 0.1), ("produced", -2.5))])),
        facts=draw(st.sampled_from([None, "", '{"größer": "\\u0000"}'])),
        notice=draw(st.sampled_from([None, None, "", "{}"])),
        claim=draw(st.one_of(st.none(), claim)),
    )
    return request, draw(st.booleans()), draw(st.sampled_from([0.0, 0.0, 1e-3, 3.0, 7200.0]))


@tried(how=LOOSE, few=8, history=st.lists(steps(), min_size=1, max_size=15))
def test_all_ledgers_decide_alike(moved, clock, history):
    """To the last digit: fed with the store's own time, the arithmetic gives the same responses."""
    account, lane, owner = new_account(), LaneRecord(), AccountRecord()
    last = dict.fromkeys(MEMBERS, (-1.0, 0.0))
    for request, is_stale, passes in history:
        clock.ahead += passes
        sequence, version = (-1.0, 99.0) if is_stale else last[request.member]
        asked = request._replace(sequence=sequence, version=version)
        response = moved.transact(account, LANE, asked)
        assert response == transact(lane, owner, asked, response.now)
        if response.done:
            last[request.member] = (response.sequence, response.version)


BATCHES = st.lists(
    st.tuples(st.sampled_from(MEMBERS), st.integers(1, 8), st.sampled_from([0.0, 1e-3, 0.05, 5.0])),
    min_size=2,
    max_size=25,
)


@tried(
    how=LOOSE,
    few=8,
    batches=BATCHES,
    burst=st.sampled_from([1.0, 2.0, 7.0]),
    interval=st.sampled_from(INTERVALS),
)
def test_no_window_holds_more_than_burst_and_rate(moved, clock, batches, burst, interval):
    """Whoever asks, however many at once, after however long a rest."""
    account, instants = new_account(), []
    for member, count, passes in batches:
        clock.ahead += passes
        bucket = StoredBucket("requests", interval, burst, strict=True)
        request = ExchangeRequest(member, ALWAYS, (bucket,), ((1.0,),) * count, 1e12)
        response = moved.transact(account, LANE, request)
        instants += [response.now + wait for wait in response.waits]
    assert instants == sorted(instants)
    for first, begin in enumerate(instants):
        for count, end in enumerate(instants[first:], 1):
            # A slot up to five milliseconds late is caught up.
            assert count <= burst + (end - begin + SLACK + 2 * ROUNDING) / interval


@pytest.mark.parametrize("kind", ["memory", "sqlite"], indirect=True)
@pytest.mark.parametrize(("late", "after"), [(4_900.0, 5_100.0), (5_100.0, 10_000.0)])
def test_a_slot_is_caught_up_if_it_is_five_milliseconds_late(make_store, kind, late, after):
    """A later one moves the instant: time is lost rather than two sent on each other's heels."""
    now = [1e9]
    store, account = make_store(kind, lambda: now[0] / SECOND), new_account()
    request = ExchangeRequest("one", ALWAYS, (StoredBucket("requests", 1e4, 1.0),), ((1.0,),))
    store.transact(account, LANE, request)
    now[0] += 1e4 + late
    assert store.transact(account, LANE, request).waits == (0.0,)
    (wait,) = store.transact(account, LANE, request).waits
    assert wait == pytest.approx(after, abs=2 * ROUNDING)


@tried(
    how=LOOSE,
    few=8,
    batches=BATCHES,
    returns=st.lists(st.integers(0, 8), min_size=25, max_size=25),
)
def test_with_a_burst_of_one_no_instant_is_given_twice(moved, clock, batches, returns):
    """Though members give back what they do not use, and though pauses come between."""
    account, kept, last = new_account(), [], dict.fromkeys(MEMBERS, (-1.0, []))
    for (member, count, passes), unused in zip(batches, returns):
        clock.ahead += passes
        sequence, mine = last[member]
        now = moved.read_clock()
        # Who gives back the last of its slots must not have used them.
        back = [at for at in mine if at > now][max(0, len(mine) - unused) :]
        bucket = StoredBucket("requests", 1e6 / 7, 1.0, returned=float(len(back)), strict=True)
        request = ExchangeRequest(member, ALWAYS, (bucket,), ((1.0,),) * count, 1e12, sequence)
        response = moved.transact(account, LANE, request)
        for at in back:
            kept.remove(at)
        mine = [response.now + wait for wait in response.waits]
        last[member] = (response.sequence, mine)
        kept += mine
    kept.sort()
    gaps = [after - before for before, after in zip(kept, kept[1:])]
    assert not gaps or min(gaps) >= 1e6 / 7 - SLACK - 2 * ROUNDING


@tried(
    how=LOOSE,
    few=8,
    visits=st.lists(
        st.tuples(st.sampled_from(MEMBERS), st.integers(0, 12), st.integers(0, 12)),
        min_size=2,
        max_size=25,
    ),
    limit=st.sampled_from([1.0, 3.0, 10.0]),
)
def test_slots_in_flight_never_exceed_the_limit(moved, visits, limit):
    """Nobody uses more than it was granted, so neither do all together."""
    account, held = new_account(), dict.fromkeys(MEMBERS, 0)
    for member, want, ended in visits:
        in_use = max(0, held[member] - ended)
        claim = MemberClaim(in_use, want, limit, 600e6)
        response = moved.transact(account, LANE, ExchangeRequest(member, ALWAYS, (), claim=claim))
        held[member] = max(in_use, response.granted)
        assert sum(held.values()) <= limit
        assert response.in_flight == sum(held.values())

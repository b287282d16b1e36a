"""Whoever waits or is out is counted, whichever door he came by; and what may leave now is true."""

from __future__ import annotations

import contextlib
import math
import threading

import anthropic
import pytest
import requests

import claude_throttle
from claude_throttle import FleetLane, FleetState
from claude_throttle.contrib import status
from claude_throttle.core.pacing import gcra
from claude_throttle.testing import Reply, Stall
from tests.support.calls import HELLO, KEY, LANE, MODEL, ask
from tests.support.needs import needs
from tests.support.waiting import wait_until

SDK_HELLO = {**HELLO, "max_tokens": 10}


def by_call(throttler, server):
    throttler.call(**ask())


def by_stream(throttler, server):
    with throttler.stream(**ask()) as stream:
        stream.until_done()


def by_map(throttler, server):
    list(throttler.map([ask()], raw=True))


def by_permit(throttler, server):
    with throttler.permit(model=MODEL):
        pass


def sdk_client(throttler, server):
    return anthropic.Anthropic(
        api_key=KEY,
        base_url=server.url,
        middleware=[throttler.middleware()],
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(verify=False),  # to read no certificates
    )


@needs("middleware")
def by_middleware(throttler, server):
    with sdk_client(throttler, server) as client:
        client.messages.create(**SDK_HELLO)


@needs("middleware")
def by_sdk_stream(throttler, server):
    with sdk_client(throttler, server) as client, client.messages.stream(**SDK_HELLO) as stream:
        stream.until_done()


@needs("middleware")
def by_count(throttler, server):
    with sdk_client(throttler, server) as client:
        client.messages.count_tokens(model=MODEL, messages=HELLO["messages"])


@needs("middleware")
def by_batches(throttler, server):
    with sdk_client(throttler, server) as client:
        client.messages.batches.list()


def by_session(throttler, server):
    with requests.Session() as session:
        session.mount(server.url, throttler.adapter())
        session.post(f"{server.url}/v1/messages", json=SDK_HELLO, headers={"x-api-key": KEY})


DOORS = (
    by_call,
    by_stream,
    by_map,
    by_permit,
    by_middleware,
    by_sdk_stream,
    by_count,
    by_batches,
    by_session,
)


@contextlib.contextmanager
def at_the_door(throttler, server, *doors):
    """A thread at each of the doors; they end when the block does."""
    threads = [threading.Thread(target=door, args=(throttler, server)) for door in doors]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        throttler.resume()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def told(throttler):
    (one,) = status.data({"default": throttler})["throttlers"]
    return one


def waiting_everywhere(throttler):
    """By stats(), by limits() and on the page."""
    page = told(throttler)
    return (
        throttler.stats().waiting,
        sum(lane.waiting for lane in throttler.limits().values()),
        page["waiting"],
        sum(lane["waiting"] for lane in page["lanes"]),
    )


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_who_waits_is_counted_by_whichever_door_he_came(fake, throttle, door):
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    with at_the_door(throttler, server, door, door):
        wait_until(lambda: throttler.stats().waiting == 2)
        assert waiting_everywhere(throttler) == (2, 2, 2, 2)
        assert throttler.stats().in_flight == 0
    assert waiting_everywhere(throttler) == (0, 0, 0, 0)
    assert throttler.stats().in_flight == 0


@needs("middleware")
def test_all_doors_at_once_add_up(fake, throttle):
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    with at_the_door(throttler, server, *DOORS):
        wait_until(lambda: throttler.stats().waiting == len(DOORS))
        limits = throttler.limits()
        assert limits[LANE].waiting == len(DOORS) - 2
        assert (limits["count_tokens"].waiting, limits["batches"].waiting) == (1, 1)
        assert f"{len(DOORS) - 2} waiting" in str(limits)
    assert list(throttler.limits()) == [LANE], "an endpoint's lane is shown while anybody is there"


@pytest.mark.parametrize(
    "door", [by_call, by_stream, by_middleware, by_session], ids=lambda door: door.__name__
)
def test_who_is_out_is_counted_by_whichever_door_he_came(fake, throttle, door):
    server = fake()
    server.script(Stall())
    throttler = throttle(server)
    with at_the_door(throttler, server, door):
        wait_until(lambda: server.arrivals)
        found = throttler.stats(), throttler.limits()[LANE], told(throttler)
        server.release_stalled()
    stats, lane, page = found
    assert (stats.in_flight, lane.in_flight, page["in_flight"]) == (1, 1, 1)
    assert (stats.waiting, lane.waiting, page["waiting"]) == (0, 0, 0)
    assert throttler.stats().in_flight == 0


def test_an_open_permit_is_in_flight_once_also_while_a_call_uses_it(fake, throttle):
    server = fake()
    server.script(Stall())
    throttler = throttle(server)
    with throttler.permit(model=MODEL):
        assert throttler.stats().in_flight == 1
        future = throttler.submit(**ask())
        wait_until(lambda: server.arrivals)
        assert throttler.stats().in_flight == 1
        server.release_stalled()
        future.result(10)
    assert throttler.stats().in_flight == 0


def test_a_permit_that_is_dropped_is_in_flight_no_more(fake, throttle):
    throttler = throttle(fake())
    throttler.permit(model=MODEL)
    wait_until(lambda: throttler.stats().in_flight == 0)


def test_a_permit_that_was_not_granted_in_time_waits_no_more(fake, throttle):
    throttler = throttle(fake())
    throttler.pause()
    with pytest.raises(claude_throttle.DeadlineExceeded):
        throttler.permit(model=MODEL, timeout=0.01)
    assert waiting_everywhere(throttler) == (0, 0, 0, 0)


def test_a_call_between_two_attempts_waits(fake, throttle):
    server = fake()
    throttler = throttle(server)
    server.script(Reply(429, {"retry-after": "30"}))
    throttler.submit(**ask())
    wait_until(lambda: throttler.limits()[LANE].paused_seconds)
    wait_until(lambda: throttler.stats().waiting)
    assert (throttler.stats().waiting, throttler.stats().in_flight) == (1, 0)


@needs("middleware")
def test_the_fleet_shows_who_waits_by_another_client(fake, throttle):
    server = fake()
    shared = "memory://figures"
    throttler = throttle(server, shared=shared)
    throttler.call(**ask())
    throttler.pause()
    with at_the_door(throttler, server, by_middleware, by_permit, by_call):

        def members_waiting():
            (member,) = claude_throttle.fleet(shared).members
            return member.lanes.get(LANE, (0, 0))[0]

        wait_until(lambda: members_waiting() == 3)
        state = claude_throttle.fleet(shared)
        assert [lane.waiting for lane in state.lanes] == [3]
        assert "3 waiting" in str(state)


# -- what may leave now ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "burst", "right"),
    [
        (588.0, 20.0, 20.0),
        (873.0, 300.0, 300.0),
        (-0.3, 5.0, 0.0),
        (-0.0, 5.0, 0.0),
        (-812.0, 35_000.0, 0.0),
        (math.nan, 5.0, 0.0),
        (-math.inf, 5.0, 0.0),
        (math.inf, 5.0, 5.0),
        (2.5, 5.0, 2.5),
        (1e18, 1e18, 1e18),
    ],
)
def test_what_may_leave_now_is_between_nothing_and_the_burst(level, burst, right):
    shown = gcra.shown(level, burst)
    assert shown == right
    assert math.copysign(1.0, shown) == 1.0


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (0.99, "0"),
        (0.9999999, "1"),
        (1.99, "1"),
        (0.0, "0"),
        (12_345.6, "12,345"),
        (1e15, f"{10**15:,}"),
    ],
)
def test_part_of_a_unit_is_none_that_may_leave(level, text):
    assert gcra.whole_units(level) == text


def test_an_overdrawn_quota_has_nothing_left_and_says_by_how_much(fake, throttle, manual):
    throttler = throttle(fake(clock=manual), rpm=None, itpm=6_000, clock=manual)
    permit = throttler.permit(model=MODEL, input_tokens=10)
    permit.settle(usage={"input_tokens": 5_000, "output_tokens": 1})
    permit.close()
    (row,) = throttler.limits()[LANE].quotas
    assert row.remaining == 0.0
    assert row.overdrawn == pytest.approx(4_900)
    line = str(throttler.limits()).splitlines()[-1]
    assert line.split()[-2] == "0"


@pytest.mark.parametrize(
    "quotas",
    [{"rpm": 60}, {"rpm": 300, "burst": 7}, {"rpm": 60, "itpm": 9_000}, {"rpm": 50, "rpd": 1000}],
    ids=["spaced", "burst", "tokens", "a day"],
)
def test_a_fleet_at_rest_may_send_its_burst_at_once_and_no_more(fake, throttle, manual, quotas):
    shared = f"memory://rest-{sorted(quotas.items())}"
    throttler = throttle(fake(clock=manual), shared=shared, clock=manual, **quotas)
    future = throttler.submit(**ask())
    manual.advance_until_done(future)
    bursts = {}

    def told_all():
        manual.advance(0.5)
        lanes = claude_throttle.fleet(shared).lanes
        rows = throttler.limits()[LANE].quotas
        bursts.update({row.kind + f" {row.per:g}": row.burst for row in rows})
        return lanes and lanes[0].waiting == 0

    wait_until(told_all)
    manual.advance(588.0)
    (lane,) = claude_throttle.fleet(shared).lanes
    names = {"rpm": "requests 60", "itpm": "input_tokens 60", "rpd": "requests 86400"}
    for name in names.keys() & lane.quotas.keys():
        left, a_minute = lane.quotas[name]
        assert 0 <= left <= max(bursts[names[name]], 1.0), name
        assert a_minute > 0


@pytest.mark.parametrize(
    ("name", "a_minute", "words"),
    [
        ("rpd", 1000 / 1440, "rpd: 12 left now of 1,000 a day"),
        ("tokens a day (learned)", 1.0, "tokens a day (learned): 12 left now of 1,440 a day"),
        ("requests a hour (learned)", 5.0, "a hour (learned): 12 left now of 300 a hour"),
        ("rpm", 60.0, "rpm: 12 left now of 60 a minute"),
        ("ceiling input_tokens", 900.0, "ceiling input tokens: 12 left now of 900 a minute"),
    ],
)
def test_the_fleets_words_are_of_the_quotas_own_period(name, a_minute, words):
    lane = FleetLane("a" * 24, LANE, {name: (12.7, a_minute)}, 0.0, 0, 0, None, 0.0)
    assert words in str(FleetState("memory://", (), (lane,)))

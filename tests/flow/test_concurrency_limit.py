"""How many requests are in flight: found where nobody told, never exceeded where somebody did."""

from __future__ import annotations

import pytest

from claude_throttle import ConcurrencyChanged, LanePaused, Priority
from claude_throttle.testing import Ok, Stall
from claude_throttle.testing.replies import too_many_connections
from tests.support.calls import ask, echo
from tests.support.waiting import move_until_done, wait_until

LANE = "sonnet-5"
OTHER_MODEL = "claude-haiku-4-5"


def most_in_flight(server):
    return max(arrival.in_flight for arrival in server.arrivals)


# -- found out -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retry_after", "should_retry"), [(None, True), (None, False), (1, True)])
def test_a_limit_of_the_server_is_found_and_kept(fake, throttle, retry_after, should_retry):
    """Four in flight, nothing told: all are answered, few are refused, the lane is not paused."""
    events = []
    server = fake(
        max_concurrency=4,
        rpm=60_000,
        latency=0.03,
        concurrency_retry_after=retry_after,
        concurrency_should_retry=should_retry,
    )
    throttler = throttle(server, rpm=None, on_event=events.append)
    texts = [str(n) for n in range(80)]
    futures = [throttler.submit(**ask(text)) for text in texts]
    assert [echo(future.result(30)) for future in futures] == texts
    refused = [arrival for arrival in server.arrivals if arrival.status == 429]
    assert 1 <= len(refused) <= 15
    assert most_in_flight(server) <= 4
    assert not [event for event in events if isinstance(event, LanePaused)]
    falls = [event for event in events if isinstance(event, ConcurrencyChanged)]
    assert any(event.limit < event.before for event in falls)
    assert throttler.limits().max_concurrency <= 10
    assert throttler.limits().in_flight == 0


def test_too_many_connections_delays_its_own_call_only(fake, throttle, manual):
    """Even if the refusal names a time to wait: it says something of now, not of the rate."""
    events = []
    server = fake(clock=manual, rpm=6000)
    throttler = throttle(server, rpm=None, clock=manual, on_event=events.append)
    throttler.submit(**ask()).result(10)
    server.script(too_many_connections(30, True))
    refused = throttler.submit(**ask("refused"))
    wait_until(lambda: throttler.stats().retried)
    for n in range(5):
        assert echo(throttler.submit(**ask(str(n))).result(10)) == str(n)
    assert not refused.done()
    assert throttler.limits()[LANE].paused_seconds == 0
    move_until_done(manual, [refused])
    assert echo(refused.result()) == "refused"
    assert server.arrivals[-1].at >= server.arrivals[1].at + 30
    assert not [event for event in events if isinstance(event, LanePaused)]


def test_it_falls_to_what_was_in_flight_and_creeps_back(fake, throttle, manual):
    """Six out when the seventh is refused: six at most for a second, then one more is tried."""
    server = fake(clock=manual, rpm=60_000)
    throttler = throttle(server, rpm=None, clock=manual)
    throttler.submit(**ask()).result(10)
    server.script(*[Stall()] * 6)
    out = [throttler.submit(**ask(f"out {n}")) for n in range(6)]
    wait_until(lambda: len(server.arrivals) == 7)
    server.script(too_many_connections(None, True))
    more = [throttler.submit(**ask("refused"))]
    wait_until(lambda: throttler.stats().retried)
    more += [throttler.submit(**ask(f"more {n}")) for n in range(3)]
    for _ in range(3):
        manual.advance(0.3)
        manual.wait_for_sleepers(1)
        assert throttler.limits().max_concurrency == 6
        assert len(server.arrivals) == 8
    move_until_done(manual, more, 0.3)
    assert throttler.limits().max_concurrency == 7
    assert manual.monotonic() <= 1000.0 + 3.0
    server.release_stalled()
    move_until_done(manual, out)


# -- told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [{"rpm": None}, {}])
def test_what_was_told_is_never_exceeded(fake, throttle, rate):
    """Over all lanes, with retries and lost connections in between."""
    server = fake(latency=0.005, fault_rates={"500": 0.1, "reset": 0.05, "529": 0.05})
    throttler = throttle(server, max_concurrency=3, max_retries=20, **rate)
    models = ["claude-sonnet-5", OTHER_MODEL, "claude-opus-5"]
    futures = [throttler.submit(**ask(str(n), model=models[n % 3])) for n in range(150)]
    assert [echo(future.result(60)) for future in futures] == [str(n) for n in range(150)]
    assert most_in_flight(server) <= 3
    assert throttler.limits().max_concurrency <= 3


def test_what_was_told_stays_a_ceiling_where_more_would_be_let_in(fake, throttle, manual):
    """However long nothing complains."""
    server = fake(clock=manual, rpm=60_000)
    throttler = throttle(server, rpm=None, max_concurrency=2, clock=manual)
    for n in range(20):
        throttler.submit(**ask(str(n))).result(10)
    server.script(*[Stall()] * 2)
    futures = [throttler.submit(**ask(f"later {n}")) for n in range(6)]
    wait_until(lambda: len(server.arrivals) == 22)
    for _ in range(20):
        manual.wait_for_sleepers(1)
        manual.advance(0.25)
    assert len(server.arrivals) == 22
    assert throttler.limits().max_concurrency == 2
    server.release_stalled()
    move_until_done(manual, futures, 0.25)


def test_reconfigure_changes_it_while_calls_wait(fake, throttle):
    """More may go at once; nobody has to submit again."""
    server = fake()
    server.script(*[Stall()] * 5)
    throttler = throttle(server, max_concurrency=1)
    futures = [throttler.submit(**ask(str(n))) for n in range(5)]
    wait_until(lambda: len(server.arrivals) == 1)
    throttler.reconfigure(max_concurrency=5)
    wait_until(lambda: len(server.arrivals) == 5)
    server.release_stalled()
    assert [echo(future.result(10)) for future in futures] == [str(n) for n in range(5)]


def test_a_lane_that_found_no_permit_is_woken_by_another_lanes_answer(fake, throttle, manual):
    """Time stands still, so that only the permit that comes back can wake it."""
    server = fake(clock=manual)
    server.script(Stall())
    throttler = throttle(server, max_concurrency=1, clock=manual)
    first = throttler.submit(**ask("first"))
    wait_until(lambda: server.arrivals)
    second = throttler.submit(**ask("second", model=OTHER_MODEL))
    manual.wait_for_sleepers(1)
    server.release_stalled()
    assert echo(first.result(10)) == "first"
    assert echo(second.result(10)) == "second"


# -- a share for those who wait at a screen --------------------------------------------------------


def test_a_share_is_kept_for_interactive_calls(fake, throttle, manual):
    """A flood of BATCH fills three of four places; somebody at a screen finds the fourth."""
    server = fake(clock=manual)
    throttler = throttle(server, max_concurrency=4, interactive_share=0.25, clock=manual)
    server.script(*[Stall()] * 3)
    flood = [throttler.submit(**ask(f"batch {n}", priority=Priority.BATCH)) for n in range(30)]
    wait_until(lambda: len(server.arrivals) == 3)
    for n in range(5):
        person = throttler.submit(**ask(f"person {n}", priority=Priority.INTERACTIVE))
        assert echo(person.result(10)) == f"person {n}"
    nonces = [arrival.nonce for arrival in server.arrivals]
    assert nonces[3:] == [f"person {n}" for n in range(5)]
    server.release_stalled()
    move_until_done(manual, flood, 0.25)


def test_interactive_calls_may_use_all_places(fake, throttle):
    """The share is a floor, no ceiling."""
    server = fake()
    server.script(*[Stall()] * 4)
    throttler = throttle(server, max_concurrency=4, interactive_share=0.25)
    people = [throttler.submit(**ask(str(n), priority=Priority.INTERACTIVE)) for n in range(4)]
    wait_until(lambda: len(server.arrivals) == 4)
    server.release_stalled()
    assert [echo(future.result(10)) for future in people] == ["0", "1", "2", "3"]


def test_the_last_place_is_everybodys(fake, throttle):
    """One in flight, and a large share: BATCH still leaves."""
    server = fake()
    server.script(Ok("batch"))
    throttler = throttle(server, max_concurrency=1, interactive_share=0.9)
    assert echo(throttler.call(**ask(priority=Priority.BATCH))) == "batch"

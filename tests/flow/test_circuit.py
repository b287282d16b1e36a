"""An outage: one probe at a time instead of everybody's retries, and nobody's call is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import anthropic
import pytest

from claude_throttle import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpen,
    CircuitOpened,
)
from claude_throttle.core.pacing.circuit_breaker import PROBE_GAPS_SECONDS
from claude_throttle.testing import Ok, Reply, Reset, Stall
from tests.support.calls import LANE, MODEL, ask, echo
from tests.support.circuits import FAULT, circuit, in_the_dark, open_circuit
from tests.support.inside import lane_of, note_departures
from tests.support.waiting import move_until_done, wait_until

DOWN = Reply(529, {"x-should-retry": "true"}, "overloaded_error", "Overloaded")


def test_five_failures_one_after_another_open_it(fake, throttle, manual):
    """Four do not; each change is told once, and limits() says how it stands."""
    events = []
    server = fake(clock=manual)
    throttler = throttle(server, max_concurrency=1, clock=manual, on_event=events.append)

    def told():
        return [type(e) for e in events if type(e).__name__.startswith("Circuit")]

    for answers in ([FAULT] * 4, [Ok()], [FAULT] * 4):
        server.script(*answers)
        futures = [throttler.submit(**ask(str(n))) for n in range(len(answers))]
        wait_until(lambda: throttler.stats().waiting == 0)
        assert throttler.limits()[LANE].circuit == "closed"
        move_until_done(manual, futures)
    assert told() == []
    server.script(*[FAULT] * 5)
    futures = [throttler.submit(**ask(str(n))) for n in range(5)]
    wait_until(lambda: throttler.limits()[LANE].circuit == "open")
    manual.wait_for_sleepers(1)
    server.script(Stall())
    before = len(server.arrivals)
    manual.advance(0.5)
    wait_until(lambda: throttler.limits()[LANE].circuit == "half-open")
    wait_until(lambda: len(server.arrivals) > before)  # else nobody is there to be released
    server.release_stalled()
    wait_until(lambda: throttler.limits()[LANE].circuit == "closed")
    move_until_done(manual, futures)
    assert told() == [CircuitOpened, CircuitHalfOpened, CircuitClosed]


@pytest.mark.parametrize("fault", [DOWN, FAULT, Reply(503), Reset()])
def test_any_kind_of_outage_opens_it(fake, throttle, manual, fault):
    """Overload, faults, lost connections; afterwards everything is answered."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    server.outage(reply=fault)
    futures = [throttler.submit(**ask(str(n))) for n in range(20)]
    in_the_dark(server, manual, 20)
    assert circuit(throttler).is_open
    server.outage(False)
    move_until_done(manual, futures, 0.5)
    assert [echo(future.result()) for future in futures] == [str(n) for n in range(20)]


def test_a_long_outage_costs_few_requests_and_no_call(fake, throttle, manual):
    """A minute, 200 calls waiting: at most 30 requests, and all are answered soon after."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    server.outage()
    futures = [throttler.submit(**ask(str(n))) for n in range(200)]
    in_the_dark(server, manual, 60)
    assert 5 <= len(server.arrivals) <= 30
    assert not any(future.done() for future in futures)
    server.outage(False)
    ended = manual.monotonic()
    move_until_done(manual, futures, 0.5)
    assert [echo(future.result()) for future in futures] == [str(n) for n in range(200)]
    # A probe every five seconds, then all of them; on a busy machine time is moved on meanwhile.
    assert manual.monotonic() - ended <= 30


def test_one_probe_at_a_time_while_it_is_open(fake, throttle, manual):
    """No two leave closer together than the gaps grow, and none waits much longer.

    By the instants of leaving: time is moved by hand, and on a busy machine a request may arrive
    when it has been moved on.
    """
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    departures = note_departures(throttler)
    futures = open_circuit(server, throttler, manual)
    before = len(departures)
    in_the_dark(server, manual, 30, 0.25)
    probes = departures[before:]
    gaps = [b - a for a, b in zip(probes, probes[1:])]
    assert len(gaps) >= 4
    least = [*PROBE_GAPS_SECONDS, *[PROBE_GAPS_SECONDS[-1]] * len(gaps)]
    # The first few may have left before we looked.
    starts = [least[skipped : skipped + len(gaps)] for skipped in range(4)]
    assert any(all(gap >= each for gap, each in zip(gaps, start)) for start in starts)
    assert all(gap <= PROBE_GAPS_SECONDS[-1] + 2.0 for gap in gaps)
    server.outage(False)
    move_until_done(manual, futures, 0.5)


@pytest.mark.parametrize("max_retries", [1, 2])
def test_an_open_circuit_uses_up_nobodys_retries(fake, throttle, manual, max_retries):
    """A minute of outage is a dozen probes; who allows one retry is answered all the same.

    One in flight, so that each of the first five was refused once as it opens.
    """
    server = fake(clock=manual)
    throttler = throttle(server, max_concurrency=1, max_retries=max_retries, clock=manual)
    server.outage()
    futures = [throttler.submit(**ask(str(n))) for n in range(30)]
    wait_until(lambda: circuit(throttler).is_open)
    in_the_dark(server, manual, 60)
    server.outage(False)
    move_until_done(manual, futures, 0.5)
    lost = [future.exception() for future in futures if future.exception() is not None]
    assert lost == []


# -- those who have no time ------------------------------------------------------------------------


def test_a_call_whose_time_is_up_before_the_next_probe_fails_at_once(fake, throttle, manual):
    """It says when the next probe is; nothing of it was sent."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    futures = open_circuit(server, throttler, manual)
    in_the_dark(server, manual, 20, 0.25)  # the gaps are five seconds by now
    wait_until(lambda: circuit(throttler).opens_at() - manual.monotonic() > 1.0)
    for attempt in (
        lambda: throttler.submit(**ask("hurried", timeout=0.5)),
        lambda: throttler.call(**ask("hurried", timeout=0.5)),
    ):
        with pytest.raises(CircuitOpen, match="nothing was sent") as caught:
            attempt()
        assert 0.5 < caught.value.retry_after <= 5.0
    patient = throttler.submit(**ask("patient", timeout=100))
    server.outage(False)
    move_until_done(manual, [*futures, patient], 0.5)
    assert echo(patient.result()) == "patient"
    assert "hurried" not in {arrival.nonce for arrival in server.arrivals}


def test_a_permit_that_has_no_time_for_the_next_probe_is_refused_at_once(fake, throttle, manual):
    """Who sends himself is told, too, instead of waiting out his time for nothing."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    futures = open_circuit(server, throttler, manual)
    in_the_dark(server, manual, 20, 0.25)
    wait_until(lambda: circuit(throttler).opens_at() - manual.monotonic() > 1.0)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(throttler.permit, model=MODEL, timeout=0.5)
        ended = wait([asked], 2).done
        server.outage(False)
        move_until_done(manual, [*futures, asked], 0.5)
    assert ended, "it waited though the clock stood still"
    assert isinstance(asked.exception(), CircuitOpen)


def test_calls_that_wait_already_are_told_as_it_opens(fake, throttle, manual):
    """Those whose time ends before the first probe need not wait for it."""
    server = fake(clock=manual)
    throttler = throttle(server, max_concurrency=1, max_retries=0, clock=manual)
    server.script(*[FAULT] * 4, Reply(500, {}, "api_error", latency=0.2))
    for n in range(4):
        throttler.submit(**ask(str(n))).exception(10)
    opener = throttler.submit(**ask("opener"))
    wait_until(lambda: len(server.arrivals) == 5)
    hurried = [throttler.submit(**ask("hurried", timeout=0.2)) for _ in range(10)]
    patient = throttler.submit(**ask("patient"))
    for future in hurried:
        with pytest.raises(CircuitOpen) as caught:
            future.result(10)
        assert caught.value.retry_after is not None
    assert isinstance(opener.exception(10), anthropic.InternalServerError)
    assert not patient.done()
    move_until_done(manual, [patient], 0.5)
    assert echo(patient.result()) == "patient"


def test_a_retry_without_time_for_the_next_probe_is_told_at_once(fake, throttle, manual):
    """It waits for its turn with its call's deadline, and another call was the last probe."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    futures = open_circuit(server, throttler, manual)
    in_the_dark(server, manual, 20, 0.25)  # the gaps are five seconds by now
    lane = lane_of(throttler)

    def until_probe():
        with lane.mutex:
            return circuit(throttler).opens_at() - manual.monotonic()

    def probe(nonce):
        seen = throttler.stats().retried
        manual.advance(until_probe())
        wait_until(lambda: server.arrivals[-1].nonce == nonce)
        wait_until(lambda: throttler.stats().retried > seen and until_probe() == 5.0)

    for _ in range(100):  # to a second before a probe
        if 0.5 < until_probe() <= 1.0:
            break
        in_the_dark(server, manual, 0.25, 0.25)
    short = throttler.submit(**ask("short", timeout=8, priority=-1))
    probe("short")
    urgent = throttler.submit(**ask("urgent", priority=-2))
    probe("urgent")
    ended = wait([short], 2).done
    server.outage(False)
    move_until_done(manual, [*futures, short, urgent], 0.5)
    assert ended, "it went on waiting for a probe that comes too late for it"
    assert isinstance(short.exception(), (CircuitOpen, anthropic.APIStatusError))

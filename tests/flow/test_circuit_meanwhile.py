"""What may be done in an outage, how it ends, and the retry budget."""

from __future__ import annotations

import threading
from concurrent.futures import wait

from claude_throttle import (
    CircuitOpened,
    Closed,
    RetryScheduled,
)
from claude_throttle.testing import Ok, Stall
from tests.support.calls import LANE, ask, echo
from tests.support.circuits import FAULT, circuit, in_the_dark, open_circuit
from tests.support.waiting import move_until_done, wait_until

# -- what may be done meanwhile --------------------------------------------------------------------


def test_close_ends_an_outage_promptly(fake, throttle):
    """Who waits for a probe is told Closed; no thread hangs."""
    server = fake()
    throttler = throttle(server, rpm=None)
    futures = open_circuit(server, throttler)
    closer = threading.Thread(target=throttler.close, kwargs={"timeout": 0.1}, daemon=True)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()
    assert not wait(futures, 5).not_done
    assert {type(future.exception()) for future in futures} == {Closed}


def test_close_may_cancel_what_waits_in_an_outage(fake, throttle):
    """cancel_pending: those never sent are cancelled, the others Closed."""
    server = fake()
    throttler = throttle(server, rpm=None)
    futures = open_circuit(server, throttler)
    waiting = [throttler.submit(**ask("waiting")) for _ in range(5)]
    closer = threading.Thread(
        target=throttler.close, kwargs={"timeout": 0, "cancel_pending": True}, daemon=True
    )
    closer.start()
    closer.join(10)
    assert not closer.is_alive()
    assert not wait([*futures, *waiting], 5).not_done
    assert all(future.cancelled() for future in waiting)


def test_a_waiting_call_can_be_cancelled_in_an_outage(fake, throttle, manual):
    """Its place is free at once, and it is never sent."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    futures = open_circuit(server, throttler, manual)
    waiting = throttler.submit(**ask("cancelled"))
    assert waiting.cancel()
    server.outage(False)
    move_until_done(manual, futures, 0.5)
    assert "cancelled" not in {arrival.nonce for arrival in server.arrivals}


def test_one_lanes_outage_is_not_anothers(fake, throttle, manual):
    """An overloaded model does not keep the others waiting."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, clock=manual)
    futures = open_circuit(server, throttler, manual)
    wait_until(lambda: circuit(throttler).opens_at() > manual.monotonic())
    server.outage(False)
    other = throttler.submit(**ask("other", model="claude-haiku-4-5"))
    assert echo(other.result(10)) == "other"
    limits = throttler.limits()
    assert limits["haiku-4-5"].circuit == "closed"
    assert limits[LANE].circuit in ("open", "half-open")
    move_until_done(manual, futures, 0.5)


# -- where nobody listens --------------------------------------------------------------------------


def test_a_server_that_is_gone_and_comes_back(fake, throttle):
    """Connection refused is an outage like any other: nothing is lost, and few knock."""
    events = []
    server = fake()
    throttler = throttle(server, rpm=None, max_retries=2, on_event=events.append)
    throttler.call(**ask("before"))
    server.stop()
    futures = [throttler.submit(**ask(str(n))) for n in range(10)]
    wait_until(lambda: any(isinstance(event, CircuitOpened) for event in events))
    server.start()
    texts = [future.exception(30) or echo(future.result()) for future in futures]
    assert texts == [str(n) for n in range(10)]
    assert {e.reason for e in events if isinstance(e, RetryScheduled)} <= {
        "no connection",
        "connection lost",
    }
    assert throttler.limits()[LANE].circuit == "closed"


def test_few_leave_at_once_when_it_closes(fake, throttle, manual):
    """A server that has just come back is not met with everything at once: eight in flight."""
    server = fake(clock=manual, rpm=60_000)
    throttler = throttle(server, rpm=None, clock=manual)
    for _ in range(3):
        throttler.submit(**ask()).result(10)
    server.outage()
    futures = [throttler.submit(**ask(str(n))) for n in range(100)]
    in_the_dark(server, manual, 10)
    assert circuit(throttler).is_open
    before = len(server.arrivals)
    server.outage(False)
    server.script(Ok(), *[Stall()] * 8)
    for _ in range(40):
        manual.advance(0.25)
        if len(server.arrivals) > before + 1:
            break
        wait(futures, 0.05)
    wait_until(lambda: len(server.arrivals) >= before + 9)
    assert len(server.arrivals) == before + 9
    server.release_stalled()
    move_until_done(manual, futures, 0.5)
    assert all(future.exception() is None for future in futures)


# -- the retry budget ------------------------------------------------------------------------------


def longest_alone(event):
    """Seconds before a retry that nothing but its own backoff delays."""
    return min(8.0, 0.5 * 2 ** (event.attempt - 1))


def test_a_flood_of_faults_delays_retries_and_fails_none(fake, throttle, manual):
    """Every other attempt a 500, never five in a row: beyond the budget retries wait longer."""
    events = []
    server = fake(clock=manual)
    throttler = throttle(
        server,
        clock=manual,
        retry_share=0.0,
        max_retries=50,
        max_concurrency=1,
        on_event=events.append,
    )
    server.script(*[FAULT, FAULT, Ok()] * 40)
    futures = [throttler.submit(**ask(str(n))) for n in range(40)]
    move_until_done(manual, futures, 0.5)
    assert [echo(future.result()) for future in futures] == [str(n) for n in range(40)]
    retries = [event for event in events if isinstance(event, RetryScheduled)]
    assert len(retries) == 80
    # Some thirty; fewer where the machine is so slow that virtual seconds pass between them.
    assert sum(event.wait_seconds > longest_alone(event) for event in retries) >= 3
    assert not any(isinstance(event, CircuitOpened) for event in events)


def test_a_few_retries_are_not_delayed(fake, throttle, manual):
    """The budget of a small program is enough for a bad moment."""
    events = []
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual, max_concurrency=1, on_event=events.append)
    server.script(*[FAULT, Ok()] * 8)
    futures = [throttler.submit(**ask(str(n))) for n in range(8)]
    move_until_done(manual, futures, 0.5)
    retries = [event for event in events if isinstance(event, RetryScheduled)]
    assert len(retries) == 8
    assert all(event.wait_seconds <= longest_alone(event) for event in retries)

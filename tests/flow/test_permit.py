"""permit(): the same way without the wire."""

from __future__ import annotations

import gc
import threading

import pytest

from claude_throttle import DeadlineExceeded
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import lane_of, slots_in_use
from tests.support.waiting import wait_until


def test_a_free_lane_grants_it_in_the_callers_thread(fake, throttle):
    """No thread is needed for it."""
    throttler = throttle(fake())
    before = threading.active_count()
    with throttler.permit(model=MODEL) as permit:
        assert threading.active_count() == before
        permit.settle(usage={"input_tokens": 1, "output_tokens": 1})


def test_it_counts_against_the_quota(fake, throttle, manual):
    """A call after a permit leaves an interval later."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, clock=manual)
    with throttler.permit(model=MODEL):
        pass
    future = throttler.submit(**ask())
    manual.wait_for_sleepers(1)
    assert server.arrivals == []
    manual.advance(1.0)
    future.result(10)


def test_it_waits_for_its_turn(fake, throttle, manual):
    """Behind what is queued already."""
    throttler = throttle(fake(clock=manual), rpm=60, clock=manual)
    throttler.submit(**ask()).result(10)
    got = threading.Event()

    def take():
        with throttler.permit(model=MODEL):
            got.set()

    thread = threading.Thread(target=take)
    thread.start()
    wait_until(lambda: lane_of(throttler).backlog.waiting_locked())
    manual.wait_for_sleepers(1)
    assert not got.is_set()
    manual.advance(1.0)
    assert got.wait(10)
    thread.join(10)


def test_it_holds_a_place_among_the_calls_in_flight(fake, throttle):
    """max_concurrency=1: a call of another thread waits until the permit is closed."""
    throttler = throttle(fake(), max_concurrency=1)
    permit = throttler.permit(model=MODEL)
    futures = []
    thread = threading.Thread(target=lambda: futures.append(throttler.submit(**ask())))
    thread.start()
    thread.join(10)
    assert throttler.stats().waiting == 1
    permit.close()
    permit.close()
    assert echo(futures[0].result(10)) == "hello"
    assert slots_in_use(throttler) == 0


def test_a_call_made_under_a_permit_rides_on_it(fake, throttle):
    """max_concurrency=1: nested calls cannot deadlock, even behind one that waits for it."""
    throttler = throttle(fake(), max_concurrency=1)
    with throttler.permit(model=MODEL):
        blocked = []
        thread = threading.Thread(target=lambda: blocked.append(throttler.submit(**ask("blocked"))))
        thread.start()
        thread.join(10)
        assert echo(throttler.submit(**ask("nested")).result(10)) == "nested"
        with throttler.permit(model=MODEL):
            assert echo(throttler.submit(**ask("deeper")).result(10)) == "deeper"
        assert not blocked[0].done()
    assert echo(blocked[0].result(10)) == "blocked"


def test_settling_gives_back_what_was_not_used(fake, throttle, manual):
    """And only once."""
    throttler = throttle(fake(clock=manual), rpm=None, itpm=600, clock=manual)
    with throttler.permit(model=MODEL, input_tokens=600) as permit:
        permit.settle(usage={"input_tokens": 10})
        permit.settle(usage={"input_tokens": 600})
    assert throttler.estimate_wait(**ask("x" * 20)) < 1


def test_a_refused_request_settles_at_zero(fake, throttle, manual):
    """settle() without usage."""
    throttler = throttle(fake(clock=manual), rpm=None, itpm=600, clock=manual)
    with throttler.permit(model=MODEL, input_tokens=600) as permit:
        permit.settle()
    assert throttler.estimate_wait(**ask("x" * 20)) < 1


def test_it_gives_up_at_its_timeout(fake, throttle):
    """And takes nothing with it."""
    throttler = throttle(fake(), max_concurrency=1)
    held = throttler.permit(model=MODEL)
    failed = []

    def take():
        with pytest.raises(DeadlineExceeded):
            throttler.permit(model=MODEL, timeout=0.05)
        failed.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(10)
    assert failed
    held.close()
    assert slots_in_use(throttler) == 0


def test_an_abandoned_permit_comes_back(fake, throttle):
    """Dropped without close(): the collector returns it without a lock, the worker finds it."""
    throttler = throttle(fake(), max_concurrency=1)
    results = []
    permit = throttler.permit(model=MODEL)
    thread = threading.Thread(target=lambda: results.append(throttler.submit(**ask())))
    thread.start()
    thread.join(10)
    del permit
    gc.collect()
    assert echo(results[0].result(10)) == "hello"


def test_closing_refuses_who_waits_for_one(fake, throttle):
    """Instead of leaving the thread there."""
    from claude_throttle import Closed

    throttler = throttle(fake(), max_concurrency=1)
    held = throttler.permit(model=MODEL)
    raised = []

    def take():
        with pytest.raises(Closed):
            throttler.permit(model=MODEL)
        raised.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    wait_until(lambda: lane_of(throttler).backlog.waiting_locked())
    throttler.close(timeout=0, cancel_pending=True)
    thread.join(10)
    assert raised
    held.close()

"""Permits that are dropped instead of closed (review of 2027-01)."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle.core.dispatch.permit import PermitTicket
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import engine_of, lane_of, slots_in_use
from tests.support.waiting import wait_until

#: Seconds; nothing here may wait for so long.
LONG = 3600.0


@pytest.fixture
def full(fake, throttle):
    """A throttler whose only place is taken, and the permit that took it."""
    throttler = throttle(fake(), max_concurrency=1)
    return throttler, throttler.permit(model=MODEL)


def backlog_of(throttler):
    return lane_of(throttler).backlog


def waited_for(throttler, held, pool):
    """A permit that had to wait, for at most so long, and was granted."""
    waiting = pool.submit(throttler.permit, model=MODEL, timeout=LONG)
    wait_until(lambda: backlog_of(throttler).waiting_locked())
    held.close()
    return waiting.result(10)


def test_a_permit_that_waited_with_a_timeout_comes_back_when_it_is_dropped(full):
    """Not at its deadline: nothing in the lane keeps it alive."""
    throttler, held = full
    with ThreadPoolExecutor(1) as pool:
        permit = waited_for(throttler, held, pool)
    del permit
    gc.collect()
    assert echo(throttler.submit(**ask()).result(10)) == "hello"
    wait_until(lambda: slots_in_use(throttler) == 0)


def test_a_permit_that_was_granted_has_no_deadline_left(full):
    """Those that were granted in time must not pile up until then."""
    throttler, held = full
    with ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            waited_for(throttler, held, pool).close()
            held = throttler.permit(model=MODEL)
    assert len(backlog_of(throttler).deadlines) < 150


def test_what_a_dropped_permit_booked_is_settled(fake, throttle, manual):
    """It stays booked, since nobody told what it took, and is in flight no more."""
    throttler = throttle(fake(), rpm=600, itpm=6000, burst=10, clock=manual)
    permit = throttler.permit(model=MODEL, input_tokens=50)
    (lane,) = engine_of(throttler).account.lanes()
    assert lane.pacer.traffic.pending.input_tokens == 50
    del permit
    gc.collect()
    wait_until(lambda: lane.pacer.traffic.pending.input_tokens == 0)
    assert lane.pacer.traffic.taken.input_tokens == 50


def test_ctrl_c_in_the_instant_of_its_closing_does_not_keep_its_place(fake, throttle):
    """Between the word that it is closed and the closing."""
    throttler = throttle(fake(), max_concurrency=1)
    permit = throttler.permit(model=MODEL)
    permit.ticket.granted.pop()
    permit.close()
    assert slots_in_use(throttler) == 1
    del permit
    gc.collect()
    throttler.permit(model=MODEL, timeout=10).close()
    (lane,) = engine_of(throttler).account.lanes()
    wait_until(lambda: not any(lane.pacer.traffic.pending))
    assert slots_in_use(throttler) == 0


@pytest.mark.parametrize(
    ("kind", "step"), [(ReentrantSlot, "lend"), (PermitTicket, "grant_locked")]
)
def test_ctrl_c_in_the_instant_of_its_grant_gives_its_place_back_once(
    fake, throttle, monkeypatch, kind, step
):
    """Twice would let more into flight than may be."""
    throttler, whole_step = throttle(fake(), max_concurrency=2), getattr(kind, step)
    held = throttler.permit(model=MODEL)

    def interrupted(*arguments):
        whole_step(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        throttler.permit(model=MODEL)
    monkeypatch.undo()
    gc.collect()
    assert slots_in_use(throttler) == 1
    held.close()


def test_a_permit_of_a_thread_that_has_ended_comes_back(full):
    """Its thread never closed it."""
    throttler, held = full
    held.close()
    thread = threading.Thread(target=lambda: [throttler.permit(model=MODEL)])
    thread.start()
    thread.join(10)
    gc.collect()
    assert echo(throttler.submit(**ask()).result(10)) == "hello"


def test_a_loop_that_drops_permits_gives_back_its_place(fake, throttle):
    """Each rides on the one before, which is dropped then: no stack is as deep as that."""
    throttler = throttle(fake(), max_concurrency=1, burst=10_000)
    permit = None
    for _ in range(5000):
        permit = throttler.permit(model=MODEL)
    del permit
    gc.collect()
    wait_until(lambda: slots_in_use(throttler) == 0)
    assert echo(throttler.submit(**ask()).result(10)) == "hello"


def test_permits_closed_in_the_order_they_were_opened_give_back_their_place(fake, throttle):
    """The last of a chain gives back what all of them stand on."""
    throttler = throttle(fake(), max_concurrency=1, burst=10_000)
    permits = [throttler.permit(model=MODEL) for _ in range(5000)]
    for permit in permits:
        permit.close()
    assert slots_in_use(throttler) == 0


def test_a_loop_that_drops_permits_keeps_nothing_of_them(fake, throttle):
    """A service that never closes one must not grow for ever."""
    throttler = throttle(fake(), max_concurrency=1, burst=10_000)
    permit = None
    for _ in range(200):
        permit = throttler.permit(model=MODEL)
    gc.collect()
    wait_until(lambda: sum(type(thing) is ReentrantSlot for thing in gc.get_objects()) <= 10)
    permit.close()
    assert slots_in_use(throttler) == 0

"""Callbacks, senders and permits at the end of a throttler (review of 2026-11)."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from claude_throttle import Throttler
from claude_throttle.testing import Stall
from tests.support.calls import MODEL, ask, echo
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until


def test_two_callbacks_that_close_do_not_wait_for_each_other(fake, throttle):
    """The usual "on the first failure, close" is added to every future."""
    throttler = throttle(fake(latency=0.05))
    both = threading.Barrier(2, timeout=5)
    closed = []

    def on_done(_future):
        both.wait()
        throttler.close()
        closed.append(True)

    futures = [throttler.submit(**ask()) for _ in range(2)]
    for future in futures:
        future.add_done_callback(on_done)
    wait_until(lambda: len(closed) == 2)


def test_an_open_permit_is_never_forgotten_by_others_closing_theirs():
    """Threads open and close at once."""
    from claude_throttle.core.queueing.reentrant_slot import OpenPermits, ReentrantSlot

    limiter, missing, left = OpenPermits(), [], []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work():
        for _ in range(5000):
            entry = (limiter.mine(), ReentrantSlot())
            limiter.append(entry)
            if limiter.last() is None:
                missing.append(1)
            limiter.remove(entry)
        left.extend(limiter.mine())

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join(30) for t in threads]
    sys.setswitchinterval(interval)
    assert (missing, left) == ([], [])


def test_a_rider_does_not_wait_for_another_permits_rider(fake, throttle):
    """Each permit is a place of its own."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server, max_concurrency=2)
    mine, got = throttler.permit(model=MODEL), []
    other_holds, go, left = threading.Event(), threading.Event(), threading.Event()

    def other():
        with throttler.permit(model=MODEL):
            other_holds.set()
            go.wait(10)
            got.append(throttler.submit(**ask("other")))
            left.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert other_holds.wait(5)
    first = throttler.submit(**ask("first"))  # stalls, on my permit
    wait_until(lambda: server.arrivals)
    second = throttler.submit(**ask("second"))  # waits for the same seat
    go.set()
    assert left.wait(5)
    try:
        assert echo(got[0].result(3)) == "other"
    finally:
        server.release_stalled()
        first.result(5), second.result(5)
        mine.close()
        thread.join(5)


@pytest.mark.parametrize("seconds", [2, only_thorough(15)])
def test_closing_while_calls_end_raises_nothing(fake, seconds):
    """Whatever ends in the same instant."""
    server = fake()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            throttler = Throttler(api_key="k", base_url=server.url, rpm=1e7, max_concurrency=20)
            futures = [throttler.submit(**ask()) for _ in range(40)]
            futures[3].result(10)
            throttler.close(timeout=0)
            assert all(f.done() for f in futures)
    finally:
        sys.setswitchinterval(interval)


def test_an_attempt_that_ends_between_two_looks_does_not_break_close(fake):
    """refusals.closed() reads call.attempt twice; its sender may let go in between."""
    from claude_throttle.account import refusal_messages as refusals

    class Call:
        number, model, looks = 1, "m", 0

        @property
        def attempt(self):
            self.looks += 1
            return type("A", (), {"on_the_wire": True})() if self.looks == 1 else None

    refusals.closed(Call())


def test_a_sender_that_finishes_after_stop_ends_too():
    """close() goes on as soon as the call is settled, before its sender is idle."""
    from claude_throttle.core.threads.thread_pool import ThreadPool

    pool, go, inside = ThreadPool(), threading.Event(), threading.Event()
    pool.run(lambda: (inside.set(), go.wait(5)))
    assert inside.wait(5)
    pool.stop()
    go.set()
    wait_until(lambda: pool.threads == 0)

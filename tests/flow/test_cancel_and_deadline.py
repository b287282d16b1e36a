"""A call ends when nobody wants it any more, or when its time is up."""

from __future__ import annotations

import queue
import threading
from concurrent import futures

import pytest

from claude_throttle import DeadlineExceeded, QueueFull
from claude_throttle.testing import Drip, Ok, Reply, Stall
from tests.support.calls import ask, echo
from tests.support.inside import lane_of
from tests.support.waiting import wait_until


def test_cancelling_a_queued_call_frees_its_place_at_once(fake, throttle):
    """max_queue counts live calls."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    first = throttler.submit(**ask())
    with pytest.raises(QueueFull):
        throttler.submit(**ask())
    assert first.cancel()
    assert first.cancelled()
    second = throttler.submit(**ask("second"))
    throttler.resume()
    assert echo(second.result(10)) == "second"


def test_futures_wait_sees_a_cancelled_call(fake, throttle):
    """Without the notification futures.wait() would never return."""
    throttler = throttle(fake())
    throttler.pause()
    future = throttler.submit(**ask())
    waiter = threading.Thread(target=futures.wait, args=([future],), daemon=True)
    waiter.start()
    future.cancel()
    waiter.join(10)
    assert not waiter.is_alive()
    done, waiting = futures.wait([future], timeout=0)
    assert done == {future}
    assert not waiting


def test_a_cancelled_call_is_never_sent(fake, throttle):
    """And those behind it move up."""
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    calls = [throttler.submit(**ask(str(n))) for n in range(5)]
    assert calls[0].cancel()
    assert calls[3].cancel()
    throttler.resume()
    for n in (1, 2, 4):
        calls[n].result(10)
    assert {a.nonce for a in server.arrivals} == {"1", "2", "4"}


def test_a_call_on_the_wire_cannot_be_cancelled(fake, throttle):
    """It may be billed: cancel() says no, and the answer still comes."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server, on_event=None)
    future = throttler.submit(**ask())
    wait_until(lambda: server.arrivals)
    assert not future.cancel()
    server.release_stalled()
    assert echo(future.result(10)) == "hello"


def test_sweeping_keeps_memory_to_the_living(fake, throttle):
    """10,000 cancelled calls leave nothing behind in the heap."""
    throttler = throttle(fake(), max_queue=10)
    throttler.pause()
    keep = throttler.submit(**ask("keep"))
    for _ in range(10_000):
        assert throttler.submit(**ask(timeout=600)).cancel()
    backlog = lane_of(throttler).backlog
    assert len(backlog._needing) < 200
    assert len(backlog.deadlines) < 200
    throttler.resume()
    keep.result(10)


def test_a_call_whose_time_is_up_in_the_queue_is_not_sent(fake, throttle, manual):
    """The deadline of any queued call wakes the worker, not only the head's."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=1, clock=manual)
    throttler.submit(**ask()).result(10)
    head = throttler.submit(**ask("head"))
    hurried = throttler.submit(**ask("hurried", timeout=5))
    manual.wait_for_sleepers(1)
    manual.advance(5.0)
    with pytest.raises(DeadlineExceeded, match="5 s.*nothing was sent") as caught:
        hurried.result(10)
    assert not caught.value.sent
    assert not head.done()
    assert len(server.arrivals) == 1


def test_the_timeout_covers_the_wire(fake, throttle, manual):
    """A server that never answers is cut off, and the call is not sent again."""
    server = fake()
    server.script(Stall())
    future = throttle(server, max_retries=3, clock=manual).submit(**ask(timeout=5))
    wait_until(lambda: server.arrivals)
    manual.advance(6)
    with pytest.raises(DeadlineExceeded, match="may be billed") as caught:
        future.result(10)
    assert caught.value.sent
    assert len(server.arrivals) == 1


def test_the_timeout_ends_an_answer_that_drips(fake, throttle):
    """A socket timeout is per read: a byte now and then would keep it waiting for ever."""
    server = fake()
    server.script(Drip(0.05))
    throttler = throttle(server)
    with pytest.raises(DeadlineExceeded):
        throttler.call(**ask(timeout=0.5))


def test_the_timeout_covers_the_wait_for_another_try(fake, throttle):
    """A retry_after beyond the deadline fails at once with the server's own error."""
    import anthropic

    server = fake()
    server.script(Reply(429, {"retry-after": "60", "x-should-retry": "true"}, "rate_limit_error"))
    throttler = throttle(server)
    with pytest.raises(anthropic.RateLimitError) as caught:
        throttler.call(**ask(timeout=30))
    assert caught.value.response.headers["retry-after"] == "60"
    assert len(server.arrivals) == 1


def test_a_connection_cut_by_a_deadline_does_not_harm_the_next_call(fake, throttle, manual):
    """The one that was cut is thrown away; its place in the pool is good for others."""
    server = fake()
    throttler = throttle(server, max_concurrency=1, clock=manual)
    for n in range(5):
        server.script(Stall())
        stalled = throttler.submit(**ask(timeout=5))
        wait_until(lambda: len(server.arrivals) > 2 * n)  # noqa: B023
        manual.advance(6)
        with pytest.raises(DeadlineExceeded):
            stalled.result(10)
        server.script(Ok())
        assert echo(throttler.call(**ask(f"after {n}"))) == f"after {n}"


def test_blocked_submits_go_on_when_a_place_comes_free(fake, throttle):
    """submit(block=True) waits instead of raising QueueFull."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    throttler.submit(**ask("first"))
    later = queue.SimpleQueue()
    thread = threading.Thread(
        target=lambda: later.put(throttler.submit(**ask("second", block=True)))
    )
    thread.start()
    throttler.resume()
    assert echo(later.get(timeout=10).result(10)) == "second"
    thread.join(10)


def test_a_blocked_submit_gives_up_at_its_timeout(fake, throttle):
    """The place in the queue is part of what timeout= covers."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    throttler.submit(**ask())
    with pytest.raises(DeadlineExceeded, match="no place came free in 0.1 s"):
        throttler.submit(**ask(block=True, timeout=0.1))


def test_a_full_queue_names_the_expected_wait(fake, throttle):
    """Who, how many, how long, and what to do."""
    throttler = throttle(fake(), rpm=1, max_queue=3)
    throttler.submit(**ask()).result(10)
    for _ in range(3):
        throttler.submit(**ask())
    with pytest.raises(QueueFull, match=r"3 calls to .*max_queue=3.* 2\d\d\.\d s.*raise") as caught:
        throttler.submit(**ask())
    assert 50 <= caught.value.retry_after <= 60
    throttler.pause()
    with pytest.raises(QueueFull, match=r"until resume\(\)"):
        throttler.submit(**ask())

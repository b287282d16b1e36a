"""close, drain, with, and what is left when they end."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import Closed
from claude_throttle.testing import Reply, Stall
from tests.support.calls import ask, echo
from tests.support.inside import engine_of
from tests.support.waiting import wait_until


def test_close_finishes_what_was_submitted(fake, throttle):
    """Without cancel_pending every answer still arrives."""
    server = fake(latency=0.01)
    throttler = throttle(server, rpm=6000)
    futures = [throttler.submit(**ask(str(n))) for n in range(20)]
    throttler.close()
    assert [echo(future.result(0)) for future in futures] == [str(n) for n in range(20)]


def test_nothing_is_accepted_or_sent_after_close(fake, throttle):
    """submit() raises Closed; so does permit(); closing twice is fine."""
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask())
    throttler.close()
    throttler.close()
    with pytest.raises(Closed):
        throttler.submit(**ask())
    with pytest.raises(Closed):
        throttler.submit(**ask(model="a-lane-that-never-was"))
    with pytest.raises(Closed):
        throttler.permit(model="m")
    assert len(server.arrivals) == 1


def test_a_throttler_closed_before_its_first_call_refuses_it(fake, throttle):
    """Even though there was nothing to close yet."""
    throttler = throttle(fake())
    throttler.close()
    with pytest.raises(Closed):
        throttler.submit(**ask())


def test_cancel_pending_cancels_what_waits_and_lets_the_rest_finish(fake, throttle):
    """What is on the wire was paid for."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server, max_concurrency=1)
    sent = throttler.submit(**ask("sent"))
    wait_until(lambda: server.arrivals)
    waiting = [throttler.submit(**ask()) for _ in range(3)]
    closer = threading.Thread(target=throttler.close, kwargs={"cancel_pending": True})
    closer.start()
    wait_until(lambda: all(future.cancelled() for future in waiting))
    server.release_stalled()
    closer.join(10)
    assert echo(sent.result(0)) == "sent"
    assert len(server.arrivals) == 1


def test_close_with_a_timeout_cuts_a_blocked_read(fake, throttle):
    """A server that never answers cannot keep close() waiting."""
    server = fake()
    server.script(Stall(), Stall(after_bytes=50))
    throttler = throttle(server)
    futures = [throttler.submit(**ask()) for _ in range(2)]
    wait_until(lambda: len(server.arrivals) == 2)
    throttler.close(timeout=0.05)
    for future in futures:
        with pytest.raises(Closed, match="may be billed") as caught:
            future.result(0)
        assert caught.value.sent
    assert len(server.arrivals) == 2


def test_close_with_a_timeout_refuses_what_still_waits(fake, throttle):
    """Nothing was sent, and the error says so."""
    throttler = throttle(fake(), rpm=1)
    throttler.call(**ask())
    waiting = throttler.submit(**ask())
    throttler.close(timeout=0.05)
    with pytest.raises(Closed, match="before this call could leave") as caught:
        waiting.result(0)
    assert not caught.value.sent


def test_close_ends_the_wait_for_another_try(fake, throttle):
    """A pause of an hour does not outlive close()."""
    server = fake()
    server.script(Reply(429, {"retry-after": "3600"}, "rate_limit_error"))
    server.script(Reply(503, {"retry-after": "3600"}, "api_error"))
    throttler = throttle(server)
    futures = [throttler.submit(**ask(model=m)) for m in ("a", "b")]
    wait_until(lambda: throttler.stats().retried == 2)
    throttler.close(timeout=0.05)
    for future in futures:
        with pytest.raises(Closed):
            future.result(0)
    assert len(server.arrivals) == 2


def test_close_wakes_a_blocked_submit(fake, throttle):
    """It raises Closed instead of waiting for a place that never comes."""
    throttler = throttle(fake(), max_queue=1)
    throttler.pause()
    throttler.submit(**ask())
    raised = []

    def submit():
        try:
            throttler.submit(**ask(block=True))
        except Closed as error:
            raised.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: engine_of(throttler).account.lanes()[0].backlog.not_full._waiters)
    throttler.close(timeout=0, cancel_pending=True)
    thread.join(10)
    assert len(raised) == 1


def test_drain_says_how_many_are_left(fake, throttle):
    """It accepts no more, waits so long, and leaves the rest to go on."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server)
    future = throttler.submit(**ask())
    wait_until(lambda: server.arrivals)  # else there would be nothing to release yet
    assert throttler.drain(timeout=0.05) == 1
    with pytest.raises(Closed):
        throttler.submit(**ask())
    server.release_stalled()
    assert throttler.drain() == 0
    assert echo(future.result(0)) == "hello"


def test_drain_ends_a_pause(fake, throttle):
    """Else it would wait for ever."""
    throttler = throttle(fake())
    throttler.pause()
    future = throttler.submit(**ask())
    assert throttler.drain(10) == 0
    assert future.done()


def test_leaving_a_with_block_finishes_everything(fake, throttle):
    """As a ThreadPoolExecutor does."""
    with throttle(fake(latency=0.02)) as throttler:
        futures = [throttler.submit(**ask()) for _ in range(5)]
    assert all(future.done() for future in futures)


def test_an_exception_in_a_with_block_cancels_what_is_pending(fake, throttle):
    """And ends blocked reads: nobody waits for them any more."""
    server = fake()
    server.script(Stall())
    with pytest.raises(ZeroDivisionError), throttle(server, max_concurrency=1) as throttler:
        sent = throttler.submit(**ask())
        wait_until(lambda: server.arrivals)
        waiting = throttler.submit(**ask())
        1 / 0  # noqa: B018
    assert waiting.cancelled()
    with pytest.raises(Closed):
        sent.result(0)
    assert len(server.arrivals) == 1


def test_threads_end_with_the_throttler(fake, throttle):
    """Workers at once, idle senders too."""
    before = set(threading.enumerate())
    throttler = throttle(fake())
    for future in [throttler.submit(**ask(model=f"m{n % 3}")) for n in range(30)]:
        future.result(10)
    throttler.close()

    def ours():
        names = ("claude-throttle-worker", "claude-throttle-sender")
        return [t for t in set(threading.enumerate()) - before if t.name.startswith(names)]

    wait_until(lambda: not ours())
    assert engine_of(throttler).thread_pool.threads == 0


def test_no_thread_is_started_before_the_first_call(fake):
    """Not at import, not in a constructor: a fork would lose it."""
    from claude_throttle import Throttler

    before = threading.active_count()
    with Throttler(api_key="k", rpm=50) as throttler:
        throttler.stats()
        throttler.pause()
        throttler.resume()
        assert threading.active_count() == before

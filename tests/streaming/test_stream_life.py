"""Who holds a stream: threads, generators, the garbage collector, forks."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle import Throttler
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.testing import Streamed
from tests.support.calls import MODEL, echo
from tests.support.inside import (
    connection_pools_of,
    connections_to,
    engine_of,
    lane_of,
    slots_in_use,
)
from tests.support.programs import PRELUDE
from tests.support.streams import ask
from tests.support.waiting import wait_until

STALLED = Streamed(at=5, wrong="stall")


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    """Where threads sit, and sat, in the end."""
    seen = []
    add = OpenPermits.append
    monkeypatch.setattr(
        OpenPermits, "append", staticmethod(lambda entry: (seen.append(entry), add(entry)))
    )
    ENTRIES[:] = [seen]


ENTRIES = []


def sat_on():
    """The seats that some thread still has in its list."""
    return [seat for mine, seat in ENTRIES[0] if seat in mine]


def settled(throttler, server):
    """Nothing is held any more, here or there."""
    wait_until(lambda: slots_in_use(throttler) == 0)
    wait_until(lambda: throttler.stats().in_flight == 0)
    wait_until(lambda: not sat_on())


# -- riding ----------------------------------------------------------------------------------------


def test_a_call_made_while_reading_rides_on_its_permit(fake, throttle):
    """max_concurrency=1: it cannot wait for itself, even behind one that waits for it."""
    throttler = throttle(fake(), max_concurrency=1)
    with throttler.stream(**ask()) as stream:
        blocked = []
        thread = threading.Thread(
            target=lambda: blocked.append(throttler.submit(raw=True, **ask("blocked")))
        )
        thread.start()
        thread.join(10)
        for text in stream.text_stream:
            assert not blocked[0].done()
            assert echo(throttler.call(raw=True, **ask(text))) == text
            with throttler.permit(model=MODEL), throttler.stream(**ask("deep")) as deeper:
                assert deeper.get_final_text() == "echo: deep"
    assert echo(blocked[0].result(10)) == "blocked"
    assert slots_in_use(throttler) == 0


def test_a_rider_keeps_the_place_of_a_stream_that_was_left(fake, throttle):
    """It goes back with whoever is last."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    with throttler.stream(**ask()):
        server.script(STALLED)
        deeper = throttler.stream(**ask())
    assert slots_in_use(throttler) == 1
    deeper.close()
    assert slots_in_use(throttler) == 0


def test_a_retry_within_an_open_stream_rides_too(fake, throttle):
    """Refused, it queues again, and needs no permit of its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    with throttler.stream(**ask()) as stream:
        from claude_throttle.testing import StreamError

        server.script(StreamError(), StreamError())
        with throttler.stream(**ask("inner")) as inner:
            assert inner.get_final_text() == "echo: inner"
        stream.until_done()
    assert slots_in_use(throttler) == 0


# -- generators ------------------------------------------------------------------------------------


def texts(throttler, **more):
    """As a view would hand to StreamingHttpResponse, or Flask to its client."""
    with throttler.stream(**ask(**more)) as stream:
        yield from stream.text_stream


def in_another_thread(do):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do).result(20)


def test_a_generator_may_change_threads(fake, throttle):
    """Opened in one, read in a second, closed in a third."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(STALLED)
    pieces = texts(throttler)
    first = in_another_thread(lambda: next(pieces))
    assert first == next(pieces)[:0] + first
    in_another_thread(pieces.close)
    settled(throttler, server)
    wait_until(lambda: not connections_to(server))


def test_a_call_rides_where_the_stream_is_read(fake, throttle):
    """Not where it was opened."""
    throttler = throttle(fake(), max_concurrency=1)
    stream = in_another_thread(lambda: throttler.stream(**ask()))
    next(stream)
    next(stream)
    next(stream)
    assert echo(throttler.call(raw=True, timeout=10, **ask("here"))) == "here"
    stream.close()
    assert not sat_on()


def test_a_client_that_goes_away_leaves_nothing(fake, throttle):
    """The framework closes the generator, or only drops it."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    for end in ("close", "drop"):
        server.script(STALLED)
        pieces = texts(throttler)
        next(pieces)
        if end == "close":
            pieces.close()
        del pieces
        gc.collect()
        settled(throttler, server)
        wait_until(lambda: not connections_to(server))
    assert throttler.stats().succeeded == 2


# -- the garbage collector -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stream", "generator", "cycle"])
def test_an_abandoned_stream_is_closed_without_a_lock(fake, throttle, how):
    """While another thread holds every lock there is; the closing is done when it lets go."""
    server = fake()
    server.script(STALLED)
    throttler = throttle(server, max_concurrency=1)
    if how == "generator":
        held = texts(throttler)
        next(held)
    else:
        held = throttler.stream(**ask())
    if how == "cycle":
        held = [held]
        held.append(held)
    process = engine_of(throttler)
    lane, pools = (
        process.account.model_group(MODEL).lane,
        process.account.transport._adapter.poolmanager.pools,
    )
    locked, done = threading.Event(), threading.Event()

    def hold_all():
        with lane.mutex, pools.lock, process.thread_pool._lock:
            locked.set()
            done.wait(20)

    holder = threading.Thread(target=hold_all)
    holder.start()
    assert locked.wait(10)
    collecting = threading.Thread(target=_drop, args=([held],))
    del held
    collecting.start()
    collecting.join(10)
    assert not collecting.is_alive()
    done.set()
    holder.join(10)
    settled(throttler, server)
    wait_until(lambda: not connections_to(server))


def _drop(held):
    held.clear()
    gc.collect()


def test_a_stream_that_was_read_leaves_no_garbage(fake, throttle):
    """Nor does one that was left: nothing waits for the collector."""
    import weakref

    throttler = throttle(fake())
    gc.disable()
    try:
        for leave in (False, True):
            stream = throttler.stream(**ask())
            if leave:
                stream.close()
            else:
                stream.until_done()
            gone = weakref.ref(stream._inner.received), weakref.ref(stream._inner._events)
            del stream
            wait_until(lambda gone=gone: [ref() for ref in gone] == [None, None])
    finally:
        gc.enable()


def test_fifty_streams_half_of_them_abandoned(fake, throttle):
    """Permits and connections all come back, and the quota is settled."""
    server = fake(output_tokens=20)
    server.script(*[Streamed(usage={"input_tokens": 10}, at=5, wrong="stall")] * 50)
    throttler = throttle(server, rpm=None, itpm=1e6, otpm=1e6, burst=1000, max_concurrency=60)
    # In a thread each: a second one in the same would ride on the first.
    streams = [in_another_thread(lambda: throttler.stream(**ask("x" * 3600))) for _ in range(50)]
    assert slots_in_use(throttler) == 50
    for stream in streams[25:]:
        next(stream)
    del streams[25:], stream
    gc.collect()
    server.release_stalled()
    with ThreadPoolExecutor(25) as pool:
        finished = list(pool.map(lambda stream: stream.get_final_text(), streams))
    assert len(finished) == 25
    settled(throttler, server)
    stats = throttler.stats()
    assert (stats.succeeded, stats.failed_total, stats.input_tokens) == (50, 0, 500)
    lane = lane_of(throttler)
    assert not lane.out
    assert lane.backlog.accepted == type(lane.backlog.accepted)()
    (pool,) = connection_pools_of(throttler)
    wait_until(lambda: len(connections_to(server)) == 25)  # those that were read are kept
    idle = [connection for connection in list(pool.pool.queue) if connection is not None]
    assert len([c for c in idle if c.sock is not None]) == 25


# -- the process -----------------------------------------------------------------------------------


def run(server, program):
    """Its output, after a good end."""
    words = [sys.executable, "-c", PRELUDE + program, server.url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_forked_child_has_only_a_copy(fake):
    """It raises Forked there, closes nothing of the parent's, and streams of its own."""
    server = fake(latency=0.1)
    out, err = run(
        server,
        """
stream = throttler.stream(**ask("parent"))
next(stream)
pid = os.fork()
if pid == 0:
    try:
        next(stream)
    except Forked:
        pass
    else:
        os._exit(3)
    stream.close()
    del stream
    with throttler.stream(timeout=20, **ask("child")) as mine:
        os._exit(0 if mine.get_final_text() == "echo: child" else 4)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), stream.get_final_text())
throttler.close()
print(throttler._engine().account.limiter.in_use)
""",
    )
    assert out.splitlines() == ["0 echo: parent", "0"], err


@pytest.mark.parametrize("where", ["stream", "[stream]", "None"])
def test_a_script_that_forgets_a_stream_ends(fake, where):
    """Nobody will ever read on."""
    server = fake()
    server.script(STALLED)
    out, err = run(server, f"stream = throttler.stream(**ask())\nstream = {where}\nprint('end')")
    assert (out, err) == ("end\n", "")


def test_a_script_that_forgets_another_threads_stream_ends(fake):
    """Its thread is gone, it is kept all the same."""
    server = fake()
    server.script(STALLED)
    program = """
kept = []
thread = threading.Thread(target=lambda: kept.append(throttler.stream(**ask())))
thread.start()
thread.join()
print("end")
"""
    assert run(server, program)[0] == "end\n"


def test_drain_waits_for_streams(fake, throttle):
    """They were accepted."""
    server = fake()
    server.script(STALLED)
    throttler = throttle(server)
    stream = in_another_thread(lambda: throttler.stream(**ask()))
    assert throttler.drain(0.05) == 1
    stream.close()
    assert throttler.drain(10) == 0


def test_a_listener_may_open_one_in_the_midst_of_a_retry(fake):
    """The outer call's connection stays its own."""
    from claude_throttle import RetryScheduled
    from claude_throttle.testing import Reply

    server, seen = fake(), []
    server.script(Reply(500))

    def listen(event):
        if isinstance(event, RetryScheduled) and not seen:
            seen.append("")
            with throttler.stream(**ask("inner")) as stream:
                seen[0] = stream.get_final_text()

    with Throttler(api_key="k", base_url=server.url, rpm=6000, on_event=listen) as throttler:
        assert echo(throttler.call(raw=True, **ask("outer"))) == "outer"
    assert seen == ["echo: inner"]

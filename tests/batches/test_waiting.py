"""Waiting for batches: how often the API is asked, and what ends a wait."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle import Closed, ConfigurationError, DeadlineExceeded, Forked, Throttler
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.features.batches.upload import BatchBounds
from claude_throttle.testing import FakeClaude, Reply, Stall
from tests.support.batches import asked, bounded, pairs, params, text_of
from tests.support.calls import ask
from tests.support.waiting import move_until_done, wait_until


def looks(server):
    return [a.at for a in server.batches.arrivals if a.model == "GET" and "results" not in a.path]


def test_looks_grow_rare(fake, throttle, manual):
    """From five seconds to a minute, give or take a tenth."""
    server = fake(clock=manual)
    server.batches.seconds = 240
    handle = throttle(server, clock=manual).batches.submit(pairs(1))
    created = server.batches.arrivals[0].at
    with ThreadPoolExecutor() as pool:
        move_until_done(manual, [pool.submit(handle.result)])
    at = [created, *looks(server)]
    gaps = [after - before for before, after in zip(at, at[1:])]
    wanted = [min(60.0, 5.0 * 1.5**number) for number in range(len(gaps))]
    assert all(0.9 * w <= gap <= 1.1 * w + 2 for gap, w in zip(gaps, wanted)), gaps
    assert 7 <= len(gaps) <= 10


def test_many_who_look_ask_no_more_often_than_one(fake, throttle, manual):
    """Also who calls done() in a loop."""
    server = fake(clock=manual)
    server.batches.seconds = 600
    handle = throttle(server, clock=manual).batches.submit(pairs(1))
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: handle.done(), range(200)))
        manual.advance(6)
        assert not any(pool.map(lambda _: handle.done(), range(200)))
    assert len(looks(server)) == 1


def test_one_look_for_many_batches(fake, throttle):
    """The list tells of all that are new enough."""
    server = fake()
    server.batches.seconds = 0.3
    batches = bounded(throttle(server), BatchBounds(requests=1))
    handle = batches.submit(pairs(5), poll_seconds=0.1, raw=True)
    assert len(handle.result(timeout=10)) == 5
    gets = [(a.path, a.nonce) for a in server.batches.arrivals if a.model == "GET"]
    single = [path for path, _ in gets if path.rpartition("/")[2] in handle.ids]
    assert gets[0] == ("/v1/messages/batches", "limit=100")
    assert len(single) <= 1  # the last one alone


def test_batches_that_the_list_does_not_tell_are_asked_for_one_by_one(fake, throttle):
    """They may be older than the newest hundred."""
    server = fake()
    handle = bounded(throttle(server), BatchBounds(requests=1)).submit(pairs(2), raw=True)
    throttle(server).batches.submit(pairs(3))
    listing = server.batches._list
    short = {"query": "limit=1"}
    server.batches._list = lambda request, at: listing(request._replace(**short), at)
    again = throttle(server).batches.resume(handle.ids, raw=True)
    assert sorted(text_of(r) for r in again.result(timeout=10)) == ["prompt 0", "prompt 1"]


def test_messages_and_batches_take_nothing_from_each_other(fake, throttle):
    """A told pace of one message a minute holds up no batch; nor do batches take its place."""
    server = fake(rpm=1, burst=1)
    throttler = throttle(server, rpm=1)
    batches = bounded(throttler, BatchBounds(requests=1))
    handle = batches.submit(pairs(6), poll_seconds=0.02)
    assert throttler.call(**ask("alone"))["content"]
    assert len(handle.result(timeout=10)) == 6
    assert [arrival.status for arrival in server.arrivals] == [200]
    assert server.other_arrivals == []
    assert throttler.stats().succeeded == 1


def test_a_tier_tells_the_pace_of_batches(fake, throttle, manual):
    """Five a minute for newcomers, say: a burst of twenty waits."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual, tier=1, rpm=None)
    batches = bounded(throttler, BatchBounds(requests=1))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(batches.submit, pairs(60))
        move_until_done(manual, [sending], step=1.0)
    at = [a.at for a in server.batches.arrivals]
    assert at[-1] - at[0] > 5


def test_a_429_pauses_all_requests_about_batches(fake, throttle, manual):
    """Until retry-after; then it goes on. The server's own quota is kept to afterwards."""
    server = fake(clock=manual)
    server.batches.limits(rpm=6, burst=1)
    batches = bounded(throttle(server, clock=manual), BatchBounds(requests=1))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(batches.submit, pairs(6))
        move_until_done(manual, [sending], step=1.0)
        handle = sending.result()
    statuses = [a.status for a in server.batches.arrivals]
    assert statuses.count(200) == 6
    assert statuses.count(429) <= 3
    assert len(handle.ids) == 6


@pytest.mark.parametrize("timeout", [0.2])
def test_a_timeout_ends_the_wait_and_not_the_batch(fake, throttle, timeout):
    """Wait again and it is there."""
    server = fake()
    server.batches.seconds = 1.0
    handle = throttle(server).batches.submit(pairs(1), poll_seconds=0.1)
    with pytest.raises(DeadlineExceeded, match="they go on"):
        handle.result(timeout=timeout)
    with pytest.raises(TimeoutError):
        next(handle.results(timeout=timeout))
    assert handle.result(timeout=10)[0].kind == "succeeded"


@pytest.mark.parametrize("timeout", [0, -1, "soon", float("nan")])
def test_a_timeout_is_a_number_of_seconds(fake, throttle, timeout):
    """As everywhere."""
    handle = throttle(fake()).batches.submit(pairs(1))
    with pytest.raises(ConfigurationError):
        handle.result(timeout=timeout)


def test_close_ends_every_wait(fake, throttle):
    """It does not wait for a day; the ids go on."""
    server = fake()
    server.batches.seconds = 3600
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(1))
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(handle.result) for _ in range(3)]
        wait_until(lambda: len(handle._client.changed._waiters) == 3)
        throttler.close()
        for wait in waits:
            with pytest.raises(Closed, match=r"resume\(ids\)"):
                wait.result(timeout=5)
    with pytest.raises(Closed):
        handle.result()
    with pytest.raises(Closed):
        throttler.batches.submit(pairs(1))


def test_ctrl_c_ends_a_wait(fake, throttle):
    """At once, and another wait is possible."""
    server = fake()
    server.batches.seconds = 1.0
    handle = throttle(server).batches.submit(pairs(1), poll_seconds=0.05)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        handle.result()
    assert handle.result(timeout=10)[0].kind == "succeeded"


def test_another_process_resumes_by_id(fake, throttle):
    """In any order, with the names or without."""
    server = fake()
    server.batches.seconds = 0.2
    handle = bounded(throttle(server), BatchBounds(requests=2)).submit(pairs(4))
    later = throttle(server).batches
    names = list(handle.custom_ids)
    told = later.resume(handle.ids, custom_ids=[*names, "lost"], raw=True, poll_seconds=0.1)
    results = told.result(timeout=10)
    assert [r.custom_id for r in results] == [*names, "lost"]
    assert [r.kind for r in results] == [*["succeeded"] * 4, "missing"]
    untold = later.resume(list(handle.ids), poll_seconds=0.1)
    assert untold.custom_ids is None
    assert sorted(r.custom_id for r in untold.result(timeout=10)) == names


@pytest.mark.parametrize("ids", [[], "msgbatch_1", ["../../v1/files"], [None], ["a?b"]])
def test_resuming_needs_ids(fake, throttle, ids):
    """They become part of a URL."""
    server = fake()
    with pytest.raises(ValueError, match="batch"):
        throttle(server).batches.resume(ids)
    assert asked(server) == []


def test_a_forked_child_resumes_and_does_not_wait_on_its_copy(fake, throttle):
    """A lock may be held in there for ever."""
    server = fake()
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(1), raw=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = b""
            for method in (handle.result, handle.progress, handle.done, handle.cancel):
                try:
                    method()
                except Forked:
                    said += b"F"
            resumed = throttler.batches.resume(handle.ids, raw=True).result(timeout=10)
            os.write(writer, said + text_of(resumed[0]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"FFFFprompt 0"
    os.close(reader)
    assert handle.result(timeout=10)[0].kind == "succeeded"


def test_a_batch_leaves_no_thread_behind():
    """Nobody works on it while nobody waits."""
    with FakeClaude() as server:
        server.batches.seconds = 3600
        before = set(threading.enumerate())
        throttler = Throttler(api_key="sk-ant-test", base_url=server.url)
        throttler.batches.submit([params()])
        throttler.close()
        wait_until(lambda: not set(threading.enumerate()) - before)


def test_testing_mode_answers_no_batches(fake, throttle):
    """It would be a real one."""
    server = fake()
    throttler = throttle(server)
    with throttler.testing_mode(), pytest.raises(ConfigurationError, match="FakeClaude"):
        throttler.batches.submit(pairs(1))
    assert asked(server) == []


def test_a_key_is_needed(fake):
    """Said before requests are read."""
    with Throttler(base_url=fake().url) as throttler:
        with pytest.raises(ConfigurationError, match="no API key"):
            throttler.batches.submit(pairs(1))


def test_an_iterator_is_not_shared_with_a_forked_child(fake, throttle):
    """Both would read the same file, and move its place under each other."""
    handle = throttle(fake()).batches.submit(pairs(50), raw=True)
    results = handle.results(timeout=10)
    next(results)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            next(results)
        except Forked:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [text_of(result) for result in results] == [f"prompt {n}" for n in range(1, 50)]


def test_who_waits_too_briefly_for_an_answer_costs_others_no_pause(fake, throttle):
    """His look was ended by him; the next one may be made at once."""
    server = fake()
    server.batches.seconds = 0.3
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(1), poll_seconds=0.3)
    wait_until(lambda: handle._client.clock.monotonic() >= handle._poll_at)
    server.batches.script(Stall())
    with pytest.raises(DeadlineExceeded):
        handle.result(timeout=0.1)
    assert handle._poll_at <= handle._client.clock.monotonic()
    assert handle.done()
    server.release_stalled()


def test_results_can_be_read_after_the_end_of_the_throttler(fake):
    """They are in a file by then."""
    with Throttler(api_key="sk-ant-test", base_url=fake().url) as throttler:
        results = throttler.batches.submit(pairs(3), raw=True).results(timeout=10)
    assert [text_of(result) for result in results] == ["prompt 0", "prompt 1", "prompt 2"]


def test_a_handle_says_how_to_be_kept(fake, throttle):
    """It does not pickle; its repr holds its ids."""
    handle = throttle(fake()).batches.submit(pairs(1))
    with pytest.raises(TypeError, match="store the ids"):
        pickle.dumps(handle)
    assert handle.ids[0] in repr(handle)
    assert json.loads(json.dumps(handle.ids)) == list(handle.ids)


def test_a_pause_holds_batches_back(fake, throttle):
    """As everything else."""
    server = fake()
    throttler = throttle(server)
    throttler.batches.recent()
    throttler.pause()
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(throttler.batches.submit, pairs(1))
        with pytest.raises(TimeoutError):
            throttler.batches.recent(timeout=0.2)
        assert len(asked(server)) == 1
        throttler.resume()
        assert len(sending.result(timeout=10).ids) == 1


def test_recent_batches_come_page_by_page(fake, throttle):
    """Newest first, as many as are wanted."""
    server = fake()
    handle = bounded(throttle(server), BatchBounds(requests=1)).submit(pairs(7))
    listing = server.batches._list
    server.batches._list = lambda request, at: listing(_three_at_most(request), at)
    recent = throttle(server).batches.recent
    assert [state.id for state in recent()] == list(handle.ids)[::-1]
    assert [state.id for state in recent(4)] == list(handle.ids)[:2:-1]
    assert {state.progress.total for state in recent(1)} == {1}


def _three_at_most(request):
    _, _, rest = request.query.partition("&")
    size = min(3, int(request.query.partition("&")[0].removeprefix("limit=")))
    return request._replace(query=f"limit={size}&{rest}")


def test_a_pause_longer_than_the_timeout_is_waited_for_all_the_same(fake, throttle):
    """Who waits in a loop must not find himself in a busy one."""
    server = fake()
    server.batches.seconds = 3600
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(1), poll_seconds=0.05)
    server.batches.script(Reply(429, {"retry-after": "60"}))
    began = SYSTEM_CLOCK.monotonic()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match="they go on"):
            handle.result(timeout=0.4)
    assert SYSTEM_CLOCK.monotonic() - began >= 0.8
    assert not handle.done()
    assert [a.status for a in server.batches.arrivals] == [200, 429]

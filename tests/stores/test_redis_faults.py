"""A Redis that fails: bounded in time, and over when it is over."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
import threading
import time

import pytest

from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.testing.fault_proxy import FaultProxy
from tests.support.store_requests import LANE, new_account, reserving

#: Seconds. The store's own bound is 0.25; a busy machine takes some more.
BOUND = 5.0


@pytest.fixture
def hasty(store_at):
    """As a throttler makes it."""
    return functools.partial(store_at, timeout_seconds=0.25)


@pytest.fixture
def proxied(start_redis, hasty):
    """A store, the proxy it goes through, and the server behind."""
    server = start_redis()
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield hasty(f"redis://127.0.0.1:{proxy.port}/0"), proxy, server


def failing(store, account=None, bound=BOUND, **more):
    """The text of a failure that came in time."""
    began = time.monotonic()
    with pytest.raises(StoreFailed) as caught:
        store.transact(account or new_account(), LANE, reserving(**more))
    assert time.monotonic() - began < bound
    assert store.name in str(caught.value)
    return str(caught.value)


def working(store):
    response = store.transact(new_account(), LANE, reserving())
    assert response.done
    assert response.waits == (0.0,)


def working_soon(store, seconds=5.0):
    """It comes back by itself, at the latest when a connection being made is given up."""
    until = time.monotonic() + seconds
    while True:
        try:
            return working(store)
        except StoreFailed:
            assert time.monotonic() < until


@pytest.mark.parametrize(
    ("mode", "amount"),
    [("delay", 5), ("reset", 0), ("refuse", 0), ("cut", 3), ("drip", 0.02), ("blackhole", 0)],
)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "connecting"])
def test_every_fault_is_bounded_and_passes(proxied, mode, amount, connected):
    """Of a connection that stands, and of one that is being made."""
    store, proxy, _ = proxied
    if connected:
        working(store)
    proxy.set(mode, amount)
    for _ in range(3):
        failing(store)
    proxy.set("pass")
    working_soon(store)


def test_a_late_answer_is_nobody_elses(proxied):
    """The answer to an abandoned question never meets another question."""
    store, proxy, _ = proxied
    for number in range(5):
        working(store)
        proxy.set("delay", 0.3)
        failing(store, counts=((f"abandoned {number}", 1.0),) * 3)
        proxy.set("pass")
        now = store.read_clock()
        response = store.transact(new_account(), LANE, reserving(counts=(("sent", 7.0),)))
        assert now <= response.now < now + 5e6
        assert response.totals == (7.0,)


def test_what_was_abandoned_is_not_done_later(start_redis, hasty):
    """A frozen server does when it wakes what it was asked: nothing, after not_after."""
    server = start_redis()
    store = hasty(server.url)
    account = new_account()
    kept = store.transact(account, LANE, reserving())
    server.freeze()
    for _ in range(3):
        failing(store, account, count=20, not_after=kept.now + 0.2e6)
    server.wake()
    working_soon(store)
    # It was asked before it froze, at least once while frozen, and after.
    said = server.ask("INFO commandstats").partition(b"cmdstat_evalsha:calls=")[2]
    assert int(said.partition(b",")[0]) >= 3
    again = store.transact(account, LANE, reserving(count=0, interval=1e6))
    assert (again.taken, again.sequence, again.empty_at) == (
        kept.taken,
        kept.sequence,
        kept.empty_at,
    )


def test_a_frozen_server_is_there_again_at_once(start_redis, hasty):
    """Ten threads wait no longer than one, and all come back."""
    server = start_redis()
    store = hasty(server.url)
    working(store)
    server.freeze()
    threads = [threading.Thread(target=failing, args=(store,)) for _ in range(10)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < BOUND
    server.wake()
    working_soon(store, 2.0)


def test_killed_and_restarted_empty(start_redis, hasty):
    """The last instant that was seen holds: no burst leaves twice."""
    server = start_redis()
    store = hasty(server.url)
    account = new_account()
    before = store.transact(account, LANE, reserving(count=20, burst=20.0, interval=10e6))
    assert before.waits == (0.0,) * 20
    server.kill()
    failing(store, account)
    server.start()
    seen = before.empty_at[0]
    after = store.transact(account, LANE, reserving(burst=20.0, interval=10e6, seen=seen))
    assert after.waits[0] > 1e6
    assert after.empty_at[0] == pytest.approx(seen + 10e6)


def test_a_connection_that_ended_while_idle_is_not_used(start_redis, hasty):
    """Nor does anybody notice: balancers and servers close what is idle."""
    server = start_redis()
    store = hasty(server.url)
    working(store)
    server.kill()
    server.start()
    working(store)
    assert server.ask("CLIENT KILL TYPE normal SKIPME yes").startswith(b":1")
    working(store)


def test_script_flush_heals_within_the_call(start_redis, hasty):
    """The script is sent in full once, then by its hash."""
    server = start_redis()
    store = hasty(server.url)
    for _ in range(3):
        assert server.ask("SCRIPT FLUSH").startswith(b"+OK")
        working(store)
        working(store)
    said = server.ask("INFO commandstats")
    assert b"cmdstat_eval:calls=3," in said
    assert b"cmdstat_evalsha:calls=6," in said


def test_a_name_that_is_looked_up_in_vain_holds_nobody(start_redis, hasty, monkeypatch):
    """It can take half a minute; when it is found, the connection is there."""
    server = start_redis()
    store = hasty(server.url)
    found, look_up = threading.Event(), socket.getaddrinfo
    started = []

    def slowly(*args, **more):
        started.append(threading.current_thread().name)
        found.wait(60)
        return look_up(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    for _ in range(3):
        assert "not connected in time" in failing(store)
    assert started == ["claude-throttle-redis"]
    found.set()
    working_soon(store)


def test_a_connection_that_hangs_for_ever_is_given_up(start_redis, hasty, monkeypatch):
    """After some seconds another is begun."""
    monkeypatch.setattr("claude_throttle.features.sharing.stores.time_limiter.GIVE_UP_SECONDS", 0.1)
    server = start_redis()
    store = hasty(server.url)
    never, look_up, tries = threading.Event(), socket.getaddrinfo, []

    def hanging_once(*args, **more):
        tries.append(args)
        if len(tries) == 1:
            never.wait(60)
        return look_up(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hanging_once)
    failing(store)
    working(store)
    never.set()


def test_where_no_thread_can_start_it_fails_at_once(start_redis, hasty, monkeypatch):
    """And the next call may try again."""
    store = hasty(start_redis().url)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _cannot_start)
        assert "can't start new thread" in failing(store)
    working(store)


def _cannot_start(thread):
    raise RuntimeError("can't start new thread")


GREEN = """
from gevent import monkey; monkey.patch_all()
import gevent, sys, time
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.redis import RedisStore
from tests.support.store_requests import LANE, reserving
store, others = RedisStore(sys.argv[1], time.monotonic, 0.4), []

def go_on():
    while True:
        others.append(None)
        gevent.sleep(0.01)

store.read_clock()
print("ready", flush=True)
sys.stdin.readline()
gevent.spawn(go_on)
began = time.monotonic()
try:
    store.transact("a", LANE, reserving())
except StoreFailed:
    print(time.monotonic() - began, len(others), flush=True)
sys.stdin.readline()
print(store.transact("b", LANE, reserving()).waits, flush=True)
"""


def test_greenlets_go_on_while_one_waits_for_an_answer(start_redis):
    """With gevent, a blocked thread is the whole process."""
    server = start_redis()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", GREEN, server.url], **pipes) as green:
        assert green.stdout.readline() == "ready\n"
        server.freeze()
        print("go", file=green.stdin, flush=True)
        took, others = green.stdout.readline().split()
        server.wake()
        assert green.communicate("go\n", timeout=60)[0] == "(0.0,)\n"
    assert 0.3 < float(took) < BOUND
    assert int(others) > 5

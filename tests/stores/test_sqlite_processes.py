"""One SQLite file and the processes of one machine: killed, stopped, forked, all at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from claude_throttle.features.sharing.stores.contract import (
    ExchangeRequest,
    StoredBucket,
    StoreFailed,
)
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.support.store_requests import ALWAYS, LANE, reserving

MINUTE = 60e6

START = """
import json, os, signal, sys, threading, time
from claude_throttle.features.sharing.stores import sqlite
from claude_throttle.features.sharing.stores.contract import StoreFailed
from tests.support.store_requests import LANE, reserving
store = sqlite.SqliteStore(sys.argv[1], time.monotonic, 5.0)
"""

#: Says so when it is in the middle of a transaction, and then does to itself what it was told.
STRUCK = (
    START
    + """
store.transact("a", LANE, reserving(2, interval=60e6))
write = sqlite.lane_text

def struck(record):
    print("in", flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
    return write(record)

sqlite.lane_text = struck
print(store.transact("a", LANE, reserving(3, interval=60e6)).sequence, flush=True)
"""
)

#: Reserves again and again, and tells what it got, a line for each response.
BUSY = (
    START
    + """
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    # 20 ms: were a process slower than the interval, it would catch up, and two would be equal.
    response = store.transact("a", LANE, reserving(3, interval=20e3))
    print(json.dumps([response.now + wait for wait in response.waits]), flush=True)
"""
)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quota.db")


@pytest.fixture
def store(path):
    store = SqliteStore(path, time.monotonic, 5.0)
    yield store
    store.close()


@pytest.fixture
def start():
    """``start(program, *arguments)``; whatever still runs at the end is killed."""
    started = []

    def begin(program, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_holder_that_is_killed_costs_nobody_anything(start, path, store):
    """In the middle of a transaction: the kernel lets its turn go, and nothing of it was done."""
    killed = start(STRUCK, path, int(signal.SIGKILL))
    assert killed.wait(30) == -signal.SIGKILL
    began = time.monotonic()
    response = store.transact("a", LANE, reserving(interval=MINUTE))
    assert time.monotonic() - began < 15.0  # else it waits for ever
    assert response.sequence == 2.0
    assert response.waits[0] <= 2 * MINUTE, "the three that were begun are not there"


def test_a_holder_that_is_stopped_blocks_nobody_beyond_the_timeout(start, path):
    """And when it goes on, so do the others, by themselves."""
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    assert stopped.stdout.readline() == "in\n"
    store = SqliteStore(path, time.monotonic, 0.25)
    for ask in (
        store.read_clock,
        store.fleet,
        lambda: store.transact("a", LANE, reserving(9, interval=MINUTE)),
    ):
        began = time.monotonic()
        with pytest.raises(StoreFailed, match=r"in use for all of 0\.25 s.*SIGSTOP"):
            ask()
        assert 0.2 < time.monotonic() - began < 10.0
    stopped.send_signal(signal.SIGCONT)
    assert float(stopped.stdout.readline()) == 2.0
    assert stopped.wait(30) == 0
    response = store.transact("a", LANE, reserving(interval=MINUTE))
    store.close()
    assert response.sequence == 3.0, "what was given up did nothing afterwards"
    assert 4 * MINUTE < response.waits[0] <= 5 * MINUTE


def test_closing_while_a_holder_is_stopped(start, path):
    """It ends, too, and lets go of all it has open."""
    store = SqliteStore(path, time.monotonic, 0.25)
    store.read_clock()
    mine = store._by_pid[os.getpid()]
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    stopped.stdout.readline()
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 10.0
    assert (mine._connection, mine.lock._descriptor) == (None, None)


GREEN = (
    "from gevent import monkey; monkey.patch_all()\n"
    + START
    + """
import gevent
store._timeout = 0.4
turns = []

def go_on():
    while True:
        turns.append(time.monotonic())
        gevent.sleep(0.01)

others = gevent.spawn(go_on)
began = time.monotonic()
try:
    store.read_clock()
except StoreFailed:
    print(time.monotonic() - began, len(turns), flush=True)
sys.stdin.readline()
print(store.read_clock() > 0, flush=True)
"""
)


def test_greenlets_go_on_while_one_waits_for_a_turn(start, path):
    """With gevent, a blocked thread is the whole process: the wait must let the others run."""
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    stopped.stdout.readline()
    green = start(GREEN, path)
    took, others = green.stdout.readline().split()
    assert float(took) < 2.0
    assert int(others) > 5
    stopped.kill()
    stopped.communicate()
    assert green.communicate("go\n", timeout=60)[0] == "True\n"


def test_all_threads_are_bounded_while_a_holder_is_stopped(start, path):
    """They wait for one of them, which waits for the holder: no longer, all together."""
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    stopped.stdout.readline()
    store, took = SqliteStore(path, time.monotonic, 0.25), []

    def ask():
        began = time.monotonic()
        with pytest.raises(StoreFailed):
            store.read_clock()
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert len(took) == 8
    assert max(took) < 1.0


def test_a_stopped_holder_that_is_killed_frees_the_others(start, path, store):
    """The kernel lets its lock go, and whoever waits takes it."""
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    stopped.stdout.readline()
    got = []
    waiter = threading.Thread(target=lambda: got.append(store.transact("a", LANE, reserving())))
    waiter.start()
    while not (shared := store._by_pid.get(os.getpid())) or not shared.lock._lock.locked():
        assert waiter.is_alive()
    stopped.kill()
    waiter.join(30)
    assert [response.sequence for response in got] == [2.0]


def test_four_processes_and_one_killed_among_them(start, path, store):
    """No slot is given twice, none of the others' is lost, and they do not wait for it."""
    busy = [start(BUSY, path, 200) for _ in range(4)]
    for process in busy:
        assert process.stdout.readline() == "ready\n"
    for process in busy:
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [busy[0].stdout.readline() for _ in range(20)]
    busy[0].kill()
    lines += busy[0].stdout.read().splitlines()
    for process in busy[1:]:
        mine = process.stdout.read().splitlines()
        assert process.wait(30) == 0
        assert len(mine) == 200
        lines += mine
    whole = [line for line in lines if line.rstrip().endswith("]")]
    instants = sorted(at for line in whole for at in json.loads(line))
    assert min(after - before for before, after in zip(instants, instants[1:])) > 0
    assert len(whole) <= store.transact("a", LANE, reserving(0)).sequence <= len(whole) + 1


def test_threads_and_processes_at_once_lose_nothing(start, path, store):
    """Two stores with four threads each, and two processes, on one file."""
    busy = [start(BUSY, path, 100) for _ in range(2)]
    for process in busy:
        process.stdout.readline()
    other = SqliteStore(path, time.monotonic, 5.0)
    failed = []

    def reserve(mine):
        try:
            for _ in range(50):
                mine.transact("a", LANE, reserving(3, interval=20e3))
        except StoreFailed as error:
            failed.append(error)

    threads = [threading.Thread(target=reserve, args=(one,)) for one in (store, other) * 4]
    for each in busy:
        each.stdin.write("go\n")
        each.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(process.stdout.read().splitlines()) for process in busy] == [100, 100]
    assert failed == []
    response = store.transact("a", LANE, reserving(0, interval=20e3))
    other.close()
    assert (response.sequence, response.taken) == (600.0, (1800.0,))


FORKING = (
    START
    + """
def work(until):
    while time.monotonic() < until:
        store.transact("a", LANE, reserving(1, interval=1.0))

for _ in range(4):
    threading.Thread(target=work, args=(time.monotonic() + 600,), daemon=True).start()
store.read_clock()
children = []
for number in range(60):
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            store.transact("child", LANE, reserving(1, interval=1.0))
        if number % 3 == 0:
            store.close()
        os._exit(0)
    children.append(pid)
until = time.monotonic() + 60
codes = []
for pid in children:
    while True:
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
    codes.append(code)
last = store.transact("child", LANE, reserving(0, interval=1.0))
print(codes.count(0), last.sequence, flush=True)
os._exit(0)
"""
)


def test_sixty_forks_under_load(start, path):
    """While four threads are in SQLite: no child hangs, none uses what is its parent's."""
    said, _ = start(FORKING, path).communicate(timeout=110)
    assert said.split() == ["60", "300.0"]


INHERITED = (
    START
    + """
store.transact("a", LANE, reserving())
if sys.argv[2] == "no hook":
    # uWSGI calls none of Python's fork hooks.
    import ctypes
    fork = ctypes.PyDLL(None).fork
else:
    fork = os.fork
reading, writing = os.pipe()
pid = fork()
if pid == 0:
    sequence = store.transact("a", LANE, reserving()).sequence
    held = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{fd}"))
    os.write(writing, b"%d %d" % (sequence, sum(one.endswith(".lock") for one in held)))
    os.close(writing)
    sys.stdin.readline()
    os._exit(0)
os.close(writing)
print(os.read(reading, 99).decode(), flush=True)
write = sqlite.lane_text
sqlite.lane_text = lambda record: os.kill(os.getpid(), signal.SIGKILL)
store.transact("a", LANE, reserving())
"""
)


@pytest.mark.parametrize("hook", ["hook", "no hook"])
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at /proc")
def test_a_child_does_not_keep_the_turn_of_a_parent_that_is_killed(start, path, store, hook):
    """A copy of the parent's descriptor would hold its lock as long as the child lives."""
    parent = start(INHERITED, path, hook)
    assert parent.stdout.readline() == "2 1\n", "one lock is open in the child: its own"
    assert parent.wait(30) == -signal.SIGKILL
    assert store.transact("a", LANE, reserving()).sequence == 3.0


def test_an_order_that_waited_too_long_does_nothing(start, path, store):
    """not_after is looked at when its turn has come."""
    stopped = start(STRUCK, path, int(signal.SIGSTOP))
    stopped.stdout.readline()
    late = ExchangeRequest(
        "m", time.monotonic() * 1e6 + 1e5, (StoredBucket("requests", 1e6, 1.0),), ((1.0,),)
    )
    got = []
    waiter = threading.Thread(target=lambda: got.append(store.transact("a", LANE, late)))
    waiter.start()
    while time.monotonic() * 1e6 <= late.not_after:
        waiter.join(0.01)
    stopped.send_signal(signal.SIGCONT)
    waiter.join(30)
    assert [response.done for response in got] == [False]
    assert late.not_after < ALWAYS

"""What is in flight leaves the process half of its file descriptors; running out of them waits."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from claude_throttle import ConnectionLimitReached, DeadlineExceeded
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.threads import descriptors
from claude_throttle.testing import FakeClaude
from tests.support.calls import MODEL, ask

pytest.importorskip("resource")  # Windows bounds no files

#: Makes so many calls with so few files, opens one of its own all the time, tells what came of it.
PROGRAM = """
import json, os, resource, sys, threading
url, (count, files, options) = sys.argv[1], json.loads(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from claude_throttle import *
events, refused, done = [], [], threading.Event()
options = dict(api_key="k" * 20, base_url=url, rpm=10**6, burst=10**6, max_retries=0, **options)
throttler = Throttler(on_event=events.append, **options)
def look():
    while not done.wait(0.01):
        try:
            for file in [open(os.devnull) for _ in range(20)]:
                file.close()
        except OSError as error:
            refused.append(str(error))
looking = threading.Thread(target=look)
looking.start()
call = dict(model="m", max_tokens=9, messages=[dict(role="user", content="x")], raw=True)
futures = [throttler.submit(**call) for _ in range(count)]
limits = []
for number, future in enumerate(futures):
    error = future.exception(timeout=300)
    if error is not None:
        limits.append(repr(error))
    elif number == count // 8:
        limits.append(str(throttler.limits()))
done.set()
looking.join()
throttler.close()
names = [type(event).__name__ for event in events]
print(json.dumps([limits, refused, {name: names.count(name) for name in names}]))
"""


def run(count, files, latency, **options):
    """What a process with so few files says of its calls: texts, its own errors, its events."""
    with FakeClaude(latency=latency) as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.url, json.dumps([count, files, options])],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
    assert done.returncode == 0, done.stderr
    texts, refused, events = json.loads(done.stdout)
    return texts, refused, events


def require_all_answered(count, files, latency):
    texts, refused, events = run(count, files, latency)
    assert refused == [], "the program's own files"
    assert events["CallSucceeded"] == count
    assert set(events) & {"RetryScheduled", "CallFailed", "CircuitOpened"} == set()
    # Again each time that half of the slots came free in between: rare, on a busy machine.
    assert 1 <= events["ConnectionLimitReached"] <= 3
    (limits,) = texts
    assert f", at most: {files // 2} (max_connections)" in limits


def test_the_program_keeps_half_of_its_files():
    require_all_answered(count=200, files=128, latency=0.5)


@pytest.mark.thorough
@pytest.mark.timeout(200)
def test_the_usual_limit_of_files_bounds_long_answers_too():
    """As many as 1,500 of 20 s each, with 1,024 descriptors: three waves of 512."""
    require_all_answered(count=1500, files=1024, latency=20.0)


def test_without_a_file_left_calls_wait_and_fail_none():
    """The program opens everything; each call is sent in the end, with no retry allowed.

    With so few files and so slow answers they run out on a busy machine, too.
    """
    texts, _, events = run(count=90, files=48, latency=1.0, max_connections=1000)
    assert events["CallSucceeded"] == 90, texts
    assert events["RetryScheduled"] > 0
    assert set(events) & {"CallFailed", "CircuitOpened"} == set()


def test_a_call_that_waits_for_a_file_holds_no_slot_and_ends_at_its_deadline(
    fake, throttle, monkeypatch
):
    """With one slot for three calls, each is tried while the others wait."""

    def no_file(*_address, **_options):
        raise OSError(errno.EMFILE, "Too many open files")

    throttler = throttle(fake(), max_retries=0, max_concurrency=1, rpm=6000, timeout=1.5)
    with monkeypatch.context() as patch:
        patch.setattr("urllib3.util.connection.create_connection", no_file)
        futures = [throttler.submit(**ask(str(n))) for n in range(3)]
        errors = [future.exception(20) for future in futures]
    assert [type(error) for error in errors] == [DeadlineExceeded] * 3
    assert not any(error.sent for error in errors)
    assert throttler.stats().sent >= 3
    assert throttler.call(**ask())["type"] == "message"


def test_without_a_thread_left_calls_wait_and_fail_none(fake, throttle, monkeypatch):
    """Neither the worker of a second lane nor more senders can be started for a while."""
    throttler = throttle(fake(latency=0.05), rpm=6000, max_retries=0)
    throttler.call(**ask())
    start, refused = threading.Thread.start, []

    def scarce(thread):
        if thread.name.startswith("claude-throttle") and len(refused) < 20:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    calls = [ask(str(n), model="claude-haiku-4-5") for n in range(6)]
    futures = [throttler.submit(**call) for call in calls]
    assert all(future.result(20)["type"] == "message" for future in futures)
    assert any("worker" in name for name in refused)
    assert not throttler.stats().failed


# -- the ceiling of a limiter ----------------------------------------------------------------------


def taken(limiter, count, priority=0):
    slots = [limiter.try_acquire(priority, 0.0) for _ in range(count)]
    assert all(slots)
    return slots


def test_the_ceiling_holds_whatever_else_allows():
    limiter = ConcurrencyLimiter(100, max_connections=8)
    slots = taken(limiter, 8)
    assert limiter.try_acquire(0, 1000.0) is None
    assert limiter.limit == limiter.in_use == 8
    slots[0].release()
    assert limiter.try_acquire(0, 0.0)


def test_it_is_emitted_once_until_half_is_free():
    limiter = ConcurrencyLimiter(max_connections=8)
    assert limiter.reached_connection_limit() is None
    slots = taken(limiter, 8)
    assert limiter.reached_connection_limit() == ConnectionLimitReached(8)
    slots.pop().release()
    slots += taken(limiter, 1)
    assert limiter.reached_connection_limit() is None
    for _ in range(5):
        slots.pop().release()
    slots += taken(limiter, 5)
    assert limiter.reached_connection_limit() == ConnectionLimitReached(8)


def test_streams_and_permits_count(fake, throttle):
    events = []
    throttler = throttle(fake(), rpm=6000, max_connections=2, on_event=events.append)
    stream = throttler.stream(**ask())
    opened = []
    other = threading.Thread(target=lambda: opened.append(throttler.permit(model=MODEL)))
    other.start()
    other.join()
    waiting = throttler.submit(**ask())
    limits = throttler.limits()
    assert (limits.in_flight, limits.max_concurrency, limits.max_connections) == (2, 2, 2)
    assert ConnectionLimitReached(2) in events
    assert not waiting.done()
    stream.close()
    assert waiting.result(20)["type"] == "message"
    opened[0].close()


# -- the system's words ----------------------------------------------------------------------------


def test_half_of_the_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert descriptors.half_of_file_limit() == 128
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptors.half_of_file_limit() == float("inf")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert descriptors.half_of_file_limit() == float("inf")


@pytest.mark.parametrize("number", [errno.ENFILE, errno.EMFILE])
def test_what_lacked_a_descriptor(number):
    wrapped = ValueError("connection failed")
    wrapped.__cause__ = OSError(number, "no file")
    assert descriptors.lacked_descriptor(wrapped)
    assert not descriptors.lacked_descriptor(OSError(errno.ECONNREFUSED, "refused"))
    ring = ValueError()
    ring.__cause__ = KeyError()
    ring.__cause__.__cause__ = ring
    assert not descriptors.lacked_descriptor(ring)

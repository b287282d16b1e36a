"""Forks, exits and threads that came together badly (review of 2026-11)."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import Closed
from claude_throttle.testing import Reply
from tests.support.calls import ask, echo
from tests.support.inside import engine_of
from tests.support.programs import run, run_alone, start
from tests.support.waiting import wait_until


def test_first_use_racing_with_close_is_refused(fake, throttle):
    """close() has returned: nothing is sent any more."""
    server = fake()
    throttler = throttle(server)
    make = throttler._engines._make

    def slow_make():
        process = make()
        throttler.close()  # another thread's, here
        return process

    throttler._engines._make = slow_make
    with pytest.raises(Closed):
        throttler.submit(**ask()).result(5)
    assert not server.arrivals


def test_a_fork_while_a_call_is_being_settled_leaves_no_unresolved_copy(fake):
    """A slow listener, a fork: the child's copy must end too."""
    out, _ = run(
        fake(),
        """
inside, go = threading.Event(), threading.Event()
def listener(event):
    if type(event).__name__ == "CallSucceeded":
        inside.set(); go.wait(10)
t2 = Throttler(api_key="k", base_url=sys.argv[1], rpm=6000, on_event=listener)
future = t2.submit(**ask())
inside.wait(10)
pid = os.fork()
if pid == 0:
    try:
        future.exception(3)
        os._exit(0)
    except BaseException as error:
        os._exit(7)
go.set()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    )
    assert out.strip() == "0"


@pytest.mark.thorough
def test_a_fork_during_an_import_by_a_refusal_does_not_hang_the_child(fake):
    """raw=True never begins the import in the background; an error does it in its own thread."""
    server = fake()
    server.script(Reply(400))
    out, _ = run(
        server,
        """
import signal
future = throttler.submit(**ask())
while "anthropic" not in sys.modules: pass
half = "anthropic.types" not in sys.modules or not hasattr(sys.modules["anthropic"], "Anthropic")
pid = os.fork()
if pid == 0:
    signal.alarm(15)
    import anthropic
    anthropic.Anthropic
    os._exit(0)
print(half, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    )
    assert out.split()[1] == "0", out


def test_pool_tasks_of_a_script_that_ends_are_finished(fake):
    """concurrent.futures finishes them; the throttler must not close before."""
    out, _err = run(
        fake(latency=0.05),
        """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(4)
def work(n):
    try:
        print(throttler.call(**ask(str(n)))["content"][0]["text"])
    except BaseException as error:
        print(type(error).__name__)
for n in range(12):
    pool.submit(work, n)
""",
    )
    assert out.count("echo") == 12, out


def test_a_thread_that_goes_on_after_main_may_still_call(fake):
    """The interpreter waits for it."""
    out, _err = run(
        fake(latency=0.05),
        """
def work():
    for n in range(6):
        try:
            print(throttler.call(**ask(str(n)))["content"][0]["text"])
        except BaseException as error:
            print(type(error).__name__)
threading.Thread(target=work).start()
""",
    )
    assert out.count("echo") == 6, out


def test_a_child_that_ends_normally_touches_no_inherited_pool(fake):
    """urllib3's own finalizer closes them at exit, and takes the pool's lock."""
    process = start(
        fake(),
        """
throttler.call(**ask())
proc = throttler._engine()
pool = proc.account.transport._adapter.poolmanager.connection_from_url(sys.argv[1])
held, go = threading.Event(), threading.Event()
def hold():
    with pool.pool.mutex:
        held.set(); go.wait(20)
threading.Thread(target=hold, daemon=True).start()
held.wait(5)
import signal
pid = os.fork()
if pid == 0:
    signal.alarm(5)
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
go.set()
""",
    )
    out, err = process.communicate(timeout=30)
    assert out.strip() == "0", (out, err)


def test_leaving_an_inherited_permit_takes_no_inherited_lock(fake):
    """A child that unwinds out of a with block."""
    process = start(
        fake(),
        """
import signal
held, go = threading.Event(), threading.Event()
with throttler.permit(model="m"):
    lane = throttler._engine().account.model_group("m").lane
    def hold():
        with lane.mutex:
            held.set(); go.wait(20)
    threading.Thread(target=hold, daemon=True).start()
    held.wait(5)
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        sys.exit(0)
    go.set()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
""",
    )
    out, err = process.communicate(timeout=30)
    assert out.strip() == "0", (out, err)


def test_a_task_is_not_given_to_a_sender_that_is_ending(monkeypatch):
    """No new thread can be had, and the only other one is about to end."""
    from claude_throttle.core.threads import thread_pool as module

    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    pool = module.ThreadPool()
    leaving, go = threading.Event(), threading.Event()
    real = pool._next_task

    def next_task(tasks):
        task = real(tasks)
        if task is None:
            leaving.set()
            go.wait(5)
        return task

    pool._next_task = next_task
    pool.run(lambda: None)
    assert leaving.wait(5)

    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    ran = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        pool.run(ran.set)
    go.set()
    assert ran.wait(2)


def test_hanging_up_spares_the_call_that_took_the_connection_over(fake, throttle):
    """The connection went back to the pool while its first owner waits for another try."""
    server = fake()
    server.script(Reply(503, {"retry-after": "60"}))
    throttler = throttle(server, retry_resets=False)
    throttler.submit(**ask("waits"))
    wait_until(lambda: throttler.stats().retried == 1)
    from urllib3.connectionpool import HTTPConnectionPool

    real = HTTPConnectionPool._get_conn
    attempts = next(iter(engine_of(throttler).account.lanes()[0].out))

    def get_conn(pool, timeout=None):
        conn = real(pool, timeout)  # checked: it is not dropped
        attempts.stop(Closed("its time was up"))  # now
        return conn

    HTTPConnectionPool._get_conn = get_conn
    try:
        assert echo(throttler.call(**ask("innocent"))) == "innocent"
    finally:
        HTTPConnectionPool._get_conn = real


def test_the_worker_ends_with_the_throttler_whatever_deadlines_there_were(fake, throttle):
    """The deadline of a call that has ended keeps no thread alive."""
    throttler = throttle(fake())
    throttler.call(**ask(timeout=600))
    throttler.close()
    worker = engine_of(throttler).account.lanes()[0]._worker
    wait_until(lambda: worker._thread is None)


def test_extra_headers_are_a_snapshot(fake, throttle):
    """As all of the request."""
    server = fake(api_keys=None)
    throttler = throttle(server)
    throttler.pause()
    extra = {"x-a": "1"}
    future = throttler.submit(**ask(extra_headers=extra))
    extra["x-a"] = "2\r\nx-evil: 1"
    throttler.resume()
    future.result(10)


def test_a_fork_while_another_thread_makes_the_first_throttler_does_not_hang_the_child():
    """The first Throttler imports most of the package: the fork waits for that."""
    program = """
import os, signal, sys, threading
from claude_throttle import Throttler
midst = threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "claude_throttle.engine":
            midst.set()
            threading.Event().wait(0.1)
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=lambda: Throttler(api_key="k"))
thread.start()
midst.wait(10)
pid = os.fork()
if pid == 0:
    signal.alarm(15)
    Throttler(api_key="k")
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run_alone(program) == ["0"]

"""What reviewers broke, once."""

from __future__ import annotations

import math
import threading

import pytest

from claude_throttle import Closed, ConfigurationError, Settings
from claude_throttle.contrib.throttlers import options_of
from claude_throttle.core.dispatch import worker
from claude_throttle.core.dispatch.permit import PermitTicket
from claude_throttle.core.threads import thread_pool
from claude_throttle.core.threads.clock import SystemClock
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.testing import Reply
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import lane_of
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    "shared",
    [
        "user:hunter2@redis.host:6379/0",
        ":hunter2@h:6379",
        ":hunter2@h://x",
        "redis:/:hunter2@host/0",
        "rediss//:hunter2@host",
    ],
)
def test_a_slip_in_the_address_of_a_store_shows_no_password(shared):
    """Before "://" may stand anything."""
    with pytest.raises(ConfigurationError, match="shared must be one of") as caught:
        Settings(api_key="sk-ant-test", shared=shared)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="not 'mysql'"):
        Settings(api_key="sk-ant-test", shared="mysql://u:hunter2@h")


def test_ctrl_c_as_a_permit_is_closed_gives_it_back(fake, throttle, monkeypatch):
    """Its closing was begun, and nobody could begin it again."""
    throttler = throttle(fake(), max_concurrency=1)
    accounting = lane_of(throttler).accounting
    permit = throttler.permit(model=MODEL)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(accounting), "settle_permit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            permit.close()
    throttler.permit(model=MODEL, timeout=10).close()


def test_a_traceback_that_is_kept_keeps_no_slot(fake, throttle, monkeypatch):
    """Ctrl-C came in the instant of the grant; an interactive session keeps the last traceback."""
    throttler = throttle(fake(), max_concurrency=1)
    real = PermitTicket.grant_locked

    def interrupted(ticket, dispatch, slot):
        real(ticket, dispatch, slot)
        del slot
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PermitTicket, "grant_locked", interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            throttler.permit(model=MODEL)
    throttler.permit(model=MODEL, timeout=10).close()
    assert kept.value.__traceback__ is not None


def no_thread(_self):
    raise RuntimeError("can't start new thread")


def test_what_is_dropped_is_closed_where_no_sender_can_be_had(monkeypatch):
    """In the thread that was to call one."""
    deferred_closer = DeferredCloser(ThreadPool())
    closed = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        deferred_closer.drop(type("Stream", (), {"close": lambda self: closed.set()})())
        assert closed.wait(10)


def test_two_tasks_for_which_no_thread_could_be_started_both_run(monkeypatch):
    """Each counted on the other's."""
    pool, ran, tries = ThreadPool(), [], []

    def start(_self):
        tries.append(len(tries))
        if tries == [0]:  # the second comes while the first is being tried
            pool.run(lambda: ran.append("second"))
        no_thread(_self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        pool.run(lambda: ran.append("first"))
    assert ran == ["first", "second"]
    assert pool.threads == 0


def test_ctrl_c_after_a_sender_was_started_loses_no_task(monkeypatch):
    """It had been started, and waited for a task that nobody gave it."""
    pool, ran, real = ThreadPool(), threading.Event(), threading.Thread.start

    def start(self):
        real(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            pool.run(ran.set)
    assert ran.wait(10)
    pool.stop()
    wait_until(lambda: pool.threads == 0)


def start_none_of(monkeypatch, name, times=math.inf):
    """Let threads of that name fail to start; *times* times."""
    real, failed = threading.Thread.start, []

    def start(thread):
        if thread.name.startswith(name) and len(failed) < times:
            failed.append(thread)
            no_thread(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_refused_call_is_sent_again_where_no_sender_could_be_started(fake, throttle, monkeypatch):
    """The worker's own thread sent it, and then waited for the worker."""
    server = fake()
    for _ in range(3):
        server.script(Reply(503, {"retry-after": "0"}))
    throttler = throttle(server)
    start_none_of(monkeypatch, "claude-throttle-sender")
    futures = [throttler.submit(**ask(f"{number}")) for number in range(5)]
    assert [echo(future.result(20)) for future in futures] == ["0", "1", "2", "3", "4"]


def test_a_refused_call_fails_where_no_other_thread_at_all_could_be_started(
    fake, throttle, monkeypatch
):
    """It hung; and the worker goes on with the next."""
    server = fake()
    throttler = throttle(server)
    start_none_of(monkeypatch, "claude-throttle-sender")
    throttler.call(**ask(timeout=20))
    start_none_of(monkeypatch, "claude-throttle-worker")
    server.script(Reply(503, {"retry-after": "0"}))
    with pytest.raises(Closed, match="no worker thread can be started"):
        throttler.submit(**ask("refused")).result(20)
    assert echo(throttler.submit(**ask("next")).result(20)) == "next"


def test_a_call_whose_sender_could_not_be_started_is_sent_when_one_can_be(
    fake, throttle, monkeypatch
):
    """It held the only slot; the only sender waited for that, to send its own call again."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    throttler.call(**ask())
    start_none_of(monkeypatch, "claude-throttle-sender", times=1)
    server.script(Reply(500))
    futures = [throttler.submit(**ask(text)) for text in ("refused once", "left over")]
    assert [echo(future.result(20)) for future in futures] == ["refused once", "left over"]


class RecordingClock(SystemClock):
    """Notes for how long each wait was to be."""

    def __init__(self):
        self.waits = []

    def wait(self, condition, seconds):
        self.waits.append(seconds)
        super().wait(condition, seconds)


def test_a_try_to_start_the_worker_takes_no_notification_from_it(fake, throttle, monkeypatch):
    """A sender waited to try again, another thread succeeded: the next call was not noticed."""

    def ours(name):
        return [one for one in threading.enumerate() if one.name.startswith(name)]

    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.01)
    clock, before = RecordingClock(), ours("claude-throttle-worker")
    throttler = throttle(fake(), clock=clock)
    throttler.call(**ask())
    wait_until(lambda: set(ours("claude-throttle-worker")) <= set(before))
    monkeypatch.setattr(worker, "IDLE_SECONDS", 60.0)
    monkeypatch.setattr(worker, "RESTART_SECONDS", 40.0)
    monkeypatch.setattr(thread_pool, "IDLE_SECONDS", 0.0)
    senders = ours("claude-throttle-sender")
    start_none_of(monkeypatch, "claude-throttle-worker", times=1)
    first = throttler.submit(**ask("first"))
    wait_until(lambda: 40.0 in clock.waits)
    assert echo(throttler.submit(**ask("second")).result(20)) == "second"
    assert echo(first.result(20)) == "first"
    wait_until(lambda: set(ours("claude-throttle-sender")) <= set(senders))
    assert echo(throttler.submit(**ask("third")).result(20)) == "third"


@pytest.mark.parametrize("dotted", ["..x.y", "x", "", "tests.regressions.no_such_module.f"])
def test_a_listener_that_cannot_be_imported_is_a_setting_that_cannot_work(dotted):
    """Whatever the import raises."""
    with pytest.raises(ConfigurationError, match="on_event="):
        options_of({"on_event": dotted})

"""What reviewers broke, once."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import ConfigurationError, Settings
from claude_throttle.contrib.throttlers import options_of
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.thread_pool import ThreadPool
from tests.support.calls import MODEL
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


@pytest.mark.parametrize("dotted", ["..x.y", "x", "", "tests.regressions.no_such_module.f"])
def test_a_listener_that_cannot_be_imported_is_a_setting_that_cannot_work(dotted):
    """Whatever the import raises."""
    with pytest.raises(ConfigurationError, match="on_event="):
        options_of({"on_event": dotted})

"""Children of Celery's prefork pool. They end without Python's exit hooks."""

from __future__ import annotations

import os

from celery import Celery, current_app, signals

import claude_throttle.contrib.celery
from claude_throttle import Closed
from claude_throttle.testing import ClaudeApi, Stall
from tests.support.calls import ask
from tests.support.running import celery_worker, latency, running
from tests.support.visiting import hold_the_first, judge, wait_for_the_held
from tests.support.waiting import wait_until

TASKS = 12


def test_celery_prefork(fake, tmp_path, redis_url):
    """Everybody gets what was asked for; what a task left to be done is done at shutdown."""
    fake = fake(latency=latency)
    hold_the_first(fake)
    command = celery_worker("tests.servers.celery_app")
    sender = Celery("sender", broker=redis_url, set_as_current=False)
    with running(command, fake, tmp_path, BROKER=redis_url) as server, sender:
        wait_for_the_held(fake)
        for n in range(TASKS):
            sender.send_task("work", [f"nonce-{n}"])
        wait_until(lambda: len(server.reports()) == TASKS, seconds=30)
        judge(server.reports(), server, fake, forked=True)
        assert len({one["pid"] for one in server.reports()}) == 2
        sender.send_task("work", ["leaving-long"])
        wait_until(lambda: len(server.reports()) > TASKS)
        assert server.stop() == 0
        pid = server.reports()[-1]["pid"]
        assert f"{pid} long left" in server.noted()


def test_a_generator_in_a_request_is_priced_and_sent(throttle):
    """Read once; a task asks for its place first."""

    class Ask(claude_throttle.contrib.celery.ClaudeTask):
        name = "ask"

    with ClaudeApi() as api, Celery("app", set_as_current=False) as app:
        task = app.register_task(Ask())
        task.throttler = throttle(api, shared="memory://generators")
        task.push_request(called_directly=False, is_eager=False)
        content = ({"type": "text", "text": text} for text in ("a", "b"))
        messages = ({"role": role, "content": content} for role in ("user",))
        assert task.ask_claude(**ask(messages=messages))
        assert [block["text"] for block in api.asked[0]["messages"][0]["content"]] == ["a", "b"]


def test_a_child_ends_in_bounded_time(fake, throttle, monkeypatch):
    """What has no answer by then is cut off, what waits is cancelled, and both say so."""
    monkeypatch.setitem(current_app.conf, "claude_throttle_shutdown_timeout", 0.1)
    server = fake()
    server.script(Stall())
    throttler = throttle(server, max_concurrency=1)
    futures = [throttler.submit(**ask()) for _ in range(2)]
    wait_until(lambda: server.arrivals)
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    assert [type(future.exception(0)) for future in futures] == [Closed, Closed]

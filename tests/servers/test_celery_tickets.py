"""Tasks that give their worker back while the quota is far, on a real worker and a real Redis."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys

import pytest

from claude_throttle.contrib.celery import ClaudeRefused, ClaudeTask
from claude_throttle.testing import Reply
from tests.support.programs import ROOT
from tests.support.running import celery_worker, running

PATIENCE_SECONDS = 60


@contextlib.contextmanager
def worker(app, fake, folder, redis_url, *options, **environment):
    """One of two processes."""
    command = celery_worker(app, *options, level="INFO")
    with running(command, fake, folder, BROKER=redis_url, **environment) as server:
        yield server


@pytest.fixture
def tasks(fake, tmp_path, redis_url, monkeypatch):
    """The app as those see it who send tasks, with a worker that does them; the fake, the notes."""
    fake = fake(latency=lambda *_: 0.02)
    monkeypatch.setenv("BROKER", redis_url)
    monkeypatch.setenv("FAKE_URL", fake.url)
    monkeypatch.setenv("PATCH", "no")
    # The last test's worker may be dying still, and take a message with it.
    monkeypatch.setenv("QUEUE", tmp_path.name)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    name = "tests.servers.asking_tasks"
    monkeypatch.delitem(sys.modules, name, raising=False)  # it knows the last test's fake
    asked = importlib.import_module(name)
    with worker(name, fake, tmp_path, redis_url) as server, asked.app, asked.throttler:
        yield asked, fake, server


def test_nobody_is_held_up_and_places_are_kept(tasks):
    """Sixteen at two a second: the last has to come back, and all leave in the order they came.

    Nearly: two processes take them at once, and Celery's timer is a second late now and then.
    """
    asked, fake, server = tasks
    texts = [f"text {n}" for n in range(16)]
    results = [asked.question.delay(text) for text in texts]
    assert [result.get(PATIENCE_SECONDS) for result in results] == texts
    places = [texts.index(arrival.nonce) for arrival in fake.arrivals]
    assert sorted(places) == list(range(16))
    assert max(abs(place - n) for n, place in enumerate(places)) <= 4
    held = [note.split() for note in server.noted()]
    assert len(held) > len(texts)
    assert max(float(seconds) for _, _, seconds, *_ in held) < 4.0
    assert {retries for _, _, _, retries, *_ in held} == {"0"}


def test_what_comes_after_a_task_comes_after_it(tasks):
    """A chain goes on with the answer, however often its first link was sent away."""
    asked, _, _ = tasks
    chains = [asked.question.s(f"text {n}") | asked.shout.s() for n in range(6)]
    results = [chain.delay() for chain in chains]
    assert [result.get(PATIENCE_SECONDS) for result in results] == [f"TEXT {n}" for n in range(6)]


def test_only_the_first_call_of_a_run_sends_it_away(tasks):
    """No answer is asked for twice."""
    asked, fake, _ = tasks
    results = [asked.twice.delay(f"text {n}") for n in range(4)]
    for n, result in enumerate(results):
        assert result.get(PATIENCE_SECONDS) == [f"text {n} 0", f"text {n} 1"]
    assert len({arrival.nonce for arrival in fake.arrivals}) == len(fake.arrivals) == 8


def test_a_refusal_travels_as_a_result(tasks):
    """The SDK's error cannot be made from JSON."""
    asked, fake, _ = tasks
    fake.script(Reply(400))
    with pytest.raises(ClaudeRefused) as refused:
        asked.question.delay("text").get(PATIENCE_SECONDS)
    assert refused.value.kind == "BadRequestError"
    assert refused.value.status == 400
    assert refused.value.request_id
    assert "Error code: 400" in str(refused.value)


def test_a_task_called_directly_waits(tasks):
    """There is nowhere to send it."""
    asked, _, _ = tasks
    assert [asked.question(f"text {n}") for n in range(4)] == [f"text {n}" for n in range(4)]
    assert asked.question.apply(["text"]).get() == "text"


def test_it_needs_a_throttler():
    """Says what to do."""
    task = ClaudeTask()
    task.name = "lonely"
    with pytest.raises(TypeError, match=r"lonely has no throttler: @app.task"):
        task.ask_claude(model="m", max_tokens=9, messages=[])


def test_the_example(fake, tmp_path, redis_url):
    """As its first lines say."""
    fake = fake()
    environment = {
        "REDIS_URL": redis_url,
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": fake.url,
    }
    folder = "--workdir=examples"
    with worker("celery_app", fake, tmp_path, redis_url, folder, **environment):
        done = subprocess.run(
            [sys.executable, "examples/celery_app.py", "first", "second"],
            env={**os.environ, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"echo: Summarise in one sentence: {text}" for text in ("first", "second")
    ]

"""Each application has its throttlers, wherever and however often it is made."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, Response, current_app

from claude_throttle import Closed, ConfigurationError, Throttler
from claude_throttle.contrib.flask import ClaudeThrottle, current_throttler, current_throttlers
from claude_throttle.contrib.throttlers import NoSuchThrottler
from tests.support.calls import KEY, ask


def test_a_view_asks_claude(asking_app):
    """By the throttler of its application."""
    app = asking_app()
    response = app.test_client().get("/default?text=what+is+new")
    assert (response.status_code, response.text) == (200, "echo: what is new")
    assert len(app.server.arrivals) == 1


def test_the_current_throttler_is_one_for_all_threads(make_app):
    """A throttler for each thread, or each request, would be a quota for each."""
    app = make_app(API_KEY=KEY, RPM=50)
    before = set(threading.enumerate())

    def look():
        with app.app_context():
            return current_throttler._get_current_object()

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(look) for _ in range(40)]]
    assert {id(one) for one in found} == {id(app.claude.throttlers(app)["default"])}
    assert found[0].settings.rpm.amount == 50
    assert not [one for one in {*threading.enumerate()} - before if "claude" in one.name]


def test_several_throttlers_by_name(make_app):
    """By the proxy, by the extension; the default one is among them."""
    app = make_app(API_KEY=KEY, THROTTLERS={"batch": {"rpm": 10}})
    with app.app_context():
        batch = current_throttlers["batch"]
        assert isinstance(batch, Throttler)
        assert app.claude["batch"] is batch is app.claude.throttlers()["batch"]
        assert app.claude["default"] == current_throttler
        assert list(current_throttlers) == ["default", "batch"]
        assert (batch.settings.rpm.amount, batch.settings.api_key) == (10, None)
        with pytest.raises(NoSuchThrottler, match="THROTTLERS has no 'bach'.*did you mean 'batch'"):
            current_throttlers["bach"]


def test_outside_of_a_context_with_several_applications(make_app):
    """The error names each way out: which application is meant cannot be told."""
    app, other = make_app(), make_app("other")
    with ThreadPoolExecutor(1) as pool:  # it has answered no request
        pool.submit(_use_outside, app).result()
    assert other.claude.throttlers(other)


def _use_outside(app):
    for use in (
        lambda: current_throttler.stats(),
        lambda: current_throttlers["default"],
        lambda: app.claude["default"],
        lambda: app.claude.throttlers(),
        lambda: app.claude.reset(),
    ):
        with pytest.raises(RuntimeError, match="outside of application context") as raised:
            use()
        for words in (
            "stream_with_context()",
            "with app.app_context():",
            "claude.throttlers(app)['default']",
            "'other'",
            "'shop'",
        ):
            assert words in str(raised.value)
    assert repr(current_throttler) == "<LocalProxy unbound>"


def test_a_generator_means_the_application_whose_view_made_it(fake, asking_app):
    """With several applications in the process, and no stream_with_context()."""
    apps = [asking_app(name=f"app {n}") for n in range(2)]
    for app in apps:
        app.add_url_rule("/late", "late", _late)
    for app in [*apps, apps[0]]:
        assert app.test_client().get("/late").text == "late"
    assert [len(app.server.arrivals) for app in apps] == [2, 1]


def _late():
    return Response(current_throttler.call(**ask(word)) and word for word in ["late"])


#: Where there is no application context, in a process with one application; prints an answer each.
OUTSIDE = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import gc
import click
from click.testing import CliRunner
from celery import Celery
from flask import Flask, Response, stream_with_context
from claude_throttle.contrib.flask import ClaudeThrottle, current_throttler, current_throttlers

def make():
    app = Flask("shop")
    app.config["CLAUDE_THROTTLE_RPM"] = 60_000
    claude.init_app(app)
    return app

def say(text):
    messages = [{"role": "user", "content": text}]
    options = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": messages}
    return current_throttler.call(raw=True, **options)["content"][0]["text"]

claude = ClaudeThrottle()
try:
    say("nothing")
except RuntimeError as error:
    print("no application" in str(error), "call ClaudeThrottle(app)" in str(error))
make()  # an application that is dropped again, as by a test
app = make()

@app.get("/generator")
def generator():
    return Response(say(word) for word in ["generator"])

@app.get("/context")
def context():
    return Response(stream_with_context(say(word) for word in ["context"]))

@app.get("/thread")
def thread():
    found = []
    started = threading.Thread(target=lambda: found.append(say("thread")))
    started.start()
    started.join()
    return found[0]

@app.get("/pool")
def pool():
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(say, "pool").result()

jobs = Celery("jobs", broker="memory://")

@jobs.task
def task():
    return say("task")

@click.command()
def command():
    print(say("command"))

@app.cli.command("of-flask")
def of_flask():
    print(say("of flask"))

client = app.test_client()
for path in ("generator", "context", "thread", "pool"):
    print(client.get(f"/{path}").text)
print(task.apply().get())
print(CliRunner().invoke(command).output, end="")
print(app.test_cli_runner().invoke(args=["of-flask"]).output, end="")
print(len(list(current_throttlers)), claude["default"] == current_throttler)
"""


def test_outside_of_a_context_the_only_application_is_meant(fake, warm, tmp_path):
    """In a generator, a thread, a pool, a task, a command."""
    environment = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": fake().url}
    done = warm.run(OUTSIDE, folder=tmp_path, environment=environment)
    assert done.stderr == ""
    said = ("generator", "context", "thread", "pool", "task", "command", "of flask")
    assert done.stdout.splitlines() == ["True True", *(f"echo: {one}" for one in said), "1 True"]


def test_an_application_without_it():
    """It says what to call."""
    with Flask("bare").app_context():
        with pytest.raises(
            ConfigurationError, match=r"'bare' has no ClaudeThrottle: call .*init_app"
        ):
            current_throttler.stats()


def test_two_applications_in_one_process(asking_app, fake, make_app):
    """Of one extension object: each with its server, its throttlers, its end."""
    one = asking_app()
    other = make_app("other", one.claude, API_KEY="sk-ant-other-0000", BASE_URL=fake().url)
    with one.app_context():
        first = current_throttler._get_current_object()
        with other.app_context():
            second = current_throttler._get_current_object()
        assert current_throttler == first
    assert first is not second
    assert (first.settings.api_key, second.settings.api_key) == (KEY, "sk-ant-other-0000")
    one.claude.reset(one)
    with pytest.raises(Closed):
        first.submit(**ask())
    assert second.call(**ask())
    assert vars(one.claude) == {}


def test_registering_twice(make_app):
    """By whatever object; the first one stays."""
    app = make_app()
    before = app.claude.throttlers(app)
    with pytest.raises(ConfigurationError, match="'shop' already has a ClaudeThrottle"):
        ClaudeThrottle(app)
    assert app.claude.throttlers(app) is before


def test_a_factory(make_app):
    """What is told after init_app, and before the first use, counts."""
    claude = ClaudeThrottle()
    apps = [make_app(f"made {n}", claude, API_KEY=KEY, RPM=n) for n in (1, 2)]
    apps[1].config["CLAUDE_THROTTLE_RPM"] = 3
    for app, rpm in zip(apps, (1, 3)):
        with app.app_context():
            assert current_throttler.settings.rpm.amount == rpm


def test_reset_reads_anew(make_app):
    """For tests; what was in use is closed."""
    app = make_app(API_KEY=KEY, RPM=1)
    with app.app_context():
        before = current_throttler._get_current_object()
        app.config["CLAUDE_THROTTLE_RPM"] = 2
        assert current_throttler.settings.rpm.amount == 1
        app.claude.reset()
        assert current_throttler.settings.rpm.amount == 2
    with pytest.raises(Closed):
        before.submit(**ask())


def test_a_request_does_not_end_what_it_submitted(asking_app):
    """There is no teardown: futures are for later requests, too."""
    app = asking_app()
    futures = []

    @app.get("/later")
    def later():
        futures.append(current_throttler.submit(**ask("later")))
        return ""

    client = app.test_client()
    assert [client.get("/later").status_code for _ in range(3)] == [200] * 3
    assert [future.result(10)["content"][0]["text"] for future in futures] == ["echo: later"] * 3
    assert app.teardown_appcontext_funcs == []
    assert app.teardown_request_funcs == {}


def test_a_failed_init_leaves_nothing(make_app):
    """So it can be told right and tried again."""
    app = Flask("shop")
    app.config["CLAUDE_THROTTLE_RPM"] = -1
    claude = ClaudeThrottle()
    with pytest.raises(ConfigurationError):
        claude.init_app(app)
    assert (app.extensions, list(app.cli.commands)) == ({}, [])
    app.config["CLAUDE_THROTTLE_RPM"] = 1
    claude.init_app(app)


@pytest.mark.parametrize(
    ("environment", "told", "words"),
    [
        ({"WEB_CONCURRENCY": "4"}, {}, ["4 workers", "set CLAUDE_THROTTLE_SHARED"]),
        ({"GUNICORN_CMD_ARGS": "-k gthread -w 3"}, {}, ["3 workers"]),
        ({"WEB_CONCURRENCY": "4", "GUNICORN_CMD_ARGS": "--workers=1"}, {}, None),
        ({"WEB_CONCURRENCY": "1"}, {}, None),
        ({}, {}, None),
        ({"WEB_CONCURRENCY": "4"}, {"SHARED": "sqlite:////tmp/unused.db"}, None),
        ({"WEB_CONCURRENCY": "4"}, {"TESTING": True}, None),
    ],
)
def test_workers_that_do_not_see_each_other(
    make_app, monkeypatch, caplog, environment, told, words
):
    """One line, at the first use, and no noise otherwise."""
    app = make_app(**told)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with app.app_context(), caplog.at_level(logging.INFO):
        for _ in range(3):
            current_throttler.stats()
    lines = [text for record in caplog.records if "workers" in (text := record.getMessage())]
    assert len(lines) == (words is not None)
    assert [word for word in words or () if word not in lines[0]] == []


def test_a_named_one_says_its_own_key(make_app, monkeypatch, caplog):
    """The default one is shared, and makes no noise."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    app = make_app(SHARED="sqlite:////tmp/unused.db", THROTTLERS={"batch": {}})
    with app.app_context():
        assert current_throttler.settings.shared
        assert caplog.records == []
        assert current_throttlers["batch"]
    (record,) = caplog.records
    assert "set CLAUDE_THROTTLE_THROTTLERS['batch']['shared']" in record.getMessage()


def test_no_application_is_kept_alive_by_the_extension():
    """An extension at module level outlives the applications of many tests."""
    claude = ClaudeThrottle()
    app = Flask("short")
    claude.init_app(app)
    with app.app_context():
        current_throttler.stats()
        assert current_app.name == "short"
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None

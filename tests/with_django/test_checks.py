"""``manage.py check``: each message, and nothing where there is nothing to say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import override_settings

from claude_throttle.contrib.django.checks import TAG, check_deployment, check_settings

ROOT = Path(__file__).parents[2]
KEY = "sk-ant-api03-from-a-secret-store"
THREADS = {"GUNICORN_CMD_ARGS": "--worker-class gthread"}


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """No gunicorn settings but the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)


def found(check, told, **settings):
    """The messages of it, by their numbers; they are all the messages with our tag."""
    with override_settings(CLAUDE_THROTTLE=told, **settings):
        messages = check()
        ours = run_checks(tags=[TAG], include_deployment_checks=check is check_deployment)
    assert messages == [m for m in ours if check is check_settings or m.id[-4] == "W"]
    for message in messages:
        assert message.hint
        assert KEY not in f"{message.msg} {message.hint}"
    return {message.id.rpartition(".")[2]: message.msg for message in messages}


def errors(**default):
    return found(check_settings, {"default": {"api_key": KEY, **default}})


def warnings(monkeypatch, environment=THREADS, **default):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return found(check_deployment, {"default": {"api_key": KEY, **default}})


def test_nothing_is_wrong():
    """With all that may be told."""
    named = {
        "default": {"rpm": 50, "BURST": "auto", "on_event": "tests.with_django.views.fail"},
        "batch": {"shared": "sqlite:////tmp/x.db", "timeout": 5, "api_key": KEY},
    }
    assert found(check_settings, named) == {}
    with override_settings():
        assert check_settings() == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["default"], "must be a dict of dicts, not list"),
        ({"default": "rpm=50"}, "CLAUDE_THROTTLE['default'] must be a dict of options, not str"),
        ({"default": {}, 7: {}}, "a throttler's name must be a string, not 7"),
        ({"batch": {}}, "has no 'default'"),
        ({}, "has no 'default'"),
    ],
)
def test_e001_no_dict_of_dicts(told, words):
    """Or no default."""
    messages = found(check_settings, told)
    assert list(messages) == ["E001"]
    assert words in messages["E001"]


@pytest.mark.parametrize(
    ("name", "hint"), [("rmp", "'rpm'"), ("MAX_QUEU", "'max_queue'"), ("zzz", "rpm"), ("5", "rpm")]
)
def test_e002_unknown_option(name, hint):
    """The closest is named, or all."""
    with override_settings(CLAUDE_THROTTLE={"default": {name: 5}}):
        (message,) = check_settings()
    assert message.id == "claude_throttle.E002"
    assert f"CLAUDE_THROTTLE['default']: {name!r} is not an option" in message.msg
    assert hint in message.hint


@pytest.mark.parametrize("platform", ["bedrock", "vertex", "foundry"])
def test_a_clouds_clients_bring_their_own_credentials(monkeypatch, platform):
    """No key is missed, unless calls of ours would need it."""
    assert "W001" not in warnings(monkeypatch, api_key=None, platform=platform)
    at = {"api_key": None, "platform": platform, "base_url": "https://r.services.ai.azure.com/x"}
    assert "W001" in warnings(monkeypatch, **at)


def test_every_mistake_is_told():
    """Not only the first."""
    named = {"default": {"rmp": 5, "burst": 0}, "batch": {"shared": "mysql://", "tpmm": 1}}
    with override_settings(CLAUDE_THROTTLE=named):
        ids = [message.id[-4:] for message in check_settings()]
    assert ids == ["E002", "E003", "E002", "E004"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"rpm": -5}, "rpm"),
        ({"burst": 0}, "burst"),
        ({"api_key": f"{KEY}\n{KEY}"}, "api_key holds a space, a line break"),
        ({"base_url": f"https://{KEY}@host"}, "base_url must not contain a user"),
        ({"on_event": "tests.nowhere.listener"}, "on_event='tests.nowhere.listener' cannot be"),
        ({"on_event": 5}, "on_event must be a function"),
        ({"rpm": 5, "RPM": 6}, "has an option twice"),
    ],
)
def test_e003_what_cannot_work(told, words):
    """In the words that making one would raise."""
    messages = errors(**told)
    assert list(messages) == ["E003"]
    assert words in messages["E003"]


def test_e003_of_the_environment(monkeypatch):
    """It counts, too, and the message names the variable."""
    monkeypatch.setenv("CLAUDE_THROTTLE_RPM", "many")
    assert "CLAUDE_THROTTLE_RPM='many'" in errors()["E003"]


@pytest.mark.parametrize(
    "store", ["mysql://host", "sqlite://claude.db", "redis", f"https://user:{KEY}@host/0", 5]
)
def test_e004_a_store_that_is_none(store):
    """No password is shown."""
    messages = errors(shared=store)
    assert list(messages) == ["E004"]
    assert "shared must" in messages["E004"]


def test_nothing_to_warn_of(monkeypatch):
    """A key that came from elsewhere; threads that wait apart."""
    assert warnings(monkeypatch) == {}


def test_warnings_wait_for_errors(monkeypatch):
    """One thing after the other."""
    assert warnings(monkeypatch, api_key=None, burst=0) == {}


def test_w001_no_key(monkeypatch):
    """Neither there nor in the environment; testing needs none."""
    assert (
        "CLAUDE_THROTTLE['default'] has no API key" in warnings(monkeypatch, api_key=None)["W001"]
    )
    assert list(warnings(monkeypatch, api_key=None, testing=True)) == ["W004"]
    assert warnings(monkeypatch, {"ANTHROPIC_AUTH_TOKEN": "token"}, api_key=None) == {}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """``project(base="…", production="…")``: a package of settings, loaded."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name="written", **modules):
        package = tmp_path / name / "settings"
        package.mkdir(parents=True)
        for module, source in {"__init__": "", **modules}.items():
            (package / f"{module}.py").write_text(source)
        last = importlib.import_module(f"{name}.settings.{list(modules)[-1]}")
        return last, package

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "written"]:
        del sys.modules[name]


def written(monkeypatch, project, last="from .base import *\n", **base):
    """W002 of a project whose production settings get the key from another module of theirs."""
    module, package = project(base=base["source"], production=last)
    for name, value in THREADS.items():
        monkeypatch.setenv(name, value)
    told = {"default": module.OPTIONS}
    messages = found(check_deployment, told, SETTINGS_MODULE=module.__name__)
    return messages.get("W002"), package


def test_w002_a_key_that_is_written_in(monkeypatch, project):
    """Found in whatever module of theirs it is, and not shown."""
    source = "\nOPTIONS = {'auth_token': None, 'api_key':\n    ' sk-ant-api03-written-in '}\n"
    message, package = written(monkeypatch, project, source=source)
    assert (
        message == f"CLAUDE_THROTTLE['default']: api_key is written in {package}/base.py, line 3."
    )


@pytest.mark.parametrize(
    "source",
    [
        "import os\nOPTIONS = {'api_key': os.environ['SECRET']}\n",
        "import pathlib\nOPTIONS = {'api_key': pathlib.Path('key').read_text()}\n",
        "# not sk-ant-api03-elsewhere\nimport os\nOPTIONS = {'api_key': os.environ['SECRET']}\n",
        "OPTIONS = {}\n",
        "STAGE = 'test'\nOPTIONS = {'api_key': 'test'}\n",  # who would pay for that?
    ],
)
def test_w002_not_for_a_key_from_elsewhere(monkeypatch, project, tmp_path, source):
    """The environment, a file; a comment is no setting."""
    monkeypatch.setenv("SECRET", "sk-ant-api03-elsewhere")
    (tmp_path / "key").write_text("sk-ant-api03-elsewhere\n")
    assert written(monkeypatch, project, source=source)[0] is None


def test_w003_a_worker_that_is_killed(monkeypatch, tmp_path):
    """What happens, and what to do; a short time, or a worker that waits apart, is fine."""
    said = warnings(monkeypatch, {})["W003"]
    assert "may wait without limit" in said
    assert "after 30 s: the visitor gets a 500" in said
    assert "may wait 45 s" in warnings(monkeypatch, {}, timeout=45)["W003"]
    assert warnings(monkeypatch, {}, timeout=29) == {}
    patient = {"GUNICORN_CMD_ARGS": "--timeout 120"}
    assert warnings(monkeypatch, patient, timeout=45) == {}
    assert "after 120 s" in warnings(monkeypatch, patient)["W003"]
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit\n")
    assert warnings(monkeypatch, {}) == {}


def test_w004_testing_mode(monkeypatch):
    """Also where the environment says so."""
    assert "makes no call" in warnings(monkeypatch, testing=True)["W004"]
    monkeypatch.setenv("CLAUDE_THROTTLE_TESTING", "1")
    assert list(warnings(monkeypatch)) == ["W004"]


def test_w005_processes_that_share_nothing(monkeypatch, tmp_path):
    """Only where they can be seen to be several."""
    assert warnings(monkeypatch, {"WEB_CONCURRENCY": "1", **THREADS}) == {}
    said = warnings(monkeypatch, {"WEB_CONCURRENCY": "4", **THREADS})["W005"]
    assert said.startswith("CLAUDE_THROTTLE['default']: there are several worker processes")
    assert warnings(monkeypatch, shared=f"sqlite:///{tmp_path}/claude.db") == {}
    assert list(warnings(monkeypatch, testing=True)) == ["W004"]


def test_the_command_says_it(capsys):
    """Errors fail it."""
    with override_settings(CLAUDE_THROTTLE={"default": {"rmp": 5}}):
        with pytest.raises(CommandError, match=r"claude_throttle.E002.*(?s:.*)Did you mean 'rpm'"):
            call_command("check")


def test_the_command_says_it_for_deployment_only():
    """As a developer would run it, and as CI would: in a project of its own."""

    def check(*options):
        done = subprocess.run(
            [sys.executable, "-m", "django", "check", "--tag", TAG, *options],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DJANGO_SETTINGS_MODULE": "tests.with_django.settings",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "no issues" in check()
    said = check("--deploy")
    assert "claude_throttle.W001" in said
    assert "claude_throttle.W003" in said
    with pytest.raises(AssertionError, match="W001"):
        check("--deploy", "--fail-level", "WARNING")

"""``manage.py claude_throttle``, from programs and from a shell."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import django
import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

import claude_throttle
from claude_throttle.cli.application import ApplicationCommands
from claude_throttle.testing import Stall
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
RUN = ("--model", "claude-haiku-4-5", "--max-tokens", "5")


def called(*words):
    """What it wrote."""
    out = io.StringIO()
    call_command("claude_throttle", *words, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def started(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "django", "claude_throttle", *words],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "tests.with_django.settings",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def from_a_shell(*words, **environment):
    """Exit code, standard output, standard error."""
    process = started(*words, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_status(told, tmp_path):
    """Each throttler, line by line, in what call_command() was given."""
    told(default={"rpm": 50}, batch={"shared": f"sqlite:///{tmp_path}/claude.db"})
    first, second, *rest = called("status").splitlines()
    assert first.startswith("default: <Throttler http://127.0.0.1")
    assert second.startswith("  not shared:")
    assert rest[0].startswith("batch: <Throttler")
    assert all(rest)


def test_limits(told):
    """Of the one that is named; programs may say so in Python."""
    told(default={}, batch={"rpm": 30})
    for asked in ({"throttler": "batch"}, {}):
        out = io.StringIO()
        call_command("claude_throttle", "limits", "--json", stdout=out, **asked)
        (lane,) = json.loads(out.getvalue())["lanes"].values()
        quotas = {quota["kind"]: quota["told"] for quota in lane["quotas"]}
        assert quotas["requests"] == (30 if asked else 60_000)


def test_run(told, tmp_path):
    """A file of prompts."""
    told(default={})
    (tmp_path / "in.jsonl").write_text('"one"\n"two"\n')
    called("run", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *RUN)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_an_error_is_a_command_error(told, tmp_path, capfd):
    """With the exit code; what was said is in stderr=, and not on the terminal."""
    told(default={})
    err = io.StringIO()
    with pytest.raises(CommandError, match="run ended with 2") as caught:
        call_command("claude_throttle", "run", str(tmp_path / "none"), "-o", "x", stderr=err)
    assert caught.value.returncode == 2
    assert err.getvalue().startswith("claude-throttle run: ")
    with pytest.raises(CommandError) as caught:
        called("limits", "--throttler", "bach")
    assert caught.value.returncode == 2
    with pytest.raises(CommandError):
        called("no-such-command")
    assert capfd.readouterr() == ("", "")


def test_wrong_settings_are_told_first():
    """By the system checks, of which only ours are run; Django 3.1 runs all or none."""
    other = {"ROOT_URLCONF": "tests.nowhere"} if django.VERSION >= (3, 2) else {}
    with override_settings(CLAUDE_THROTTLE={"default": {"rmp": 5}}, **other):
        with pytest.raises(SystemCheckError, match="Did you mean 'rpm'"):
            call_command("claude_throttle", "status", skip_checks=False)
    with override_settings(CLAUDE_THROTTLE={"default": {"rpm": 5}}, **other):
        call_command("claude_throttle", "status", skip_checks=False, stdout=io.StringIO())


def test_pause_and_resume_all_processes_of_a_throttler_s_store(told, tmp_path):
    """Its key comes from the settings, whether anybody is in the store or not."""
    store = f"sqlite:///{tmp_path}/claude.db"
    told(default={"rpm": 50}, batch={"shared": store})
    assert "all processes are paused" in called("pause", "--throttler", "batch", "--everywhere")
    assert len(claude_throttle.fleet(store).paused) == 1
    called("resume", "--throttler", "batch")
    assert claude_throttle.fleet(store).paused == ()
    with pytest.raises(CommandError) as caught:
        called("pause")
    assert caught.value.returncode == 2
    with pytest.raises(CommandError) as caught:
        called("resume", "--throttler", "bacht")
    assert caught.value.returncode == 2


@pytest.mark.parametrize("command", ["status", "limits"])
def test_ctrl_c(told, monkeypatch, command):
    """130, as a shell has it, and no traceback."""

    def interrupted(*_given):
        raise KeyboardInterrupt

    told(default={})
    monkeypatch.setattr(ApplicationCommands, "_show", interrupted)
    monkeypatch.setattr("claude_throttle.cli.limits.execute", interrupted)
    with pytest.raises(CommandError) as caught:
        called(command)
    assert caught.value.returncode == 130


def test_exit_codes_in_a_shell(fake, tmp_path):
    """Those of claude-throttle."""
    server = fake()
    code, out, err = from_a_shell("status", FAKE_URL=server.url)
    assert (code, err) == (0, "")
    assert out.startswith(f"default: <Throttler {server.url} rpm=60000 open>\n  not shared")
    code, out, err = from_a_shell("run", "none", "-o", str(tmp_path / "out"), FAKE_URL=server.url)
    assert (code, out) == (2, "")
    assert err.startswith("claude-throttle run: ")
    assert "Traceback" not in err
    assert from_a_shell("walk", FAKE_URL=server.url)[0] == 2


def test_ctrl_c_in_a_shell(fake, tmp_path):
    """The first waits for what is on the wire and says so, the second ends it."""
    server = fake()
    server.script(Stall())
    (tmp_path / "in.jsonl").write_text('"one"\n')
    words = ("run", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *RUN)
    process = started(*words, FAKE_URL=server.url)
    wait_until(lambda: len(server.arrivals) > 0)
    process.send_signal(signal.SIGINT)
    assert "waiting for 1 call" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_fake_api_for_the_project():
    """It serves until it is interrupted."""
    process = started("serve-fake", "--port", "0")
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
    finally:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")

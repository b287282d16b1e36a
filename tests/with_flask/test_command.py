"""``flask claude-throttle …``, told by the application's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import claude_throttle
from tests.support.calls import KEY


@pytest.fixture
def run(asking_app):
    """``run("limits", "--json", THROTTLERS=…)`` is the result; ``run.app`` the application."""

    def invoke(*words, **told):
        invoke.app = asking_app(**told)
        return invoke.app.test_cli_runner().invoke(args=["claude-throttle", *words])

    return invoke


def test_help_names_the_commands(run):
    """Of the group; and each has its own."""
    said = run("--help").output
    for name in ("status", "limits", "run", "pause", "resume", "serve-fake"):
        assert f"\n  {name} " in said
        result = run(name, "--help")
        assert (result.exit_code, f"claude-throttle {name} [-h]" in result.output) == (0, True)
    assert "--throttler NAME" in run("limits", "--help").output


def test_status(run):
    """All that are told; no key, no call."""
    result = run("status", THROTTLERS={"batch": {"rpm": 10}})
    assert result.exit_code == 0
    assert "default: <Throttler http://127.0.0.1" in result.output
    assert "batch: <Throttler https://api.anthropic.com rpm=10 open>" in result.output
    assert KEY not in result.output
    assert run.app.server.arrivals == []


def test_limits_of_a_named_throttler(run, fake):
    """The options of the command line arrive, and those of the configuration."""
    other = fake(rpm=60)
    told = {"API_KEY": KEY, "base_url": other.url, "rpm": "30"}
    result = run("limits", "--json", "--throttler=batch", THROTTLERS={"batch": told})
    assert result.exit_code == 0
    lanes = json.loads(result.output)["lanes"]
    assert [q["told"] for lane in lanes.values() for q in lane["quotas"]][:1] == [30]
    assert len(other.arrivals) == 1


@pytest.mark.parametrize("everywhere", [[], ["--everywhere"]])
def test_pause_and_resume_all_processes_of_the_configured_store(run, tmp_path, everywhere):
    """Those that start later, too: the configuration's key names them."""
    store = f"sqlite:///{tmp_path}/claude.db"
    told = {"THROTTLERS": {"batch": {"shared": store, "api_key": KEY}}}
    result = run("pause", "--throttler=batch", *everywhere, **told)
    assert (result.exit_code, "all processes are paused" in result.output) == (0, True)
    assert len(claude_throttle.fleet(store).paused) == 1
    result = run("resume", "--throttler=batch", *everywhere, **told)
    assert (result.exit_code, claude_throttle.fleet(store).paused) == (0, ())


def test_pause_without_a_store_says_what_to_set(run):
    """One process alone cannot be reached from a shell."""
    result = run("pause")
    assert result.exit_code == 2
    assert "'default' shares no store" in result.output


def test_run_a_file(run, tmp_path):
    """Positional arguments, and short options with values."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"one"\n"two"\n')
    options = ("-o", str(out), "--model", "claude-haiku-4-5", "--max-tokens", "5")
    result = run("run", str(source), *options)
    assert result.exit_code == 0, result.output
    assert len(out.read_text().splitlines()) == len(run.app.server.arrivals) == 2


@pytest.mark.parametrize(
    ("words", "told", "code", "said"),
    [
        (("limits", "--throttler", "bach"), {"THROTTLERS": {"batch": {}}}, 2, "mean 'batch'"),
        (("limits", "--nonsense"), {}, 2, "--nonsense"),
        (("run",), {}, 2, "required"),
        (("status", "extra"), {}, 2, "extra"),
        (("status",), {"SHARED": "redis://127.0.0.1:1/0"}, 1, "127.0.0.1:1"),
        (("nonsense",), {}, 2, "No such command"),
    ],
)
def test_exit_codes_are_the_command_lines(run, words, told, code, said):
    """With what is wrong."""
    result = run(*words, **told)
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_a_slip_in_the_configuration_is_said_in_a_line(run):
    """The application can be made, and its configuration changed since."""
    run("status")
    run.app.config["CLAUDE_THROTTLE_RPMM"] = 1
    result = run.app.test_cli_runner().invoke(args=["claude-throttle", "status"])
    assert result.exit_code == 2
    assert "claude-throttle status: CLAUDE_THROTTLE_RPMM is not a setting" in result.output


def test_as_people_run_it(fake, tmp_path):
    """The program ``flask``, a factory, the environment."""
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "from claude_throttle.contrib.flask import ClaudeThrottle\n"
        "claude = ClaudeThrottle()\n"
        "def create_app():\n"
        "    app = Flask(__name__)\n"
        "    app.config.from_prefixed_env()\n"
        "    claude.init_app(app)\n"
        "    return app\n"
    )
    server = fake(rpm=60)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
        "FLASK_CLAUDE_THROTTLE_BASE_URL": server.url,
        "FLASK_CLAUDE_THROTTLE_API_KEY": KEY,
    }
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "shop", "claude-throttle", "limits", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lanes"]
    assert len(server.arrivals) == 1

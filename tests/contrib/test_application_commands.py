"""The command line, as an application lends it."""

from __future__ import annotations

import argparse
import json

import pytest

from claude_throttle.cli.application import ApplicationCommands
from claude_throttle.contrib.throttlers import Throttlers

KEY = "sk-ant-test"


@pytest.fixture
def command(fake):
    """Run one with the settings of an application; returns the exit code."""
    server = fake(rpm=60, itpm=1000)

    def run(*argv, **named):
        told = {"default": {"api_key": KEY, "base_url": server.url, "rpm": 600}, **named}
        parser = argparse.ArgumentParser()
        throttlers = Throttlers(lambda: told)
        commands = ApplicationCommands(throttlers, throttlers.options)
        commands.add_arguments(parser)
        return commands.execute(parser.parse_args(argv))

    run.server = server
    return run


def test_limits_are_those_of_the_named_throttler(command, capsys):
    """Its address, its quotas."""
    batch = {"API_KEY": "sk-ant-batch", "base_url": command.server.url, "rpm": 30}
    assert command("limits", "--json", "--throttler", "batch", batch=batch) == 0
    lanes = json.loads(capsys.readouterr().out)["lanes"]
    assert {q["kind"]: q["told"] for lane in lanes.values() for q in lane["quotas"]} == {
        "requests": 30,
        "input_tokens": None,
    }
    assert len(command.server.arrivals) == 1


def test_run_goes_to_the_applications_server(command, tmp_path, capsys):
    """And what is typed goes before what is told."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"one"\n"two"\n')
    told = ("--model", "claude-haiku-5-5", "--max-tokens", "5", "--rpm", "1200")
    assert command("run", str(source), "-o", str(out), *told) == 0
    assert len(out.read_text().splitlines()) == len(command.server.arrivals) == 2
    assert "2 answered" in capsys.readouterr().err


def test_a_pretended_api_has_nothing_of_the_application(command, tmp_path):
    """No key, no store, no address."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"one"\n')
    nowhere = {"shared": "redis://127.0.0.1:1/0", "base_url": "http://127.0.0.1:1"}
    told = ("--model", "claude-haiku-5-5", "--max-tokens", "5", "--fake")
    assert command("run", str(source), "-o", str(out), *told, default=nowhere) == 0
    assert command.server.arrivals == []


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({}, "CLAUDE_THROTTLE has no 'batch'"),
        ({"batch": {"rppm": 1}}, "did you mean rpm="),
        ({"batch": {"rpm": -1}}, "rpm"),
        ({"batch": {"shared": "mysql://x"}}, "mysql"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(command, capsys, named, words):
    """With the exit code of wrong usage."""
    assert command("limits", "--throttler", "batch", **named) == 2
    said = capsys.readouterr().err
    assert said.startswith("claude-throttle limits: ")
    assert words in said
    assert said.count("\n") == 1


def test_status_shows_all_and_who_shares(command, capsys, tmp_path):
    """Never a key."""
    shared = {"api_key": KEY, "shared": f"sqlite:///{tmp_path}/q.db"}
    assert command("status", batch=shared, testing={"testing": True}) == 0
    said = capsys.readouterr().out
    assert f"default: <Throttler {command.server.url} rpm=600 open>\n  not shared:" in said
    assert "batch: " in said
    assert "nobody is there" in said
    assert "TESTING MODE" in said
    assert KEY not in said


def test_status_says_what_is_wrong(command, capsys, monkeypatch):
    """A store that cannot be asked, no key."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    silent = {"shared": "redis://127.0.0.1:1/0"}
    assert command("status", batch=silent) == 1
    assert "127.0.0.1:1" in capsys.readouterr().out
    assert command("status", batch={}) == 0
    assert "no API key" in capsys.readouterr().out
    assert command("status", batch={"rppm": 1}) == 2

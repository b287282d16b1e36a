"""The other commands, and what all have in common."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from claude_throttle._version import __version__
from claude_throttle.cli import CannotStart, demo, main, serve_fake
from claude_throttle.testing import FakeClaude
from tests.support.command import Start
from tests.support.programs import ROOT
from tests.support.thorough import only_thorough


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"claude-throttle {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_without_a_command_it_says_which_there_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([command, "--help"]) == 0
    assert len(capsys.readouterr().out) > 300


@pytest.mark.parametrize(("error", "code"), [(CannotStart("why"), 2), (KeyboardInterrupt(), 130)])
def test_every_ending_has_its_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def execute(_: object) -> int:
        raise error

    monkeypatch.setitem(
        main.COMMANDS,
        "demo",
        SimpleNamespace(SUMMARY="", add_arguments=lambda _: None, execute=execute),
    )
    assert main.main(["demo"]) == code
    assert ("claude-throttle demo: why" in capsys.readouterr().err) is (code == 2)


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it was doing: which command it was, and nothing else."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "send_unthrottled", interrupted)
    assert main.main(["demo", "--quiet"]) == 130
    assert capsys.readouterr() == ("", "claude-throttle demo: interrupted\n")


def test_ctrl_c_within_an_import_has_the_same_exit_code(tmp_path: Path) -> None:
    """A named tuple is made by exec(), and under -m Python would remember an interrupt there."""
    (tmp_path / "interrupted_import.py").write_text(
        """
import sys
from claude_throttle.cli import demo, main
demo.execute = lambda _: exec("raise KeyboardInterrupt")
sys.exit(main.main(["demo"]))
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_import"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    assert (done.returncode, done.stderr) == (130, b"claude-throttle demo: interrupted\n")


@pytest.mark.parametrize("answered", [0, only_thorough(6)])
def test_ctrl_c_ends_a_demo_in_the_middle(answered: int, start: Start) -> None:
    """At once, though the pool's threads wait for answers, and with no trace of them."""
    latency = "30" if not answered else "0.01"
    process = start("demo", "--rpm", "120", "--latency", latency, "--threads", "2")
    assert process.stderr
    said = process.stderr.readline()
    if answered:
        said = process.stderr.readline()  # the naive way is over
        assert b"Throttler(rpm=120)" in said
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (130, b"", b"claude-throttle demo: interrupted\n")


def test_the_demo_shows_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    """Refusals without a throttler, none with one that was told, no failures with either."""
    arguments = ["--calls", "12", "--rpm", "600", "--burst", "3", "--latency", "0.05"]
    assert main.main(["demo", *arguments]) == 0
    said = capsys.readouterr()
    head, before, told, learned = said.out.splitlines()
    assert head.split() == ["calls", "succeeded", "429s", "seconds", "least", "seconds"]
    assert before.split()[:2] == ["20", "threads"]
    assert int(before.split()[4]) > 0
    assert told.split()[:4] == ["Throttler(rpm=600)", "12", "12", "0"]
    assert learned.split()[:3] == ["Throttler()", "12", "12"]
    assert "12 calls at 600 a minute" in said.err


def test_the_least_seconds_cannot_be_beaten(capsys: pytest.CaptureFixture[str]) -> None:
    """A burst of 3 at once, 9 more at 10 a second, and the last answer: 1.0 s."""
    arguments = ["--calls", "12", "--rpm", "600", "--burst", "3", "--latency", "0.1", "--quiet"]
    assert main.main(["demo", *arguments]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert {row[-1] for row in rows} == {"1.0"}
    assert all(float(row[-2]) >= float(row[-1]) for row in rows)


def test_the_table_fits_a_narrow_terminal() -> None:
    """No line is longer than 40 columns, and every number is still there."""
    rows = [
        demo.ResultRow(f"Throttler(rpm={rpm})", 1000, 990, 1234, 99.5, 98.1) for rpm in (1, 60000)
    ]
    wide, narrow = demo.table(rows), demo.table(rows, 40)
    assert len({len(line) for line in wide.splitlines()}) == 1
    assert demo.table(rows, 200) == wide
    assert max(map(len, narrow.splitlines())) <= 40
    for number in ("1,000", "990", "1,234", "99.5", "98.1"):
        assert narrow.count(number) == wide.count(number) == 2


@pytest.mark.parametrize(
    "calls", ["2", only_thorough("500")]
)  # the last are refused before they are queued
def test_a_demo_that_failed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: str
) -> None:
    monkeypatch.setattr(demo, "FakeClaude", lambda **_: FakeClaude(spend_cap_after=0))
    assert main.main(["demo", "--calls", calls, "--rpm", "6000", "--quiet"]) == 1
    assert capsys.readouterr().err == ""


def test_a_server_that_is_not_there_is_a_failed_call(fake: FakeClaude) -> None:
    ended: list[bool] = []
    fake.stop()
    demo.send_unthrottled(fake.url, [{}], 1, ended.append)
    assert ended == [False]


def test_ctrl_c_does_not_wait_for_the_naive_queue(fake: FakeClaude) -> None:
    class Interrupted(list):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.send_unthrottled(fake.url, Interrupted(), 1, lambda _: None)


def test_the_fake_is_served_until_ctrl_c(start: Start) -> None:
    process = start("serve-fake", "--rpm", "1", "--burst", "1", "--output-tokens", "7")
    assert process.stdout
    url = process.stdout.readline().decode().strip()
    body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(
        f"{url}/v1/messages",
        json.dumps(body).encode(),
        {"x-api-key": "any", "anthropic-version": "2023-06-01", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["usage"]["output_tokens"] == 7
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=20)
    assert (process.returncode, rest, said) == (0, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fault-rate", "529"], "529=0.02"),
        (["--fault-rate", "530=0.1"], "unknown faults"),
        (["--fault-rate", "529=7"], "probabilities"),
        (["--latency", "-1"], "must be 0 or more seconds"),
        (["--batch-seconds", "-1"], "must be 0 or more seconds"),
        (["--port", "70000"], "port"),
    ],
)
def test_a_fake_that_cannot_be_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["serve-fake", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_traceback(start: Start) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = start("demo", "--calls", "1", "--quiet", stdout=theirs)
    os.close(theirs)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (1, b"")


def test_the_fake_is_told_everything_and_ctrl_c_is_its_good_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {}

    class Fake(FakeClaude):
        def __init__(self, **settings: Any) -> None:
            told.update(settings)
            super().__init__(**settings)

        def serve_forever(self) -> None:
            told["batch_seconds"] = self.batches.seconds
            raise KeyboardInterrupt

    monkeypatch.setattr(serve_fake, "FakeClaude", Fake)
    options = ["--itpm", "30_000", "--fault-rate", "529=0.5", "--fault-rate", "reset=0.1"]
    options += ["--spend-cap-after", "0", "--batch-seconds", "20"]
    assert main.main(["serve-fake", *options]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert told["fault_rates"] == {"529": 0.5, "reset": 0.1}
    assert (told["itpm"], told["spend_cap_after"]) == (30_000, 0)
    assert told["batch_seconds"] == 20.0


def test_a_warning_is_printed_in_the_command_s_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def execute(_arguments: Any) -> int:
        told.append(warnings.formatwarning("taken off", UserWarning, "settings.py", 196))
        return 0

    module = SimpleNamespace(SUMMARY="", add_arguments=lambda _: None, execute=execute)
    monkeypatch.setitem(main.COMMANDS, "limits", module)
    assert main.main(["limits"]) == 0
    assert told == ["claude-throttle limits: taken off\n"]
    assert "settings.py" in warnings.formatwarning("x", UserWarning, "settings.py", 196)

"""``claude-throttle run`` from the first line to the exit code, in this process."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_throttle.cli import lines, outage_watch, run
from claude_throttle.cli.main import main
from claude_throttle.testing import FakeClaude, Garbage, Reply, firewall_page
from tests.support.command import FAST, by_id, nonces, prompts, results, text_of
from tests.support.waiting import wait_until

Run = Callable[..., int]


@pytest.fixture
def run_lines(tmp_path: Path, out: Path, fake: FakeClaude) -> Run:
    """Run these lines (values, or bytes as they are) and return the exit code."""

    def run_them(lines: Any, *more: str) -> int:
        path = tmp_path / "in.jsonl"
        if isinstance(lines, bytes):
            path.write_bytes(lines)
        else:
            prompts(path, lines)
        return main(["run", str(path), "-o", str(out), "--base-url", fake.url, *FAST, *more])

    return run_them


def test_every_kind_of_line_is_answered(run_lines: Run, out: Path, fake: FakeClaude) -> None:
    messages = [{"role": "user", "content": "three"}]
    code = run_lines(
        [
            "one",
            {"prompt": "two", "model": "other"},
            {"messages": messages, "custom_id": "c"},
            {"custom_id": "d", "params": {"messages": messages, "max_tokens": 3}},
        ]
    )
    assert code == 0
    found = by_id(out)
    assert sorted(map(text_of, found.values())) == ["one", "three", "three", "two"]
    assert text_of(found["c"]) == "three"
    assert {arrival.model for arrival in fake.arrivals} == {"m", "other"}


def test_a_line_may_name_betas_and_extra_fields_but_not_how_it_is_sent(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"prompt": "a", "betas": ["x-2026"], "extra_body": {"max_tokens": 3}},
        {"prompt": "b", "extra_query": {"to": "elsewhere"}},
        {"prompt": "c", "api_key": "sk-secret"},
        {"prompt": "d", "user_profile_id": "who pays"},
    ]
    assert run_lines(lines) == 1
    (arrival,) = fake.arrivals
    assert (arrival.headers["anthropic-beta"], arrival.query) == ("x-2026", "")
    told = capsys.readouterr().err
    assert "line 2: extra_query cannot be set in a line" in told
    assert "line 3: api_key= is no parameter of a call" in told
    assert "line 4: user_profile_id cannot be set in a line" in told
    assert "sk-secret" not in told + out.read_text()


def test_broken_lines_are_reported_and_the_rest_runs(
    run_lines: Run, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b'"one"\n{broken\n\n"caf\xe9"\n{"custom_id": "x", "prompt": 1}\n"two"\n'
    assert run_lines(lines) == 1
    said = capsys.readouterr()
    assert said.out == ""
    for number, word in ((2, "JSON"), (4, "UTF-8"), (5, "prompt")):
        assert f"line {number}: " in said.err
        assert word in said.err
    assert "2 answered, 3 not usable" in said.err
    kinds = [line["result"]["type"] for line in results(out)]
    assert sorted(kinds) == ["errored"] * 3 + ["succeeded"] * 2
    assert by_id(out)["x"]["error"]["error"]["type"] == "InvalidLine"


def test_a_request_that_could_only_be_refused_is_reported_by_its_line(
    run_lines: Run, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_lines([{"custom_id": "a", "messages": []}, "one"]) == 1
    assert "line 1: " in capsys.readouterr().err
    assert by_id(out)["a"]["error"]["error"]["type"] == "InvalidCall"


def test_a_second_run_with_nothing_to_do_sends_and_writes_nothing(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    lines = b'"one"\n{broken\n"two"\n'
    assert run_lines(lines) == 1
    before = out.read_bytes()
    assert run_lines(lines) == 1
    assert out.read_bytes() == before
    assert len(fake.arrivals) == 2


def test_what_errored_is_sent_again_and_the_newest_line_counts(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.script(Reply(400, message="no"))
    lines = [{"custom_id": "a", "prompt": "one"}, {"custom_id": "b", "prompt": "two"}]
    assert run_lines(lines, "--max-concurrency", "1") == 1
    assert "1 failed (invalid_request_error 1)" in capsys.readouterr().err
    (failed,) = [i for i, result in by_id(out).items() if result["type"] == "errored"]
    assert by_id(out)[failed]["error"]["error"]["message"] == "no"
    assert run_lines(lines) == 0
    assert len(fake.arrivals) == 3
    assert by_id(out)[failed]["type"] == "succeeded"


def test_a_torn_line_is_sent_again_on_a_fresh_line(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_lines(["one", "two"], "--max-concurrency", "1") == 0
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])
    assert run_lines(["one", "two"]) == 0
    assert "1 line of OUT cannot be read as a result" in capsys.readouterr().err
    assert len(fake.arrivals) == 3
    lines = out.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])
    assert json.loads(lines[2])


def test_a_second_line_with_the_same_id_is_refused_once(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    lines = [{"custom_id": "a", "prompt": "one"}, {"custom_id": "a", "prompt": "two"}]
    assert run_lines(lines) == 1
    assert run_lines(lines) == 1
    assert nonces(fake) == ["one"]
    assert text_of(by_id(out)["a"]) == "one"
    assert len(results(out)) == 2


def test_trouble_of_the_account_stops_the_run(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousand lines need not learn one by one that the key is bad."""
    fake.script(*[Reply(401, message="invalid x-api-key")] * 500)
    assert run_lines([str(n) for n in range(500)], "--rpm", "600", "--max-concurrency", "1") == 1
    said = capsys.readouterr().err
    assert "stopped: the API refuses this account" in said
    assert "Run the same command again" in said
    assert len(fake.arrivals) < 20
    assert len(results(out)) < 20


def test_refusals_of_a_firewall_fail_their_own_lines_only(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever status it takes, and several in a row."""
    fake.script(*[firewall_page(status) for status in (403, 403, 403, 401, 402, 404, 451)])
    lines = [str(n) for n in range(40)]
    assert run_lines(lines, "--rpm", "60000", "--max-concurrency", "1") == 1
    assert "33 answered, 7 failed" in capsys.readouterr().err
    assert len(results(out)) == len(fake.arrivals) == 40


def test_an_answer_that_is_no_answer_is_an_error_with_a_reason(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    fake.script(Garbage())
    assert run_lines([{"custom_id": "a", "prompt": "one"}], "--max-retries", "0") == 1
    assert by_id(out)["a"]["error"]["error"]["message"]


def test_a_full_disk_stops_the_run(
    run_lines: Run, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be kept must not be paid for."""
    lines = [str(n) for n in range(500)]
    assert run_lines(lines, "-o", "/dev/full", "--max-concurrency", "1") == 1
    assert "No space left" in capsys.readouterr().err
    assert len(fake.arrivals) < 50


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        wait_until(lambda: out.exists() and len(results(out)) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert run_lines([str(n) for n in range(500)], "--rpm", "1200") == 130
    assert "Run the same command again" in capsys.readouterr().err
    assert {line["result"]["type"] for line in results(out)} == {"succeeded"}
    assert 2 <= len(results(out)) < 500


def test_no_more_is_read_than_is_soon_sent(
    monkeypatch: pytest.MonkeyPatch, out: Path, fake: FakeClaude
) -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def readline(self, size: Any = -1) -> bytes:
            self.taken += 1
            return b'"hello"\n'

    endless = Endless()
    monkeypatch.setattr(run, "_source", lambda _: endless)

    def interrupt() -> None:
        wait_until(lambda: endless.taken > run.LOOK_AHEAD)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    code = main(
        ["run", "-", "-o", str(out), "--base-url", fake.url, *FAST, "--rpm", "30", "--quiet"]
    )
    assert code == 130
    assert endless.taken <= run.LOOK_AHEAD + 10


def test_it_can_be_tried_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    path = prompts(tmp_path / "in", ["one", "two"])
    assert main(["run", str(path), "--fake", *FAST, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 2


def test_thousands_of_broken_lines_do_not_flood_the_terminal(
    run_lines: Run, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_lines(b"{\n" * 1000) == 1
    assert len(capsys.readouterr().err.splitlines()) == lines.REPORTED_LINES + 2
    assert len(results(out)) == 1000


def test_lines_without_a_model_are_told_once_and_counted(
    tmp_path: Path, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """One argument mends them all; a line with a fault of its own still has its number."""
    path = prompts(tmp_path / "in", [*map(str, range(199)), {"prompt": 7}, "last"])
    assert main(["run", str(path), "-o", str(out), "--base-url", fake.url]) == 1
    first, own, more, counts = capsys.readouterr().err.splitlines()
    assert first.startswith("line 1: no model and no max_tokens; give them here or as --model")
    assert own.startswith("line 200: prompt must be")
    assert more == "199 more lines like line 1"
    assert "201 not usable" in counts
    assert len(results(out)) == 201


def test_failures_are_summed_up_by_what_the_first_of_a_kind_said(
    run_lines: Run, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one line each, and never with the key that a gateway quotes."""
    fake.script(*[Reply(400, message="no such\nthing for sk-ant-secret")] * 3)
    assert run_lines(["one", "two", "three"]) == 1
    counts, quoted = capsys.readouterr().err.splitlines()
    assert "3 failed (invalid_request_error 3)" in counts
    assert quoted == "invalid_request_error: no such thing for sk-…"


def test_a_server_that_was_never_there_is_one_reason(
    run_lines: Run,
    fake: FakeClaude,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The throttler would wait for it for ever; the lines are left to the next run."""
    monkeypatch.setattr(outage_watch, "GIVE_UP_SECONDS", 0.5)
    fake.stop()
    assert run_lines([str(n) for n in range(50)]) == 1
    outage, stopped, counts = capsys.readouterr().err.splitlines()
    assert outage.startswith("m: the server keeps failing (no connection)")
    assert f"stopped: {fake.url}: no answer (no connection) in " in stopped
    assert counts == "0 answered. Run the same command again to send the rest."


def test_quotas_are_learned_unless_they_are_told(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing told: it was 50 a minute once, and 30 calls took half a minute."""
    path = prompts(tmp_path / "in", [str(n) for n in range(30)])
    with FakeClaude(rpm=6000) as server:
        asked = ["run", str(path), "-o", str(out), "--base-url", server.url]
        assert main([*asked, "--model", "m", "--max-tokens", "5", "--tier", "start"]) == 0
        left = [arrival.at for arrival in server.arrivals]
    assert "6,000 rpm learned" in capsys.readouterr().err
    assert max(left) - min(left) < 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in", "--tier", "gold"], "tier must be one of"),
        (["in", "--burst", "some"], "--burst: must be a number"),
        (["in", "--burst", "0"], "--burst: must be a whole number from 1"),
        (["missing"], "cannot read missing"),
        (["."], "cannot read ."),
        (["in", "-o", "missing/out"], "cannot write"),
        (["in", "-o", "in"], "same file"),
        (["in", "--rpm", "0"], "--rpm: must be above 0"),
        (["in", "--itpm", "many"], "--itpm: must be a number"),
        (["in", "--otpm", "nan"], "--otpm: must be a number"),
        (["in", "--max-retries", "1.5"], "--max-retries: must be a whole number from 0"),
        (["in", "--fake", "--base-url", "http://127.0.0.1:1"], "not allowed with"),
        (["in", "--base-url", "http://example.com"], "http"),
        (["in", "--headroom", "1"], "--headroom: must be from 0 to less than 1"),
        (["in", "--no-such"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts(tmp_path / "in", ["one"])
    assert main(["run", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_a_key_it_does_not_begin(
    run_lines: Run, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert run_lines(["one"]) == 2
    said = capsys.readouterr().err
    assert "set ANTHROPIC_API_KEY" in said
    assert "--fake" in said
    assert "Throttler(" not in said
    assert out.read_bytes() == b""

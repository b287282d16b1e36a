"""``claude-throttle run --batch``: at half the price, and never paid for twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_throttle.cli.main import main
from claude_throttle.testing import FakeClaude, Reply, Reset
from tests.support.command import FAST, Start, by_id, prompts, results, text_of
from tests.support.waiting import wait_until

Run = Callable[..., int]

POLL = ("--poll-seconds", "0.05")


@pytest.fixture
def run_lines(tmp_path: Path, out: Path, fake: FakeClaude) -> Run:
    """Run these lines as batches and return the exit code."""

    def run_them(lines: Any, *more: str) -> int:
        path = prompts(tmp_path / "in.jsonl", lines)
        there = ["--base-url", fake.url, *FAST, *POLL, *more]
        return main(["run", "--batch", str(path), "-o", str(out), *there])

    return run_them


def noted(out: Path) -> list[dict[str, Any]]:
    path = out.with_name(out.name + ".batches")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def all_sent(fake: FakeClaude) -> list[str]:
    return sorted(name for batch in fake.batches.created for name in batch)


def test_lines_go_as_one_batch_and_results_come_in_their_order(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.batches.seconds = 0.2
    assert run_lines(["one", {"custom_id": "b", "prompt": "two"}, "three"]) == 0
    assert [text_of(line["result"]) for line in results(out)] == ["one", "two", "three"]
    assert results(out)[1]["custom_id"] == "b"
    assert [len(batch) for batch in fake.batches.created] == [3]
    assert fake.arrivals == []
    assert [sorted(line)[0] for line in noted(out)] == ["at", "created", "collected"]
    said = capsys.readouterr().err
    assert "3 requests in a batch, recorded in" in said
    assert said.endswith("3 answered\n")


def test_a_second_run_sends_only_what_did_not_succeed(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    lines = [{"custom_id": name, "prompt": name} for name in "abcd"]
    fake.batches.end({"b": "errored", "c": "expired"})
    assert run_lines(lines) == 1
    kinds = [line["result"]["type"] for line in results(out)]
    assert kinds == ["succeeded", "errored", "errored", "succeeded"]
    fake.batches.end({"b": "succeeded", "c": "succeeded"})
    assert run_lines(lines) == 0
    assert fake.batches.created[1] == ["b", "c"]
    assert {name: text_of(result) for name, result in by_id(out).items()} == dict(
        zip("abcd", "abcd")
    )
    before = out.read_bytes(), len(fake.batches.arrivals)
    assert run_lines(lines) == 0
    assert (out.read_bytes(), len(fake.batches.arrivals)) == before


def test_broken_lines_are_reported_and_the_rest_runs(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["one", 7, {"custom_id": "two words", "prompt": "x"}, {"prompt": "x", "max_tokens": 0}]
    assert run_lines(lines) == 1
    said = capsys.readouterr().err
    assert "line 2: neither a prompt" in said
    assert "line 3: custom_id must be 1 to 64" in said
    assert "line 4: max_tokens=" in said
    assert "1 answered, 3 not usable" in said
    assert len(all_sent(fake)) == 1
    assert run_lines(lines) == 1
    assert len(results(out)) == 4


def test_nothing_to_send_makes_no_batch_and_leaves_no_file(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    assert run_lines([]) == 0
    assert fake.batches.arrivals == []
    assert [path.name for path in out.parent.iterdir() if "batches" in path.name] == []


@pytest.mark.parametrize("output", [[], ["-o", "-"]])
def test_without_an_output_there_is_no_place_for_its_ids(
    tmp_path: Path, output: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = prompts(tmp_path / "in", ["one"])
    assert main(["run", "--batch", str(path), *output, "--fake", *FAST]) == 2
    assert "--batch needs -o OUT" in capsys.readouterr().err


def test_after_a_kill_the_next_run_waits_for_the_batch_instead_of_paying_again(
    tmp_path: Path,
    out: Path,
    start: Start,
    run_lines: Run,
    fake: FakeClaude,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.batches.seconds = 1.5
    texts = ["one", "two", "three"]
    path = prompts(tmp_path / "in", texts)
    process = start("run", "--batch", path, "-o", out, "--base-url", fake.url, *FAST, *POLL)
    wait_until(lambda: len(fake.batches.arrivals) > 2)
    process.kill()
    process.wait()
    assert out.read_bytes() == b""
    capsys.readouterr()
    assert run_lines([*texts, "four"]) == 0
    assert [len(batch) for batch in fake.batches.created] == [3, 1]
    said = capsys.readouterr().err
    assert "waiting for a batch of an earlier run: msgbatch_" in said
    assert said.endswith("4 answered\n")
    assert sorted(text_of(result) for result in by_id(out).values()) == sorted([*texts, "four"])


def test_results_of_which_a_kill_left_some_are_not_written_twice(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    """What errored in the earlier batch is sent again by the run that collects it."""
    fake.batches.end({"b": "errored"})
    lines = [{"custom_id": name, "prompt": name} for name in "abc"]
    assert run_lines(lines) == 1
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(whole[0] + whole[1][:20])
    notes = out.with_name(out.name + ".batches")
    notes.write_bytes(b"".join(notes.read_bytes().splitlines(keepends=True)[:-1]))
    fake.batches.end({"b": "succeeded"})
    assert run_lines(lines) == 0
    assert fake.batches.created == [["a", "b", "c"], ["b"]]
    kept = [line for line in out.read_bytes().splitlines() if line != whole[1][:20]]
    names = [json.loads(line)["custom_id"] for line in kept]
    assert sorted(names) == ["a", "b", "b", "c"]
    assert {result["type"] for result in by_id_of(kept).values()} == {"succeeded"}


def by_id_of(lines: list[bytes]) -> dict[str, Any]:
    found = [json.loads(line) for line in lines]
    return {line["custom_id"]: line["result"] for line in found}


@pytest.mark.parametrize("made", [True, False])
def test_a_batch_whose_id_was_never_heard_is_found_or_made(
    run_lines: Run, out: Path, fake: FakeClaude, made: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The connection is lost; what became of the batch, the next run finds out."""
    fake.batches.script(Reset(), carried_out=made)
    assert run_lines(["one", "two"]) == 1
    assert "not sent again, as it would be billed twice" in capsys.readouterr().err
    assert len(fake.batches.created) == made
    stranger = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    fake.batches._create_locked(_request(["x", "y"], stranger), 0.0)
    assert run_lines(["one", "two"]) == 0
    ours = [batch for batch in fake.batches.created if batch != ["x", "y"]]
    assert [len(batch) for batch in ours] == [2]
    assert sorted(text_of(line["result"]) for line in results(out)) == ["one", "two"]


def _request(names: list[str], params: dict[str, Any]) -> Any:
    from claude_throttle.testing.http_reader import HttpRequest

    body = {"requests": [{"custom_id": name, "params": params} for name in names]}
    path = "/v1/messages/batches"
    return HttpRequest("POST", path, {"x-api-key": "k"}, json.dumps(body).encode(), True)


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, out: Path, start: Start, fake: FakeClaude
) -> None:
    fake.batches.seconds = 3600
    path = prompts(tmp_path / "in", ["one"])
    process = start("run", "--batch", path, "-o", out, "--base-url", fake.url, *FAST, *POLL)
    wait_until(lambda: len(fake.batches.arrivals) > 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Batches continue at the API; run the same command again" in said
    assert b"Traceback" not in said


def test_trouble_of_the_account_stops_it(
    run_lines: Run, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.batches.script(Reply(401, message="invalid x-api-key sk-ant-secret"))
    assert run_lines(["one"]) == 1
    said = capsys.readouterr().err
    assert "stopped: invalid x-api-key sk-…" in said
    assert "Traceback" not in said
    assert run_lines(["one"]) == 0


def test_a_batch_that_is_gone_says_what_to_do(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.with_name(out.name + ".batches")
    path.write_text('{"created": "msgbatch_gone", "requests": "x"}\n{"collec')
    assert run_lines(["one"]) == 1
    said = capsys.readouterr().err
    assert "msgbatch_gone: not at the API any more" in said
    assert "may be paid for, so nothing more is sent" in said
    assert fake.batches.created == []
    path.unlink()
    assert run_lines(["one"]) == 0


def test_one_that_is_gone_does_not_cost_what_the_others_brought(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are collected before the run stops, so the journal may be removed."""
    path = out.with_name(out.name + ".batches")
    paid = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    fake.batches._create_locked(_request(["a", "b"], paid), 0.0)
    made = [*fake.batches._batches, "msgbatch_gone"]
    path.write_text("".join(json.dumps({"created": one, "requests": one}) + "\n" for one in made))
    assert run_lines(["one"]) == 1
    said = capsys.readouterr().err
    assert "msgbatch_gone: not at the API any more" in said
    assert "may be paid for, so nothing more is sent" in said
    assert sorted(line["custom_id"] for line in results(out)) == ["a", "b"]
    path.unlink()
    assert run_lines(["one"]) == 0


def test_a_full_disk_stops_it_and_tells_the_ids(
    run_lines: Run, fake: FakeClaude, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from claude_throttle.cli.batch_journal import Journal

    def full(self: Any, batch_id: str, digest: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "created", full)
    assert run_lines(["one"]) == 1
    assert "msgbatch_01" in capsys.readouterr().err
    assert len(fake.batches.created) == 1


def test_it_can_be_tried_without_a_key(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    path = prompts(tmp_path / "in", ["one", "two"])
    assert main(["run", "--batch", "--fake", str(path), "-o", str(out), *FAST, *POLL]) == 0
    assert sorted(text_of(line["result"]) for line in results(out)) == ["one", "two"]

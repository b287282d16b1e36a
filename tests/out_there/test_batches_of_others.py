"""A batch of another run, or of another request, never answers a line of this one."""

from __future__ import annotations

import json
import subprocess

import pytest

from claude_throttle.cli.main import main
from claude_throttle.testing import Reset
from tests.support.command import FAST, prompts, results

NAMED = [{"custom_id": name, "prompt": name} for name in "ab"]


@pytest.fixture
def run(fake, tmp_path, monkeypatch):
    """Run these lines with their own output and options; the server is ``run.server``."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    run_lines_server = fake()

    def run_lines(lines, out="out", *more):
        path = prompts(tmp_path / "in.jsonl", lines)
        there = ["--base-url", run_lines_server.url, *FAST, "--poll-seconds", "0.02", *more]
        return main(["run", "--batch", str(path), "-o", str(tmp_path / out), *there])

    run_lines.server = run_lines_server
    return run_lines


def models(path):
    return [row["result"]["message"]["model"] for row in results(path)]


@pytest.mark.parametrize("other_is_first", [True, False])
def test_the_same_lines_for_another_model_are_another_batch(run, tmp_path, other_is_first):
    """Two runs over one file, with two outputs; the creation of one was lost, and nothing made."""
    lines, fable = ["one", "two"], ("--model", "claude-fable-5")
    if other_is_first:
        assert run(lines, "other", *fable) == 0
    run.server.batches.script(Reset())
    assert run(lines) == 1
    if not other_is_first:
        assert run(lines, "other", *fable) == 0
    assert run(lines) == 0
    assert len(run.server.batches.created) == 2
    assert set(models(tmp_path / "other")) == {"claude-fable-5"}
    assert "claude-fable-5" not in models(tmp_path / "out")
    assert len(results(tmp_path / "out")) == 2


def test_with_names_of_the_callers_own_nothing_is_taken_and_nothing_is_paid(run, tmp_path, capsys):
    """Only its names could tell whose batch it is, and these are the same."""
    run.server.batches.script(Reset())
    assert run(NAMED) == 1
    assert run([{**line, "prompt": "other"} for line in NAMED], "other") == 0
    capsys.readouterr()
    assert run(NAMED) == 1
    said = capsys.readouterr().err
    assert "has the custom_ids of a batch that an earlier run may have created" in said
    assert len(run.server.batches.created) == 1
    assert results(tmp_path / "out") == []
    journal = tmp_path / "out.batches"
    digest = json.loads(journal.read_text().splitlines()[0])["requests"]
    with open(journal, "a") as lines:
        lines.write(json.dumps({"not created": True, "requests": digest}) + "\n")
    assert run(NAMED) == 0
    assert sorted(texts(tmp_path / "out")) == ["a", "b"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_who_must_decide_is_told_all_candidates_and_both_commands(run, tmp_path, capsys, is_ours):
    """Word for word: the command is run as it stands, and the next run acts on it."""
    run.server.batches.script(Reset())
    assert run(NAMED) == 1
    assert run(NAMED, "fable", "--model", "claude-fable-5") == 0
    assert run(NAMED, "haiku", "--model", "claude-haiku-4-5") == 0
    capsys.readouterr()
    assert run(NAMED) == 1
    said = capsys.readouterr().err
    assert "answered by claude-fable-5" in said
    assert "answered by claude-haiku-4-5" in said
    ours, none = (line for line in said.splitlines() if line.startswith("  echo "))
    subprocess.run(ours if is_ours else none, shell=True, check=True)
    assert run(NAMED) == 0
    assert len(run.server.batches.created) == (2 if is_ours else 3)
    assert sorted(texts(tmp_path / "out")) == ["a", "b"]


def texts(path):
    found = [row["result"]["message"]["content"][0]["text"] for row in results(path)]
    return [text.removeprefix("echo: ") for text in found]


def test_an_earlier_batch_answers_only_the_requests_it_was_sent_for(run, tmp_path):
    """The run was killed when its batch existed; meanwhile a line has another text."""
    assert run(NAMED) == 0
    journal = tmp_path / "out.batches"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    (tmp_path / "out").write_text("")
    assert run([NAMED[0], {**NAMED[1], "prompt": "changed"}]) == 0
    assert run.server.batches.created == [["a", "b"], ["b"]]
    newest = {row["custom_id"]: row for row in results(tmp_path / "out")}
    (tmp_path / "newest").write_text("".join(json.dumps(row) + "\n" for row in newest.values()))
    assert texts(tmp_path / "newest") == ["a", "changed"]


def test_lines_without_a_name_keep_their_own_in_the_output(run, tmp_path):
    assert run(["one"]) == 0
    ((sent,),) = run.server.batches.created
    (row,) = results(tmp_path / "out")
    assert sent.startswith(row["custom_id"] + "-")
    assert run(["one"]) == 0
    assert len(run.server.batches.created) == 1

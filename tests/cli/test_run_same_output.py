"""One OUT for several runs: only an answer to the same request counts, and none is paid twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_throttle.cli.main import main
from claude_throttle.testing import ClaudeApi, FakeClaude, Reply
from tests.support.command import by_id, nonces, prompts, results, text_of

Run = Callable[..., int]

#: The options of the first run.
FIRST = {"--rpm": "60000", "--model": "m", "--max-tokens": "5", "--system": "Be brief."}
LINES = [{"custom_id": "a", "prompt": "one"}, {"custom_id": "b", "prompt": "two"}]
OTHER = "OUT answers another request for it"


@pytest.fixture
def run_lines(tmp_path: Path, out: Path, fake: FakeClaude) -> Run:
    """Run these lines with the options of the first run, but for those that are given."""

    def run_them(lines: Any = LINES, *flags: str, **options: str) -> int:
        path = prompts(tmp_path / "in.jsonl", lines)
        given = {**FIRST, "--base-url": fake.url}
        given.update({"--" + name.replace("_", "-"): value for name, value in options.items()})
        words = [word for option in given.items() for word in option]
        return main(["run", str(path), "-o", str(out), *words, *flags])

    return run_them


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"system": "Be long."}, {"max_tokens": "6"}],
    ids=["model", "system", "max-tokens"],
)
def test_an_answer_to_another_request_does_not_count_and_that_is_said_once(
    changed: dict[str, str],
    run_lines: Run,
    out: Path,
    fake: FakeClaude,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_lines() == 0
    assert OTHER not in capsys.readouterr().err
    assert run_lines(**changed) == 0
    said = capsys.readouterr().err
    assert f"line 1: {OTHER}" in said
    assert "1 more line like line 1" in said
    assert "2 answered; " in said
    assert len(fake.arrivals) == 4
    assert run_lines(**changed) == 0
    assert "2 answered before" in capsys.readouterr().err
    assert len(fake.arrivals) == 4


@pytest.mark.parametrize(
    ("before", "after", "sent"),
    [
        ({"prompt": "one"}, {"prompt": "other"}, 2),
        ({"prompt": "one"}, {"prompt": "one", "temperature": 0.5}, 2),
        ({"prompt": "one"}, {"prompt": "one", "model": "x"}, 2),
        ({"prompt": "one", "model": "x"}, {"model": "x", "prompt": "one"}, 1),
        ({"prompt": "one"}, {"prompt": "one", "model": "m", "max_tokens": 5}, 1),
        ({"prompt": "one"}, {"messages": [{"role": "user", "content": "one"}]}, 1),
        ({"prompt": "one"}, {"prompt": "one", "stream": False}, 1),
    ],
    ids=[
        "other text is sent",
        "another field is sent",
        "a model of its own is sent",
        "order of fields is nothing",
        "default said or not is nothing",
        "prompt or messages is nothing",
        "stream false is nothing",
    ],
)
def test_a_line_is_sent_again_if_its_request_changed_and_only_then(
    before: dict[str, Any], after: dict[str, Any], sent: int, run_lines: Run, fake: FakeClaude
) -> None:
    assert run_lines([{"custom_id": "a", **before}]) == 0
    assert run_lines([{"custom_id": "a", **after}]) == 0
    assert len(fake.arrivals) == sent


def test_options_of_the_pace_do_not_change_a_request(run_lines: Run, fake: FakeClaude) -> None:
    assert run_lines() == 0
    assert run_lines(rpm="5000", timeout="100", max_concurrency="2", max_retries="1") == 0
    assert len(fake.arrivals) == 2


def test_rows_of_older_versions_count_for_any_request(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    assert run_lines() == 0
    rows = [{**row, "request_digest": None} for row in results(out)]
    for row, digest in zip(rows, (None, 7)):
        row["request_digest"] = digest
    del rows[0]["request_digest"]
    prompts(out, rows)
    assert run_lines(model="other") == 0
    assert len(fake.arrivals) == 2


def test_an_answer_that_was_paid_for_is_copied_to_the_end_and_not_paid_again(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest line of an id is what counts, for those who read OUT, too."""
    assert run_lines() == 0
    first = by_id(out)
    assert run_lines(model="other") == 0
    assert by_id(out) != first
    assert run_lines() == 0
    assert by_id(out) == first
    assert "2 answered before" in capsys.readouterr().err
    assert len(fake.arrivals) == 4
    whole = out.read_bytes()
    assert run_lines() == 0
    assert out.read_bytes() == whole


def test_a_wrong_model_by_mistake_costs_no_answer(
    run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    assert run_lines() == 0
    fake.script(*[Reply(404, message="model: x")] * 2)
    assert run_lines(model="x") == 1
    assert run_lines() == 0
    assert {text_of(result) for result in by_id(out).values()} == {"one", "two"}
    assert len(fake.arrivals) == 4


def test_an_answer_of_the_fake_is_none_and_never_replaces_one_of_the_api(
    tmp_path: Path, run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    path = prompts(tmp_path / "in.jsonl", LINES[:1])
    words = [word for option in FIRST.items() for word in option]
    try_out = ["run", str(path), "-o", str(out), *words, "--fake", "--quiet"]
    assert main(try_out) == 0
    assert main(try_out) == 0
    assert len(results(out)) == 1
    assert run_lines(LINES[:1]) == 0
    assert len(fake.arrivals) == 1
    assert main(try_out) == 0
    assert run_lines(LINES[:1]) == 0
    assert len(fake.arrivals) == 1
    assert len(results(out)) == 2


def test_a_line_that_lost_its_options_keeps_its_answer(
    tmp_path: Path, run_lines: Run, out: Path, fake: FakeClaude
) -> None:
    """Without --model no line can be sent; a good answer is not replaced by that error."""
    assert run_lines() == 0
    path = prompts(tmp_path / "in.jsonl", LINES)
    assert main(["run", str(path), "-o", str(out), "--base-url", fake.url]) == 0
    assert {result["type"] for result in by_id(out).values()} == {"succeeded"}


def test_torn_and_errored_rows_are_sent_again_and_duplicates_are_not(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.script(Reply(400, message="no"))
    lines = [*LINES, {"custom_id": "a", "prompt": "again"}]
    assert run_lines(lines, max_concurrency="1") == 1
    out.write_bytes(out.read_bytes() + b'{"custom_id": "b", "result": {"type": "succ')
    assert run_lines(lines) == 1
    assert "1 answered, 1 answered before, 1 not usable" in capsys.readouterr().err
    assert nonces(fake)[:2] == ["one", "two"]
    assert len(fake.arrivals) == 3


def test_a_batch_knows_which_request_it_answers(
    run_lines: Run, out: Path, fake: FakeClaude, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = {"poll_seconds": "0.02"}
    assert run_lines(LINES, "--batch", **batch) == 0
    assert run_lines(LINES, "--batch", model="other", **batch) == 0
    assert OTHER in capsys.readouterr().err
    assert len(fake.batches.created) == 2
    assert len(results(out)) == 4
    assert run_lines(model="other") == 0
    assert run_lines() == 0
    assert fake.arrivals == []


def test_the_system_text_of_the_command_is_for_lines_without_one(
    run_lines: Run,
) -> None:
    own = {"custom_id": "c", "prompt": "three", "system": "Rhyme."}
    with ClaudeApi() as api:
        assert run_lines([LINES[0], own], max_concurrency="1", base_url=api.url) == 0
        assert [body["system"] for body in api.asked] == ["Be brief.", "Rhyme."]

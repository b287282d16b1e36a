"""A batch that the API does not know: just created and looked at again, or gone and reported."""

from __future__ import annotations

import json
import logging

import anthropic
import pytest
import requests

from claude_throttle.cli.main import main
from claude_throttle.features.batches.upload import BatchBounds
from claude_throttle.testing import Garbage, Reply
from tests.support.batches import bounded, pairs, text_of
from tests.support.command import FAST, prompts, results

UNKNOWN = Reply(404, message="Message Batch msgbatch_1 not found")


@pytest.fixture
def server(fake):
    return fake()


def delete(server, *ids):
    for batch_id in ids:
        url = f"{server.url}/v1/messages/batches/{batch_id}"
        assert requests.delete(url, headers={"x-api-key": "k"}, timeout=10).status_code == 200


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("what", ["look", "results"])
def test_a_batch_just_created_may_be_unknown_for_a_moment(server, throttle, what, times):
    handle = throttle(server).batches.submit(pairs(2), raw=True, poll_seconds=0.02)
    if what == "results":
        while not handle.done():
            pass
    server.batches.script(*[UNKNOWN] * times)
    assert [result.kind for result in handle.results(20)] == ["succeeded"] * 2
    assert handle.gone == ()


def test_a_batch_just_created_is_looked_for_by_others_too(server, throttle):
    """Another process resumes it by its id."""
    batches = throttle(server).batches
    ids = batches.submit(pairs(2)).ids
    server.batches.script(UNKNOWN)
    assert len(batches.resume(ids, raw=True).result(20)) == 2


def test_a_new_batch_is_asked_for_until_it_is_a_minute_old(server, throttle, manual):
    server.batches.seconds = 3600.0
    throttler = throttle(server, clock=manual, max_retries=0)
    handle = throttler.batches.submit(pairs(1), raw=True, poll_seconds=20)
    server.batches.script(*[UNKNOWN] * 3)
    for _ in range(2):
        manual.advance(25.0)
        assert not handle.done()
    manual.advance(25.0)
    with pytest.raises(anthropic.NotFoundError):
        handle.done()


def test_a_deleted_batch_stops_no_other(server, throttle, caplog, manual):
    batches = bounded(throttle(server, clock=manual, max_retries=0), BatchBounds(requests=1))
    handle = batches.submit(pairs(3), raw=True)
    delete(server, handle.ids[1])
    manual.advance(61.0)
    with caplog.at_level(logging.WARNING, "claude_throttle"):
        found = handle.result(20)
    assert [result.kind for result in found] == ["succeeded", "missing", "succeeded"]
    assert isinstance(found[1].error, anthropic.NotFoundError)
    assert handle.gone == (handle.ids[1],)
    assert f"batch {handle.ids[1]} is gone" in caplog.text


@pytest.mark.parametrize("names", [None, ["r0", "r1", "r2"]])
def test_resumed_batches_bring_what_is_there(server, throttle, names):
    throttler = throttle(server, max_retries=0)
    made = bounded(throttler, BatchBounds(requests=1)).submit(pairs(3))
    delete(server, made.ids[0])
    handle = throttler.batches.resume(made.ids, custom_ids=names, raw=True)
    assert sorted(text_of(r) for r in handle.results(20) if r.message) == ["prompt 1", "prompt 2"]
    assert handle.gone == (made.ids[0],)


def test_if_all_are_gone_the_apis_refusal_is_raised(server, throttle):
    handle = throttle(server, max_retries=0).batches.resume(["msgbatch_a", "msgbatch_b"])
    for ask in (handle.result, handle.progress, handle.done):
        with pytest.raises(anthropic.NotFoundError):
            ask()


def test_a_404_of_a_middleman_says_nothing_of_a_batch(server, throttle):
    throttler = throttle(server, max_retries=0)
    ids = throttler.batches.submit(pairs(1)).ids
    handle = throttler.batches.resume(ids, raw=True, poll_seconds=0.02)
    server.batches.script(Garbage(b"<html>no such page</html>", 404))
    with pytest.raises(anthropic.NotFoundError):
        handle.result(20)
    assert handle.gone == ()
    assert len(handle.result(20)) == 1


# -- claude-throttle run --batch -------------------------------------------------------------------


@pytest.fixture
def run(server, tmp_path):
    def run_lines(*texts):
        path = prompts(tmp_path / "in.jsonl", texts)
        there = ["--base-url", server.url, *FAST, "--poll-seconds", "0.02", "--max-retries", "0"]
        return main(["run", "--batch", str(path), "-o", str(tmp_path / "out"), *there])

    return run_lines


def forget_answers(tmp_path):
    """As if the run had been killed as soon as its batches were created."""
    journal = tmp_path / "out.batches"
    kept = [line for line in journal.read_text().splitlines() if "collected" not in line]
    journal.write_text("\n".join(kept) + "\n")
    (tmp_path / "out").write_text("")
    return [json.loads(line)["created"] for line in kept if "created" in line]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")


def test_a_run_never_advises_to_pay_again_for_a_batch_that_is_gone(run, server, tmp_path, capsys):
    assert run("one") == 0
    assert run("one", "two") == 0
    first, _ = forget_answers(tmp_path)
    delete(server, first)
    capsys.readouterr()
    assert run("one", "two", "three") == 1
    said = capsys.readouterr().err
    assert f"{first}: not at the API any more" in said
    assert "may be paid for" in said
    assert "remove" not in said
    assert [text_of_row(row) for row in results(tmp_path / "out")] == ["two"]
    assert len(server.batches.created) == 1
    with open(tmp_path / "out.batches", "a") as journal:
        journal.write(json.dumps({"collected": first}) + "\n")  # given up, as the guide says
    assert run("one", "two", "three") == 0
    assert len(server.batches.created) == 2


def text_of_row(row):
    return row["result"]["message"]["content"][0]["text"].removeprefix("echo: ")


def test_a_run_sends_nothing_for_results_that_cannot_be_read_yet(run, server, tmp_path, capsys):
    assert run("one", "two") == 0
    (batch_id,) = forget_answers(tmp_path)
    server.batches.rewrite = lambda lines: [b"{\n", *lines[1:]]
    capsys.readouterr()
    assert run("one", "two") == 1
    assert f"{batch_id}: not all results can be read" in capsys.readouterr().err
    server.batches.rewrite = None
    assert run("one", "two") == 0
    assert len(server.batches.created) == 1

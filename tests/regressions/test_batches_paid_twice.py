"""Results that were paid for: whose they are, and what is done where they cannot be read."""

from __future__ import annotations

import logging

import pytest

from claude_throttle import BrokenAnswer
from claude_throttle.testing import Garbage, Reply
from tests.support.batches import asked, pairs, text_of


def finished(fake):
    """A server whose batches end at once."""
    server = fake()
    server.batches.seconds = 0.0
    return server


def test_two_batches_with_the_same_names_keep_their_own_results(fake, throttle):
    """Resumed together; the first one's were given for both."""
    server = finished(fake)
    batches = throttle(server).batches
    first, second = batches.submit(pairs(2)), batches.submit(pairs(3))
    found = batches.resume([*first.ids, *second.ids], raw=True).result(10)
    assert sorted(map(text_of, found)) == sorted(
        [f"prompt {n}" for n in range(2)] + [f"prompt {n}" for n in range(3)]
    )
    assert [result.kind for result in found] == ["succeeded"] * 5


def test_an_answer_that_is_no_results_is_asked_for_again(fake, throttle):
    """A page of a portal, say, in the API's place."""
    server = finished(fake)
    batches = throttle(server).batches
    handle = batches.resume(batches.submit(pairs(2)).ids, raw=True)
    assert handle.done()
    server.batches.script(Garbage(b"<html>sign in</html>", 200))
    assert [result.kind for result in handle.result(10)] == ["succeeded"] * 2


@pytest.mark.parametrize("page", [b"<html>sign in</html>", b""], ids=["a page", "nothing"])
def test_results_that_cannot_be_read_are_not_missing(fake, throttle, page):
    """They are there, and paid for: who takes them for missing would pay again."""
    server = finished(fake)
    batches = throttle(server).batches
    handle = batches.submit(pairs(2), raw=True)
    assert handle.done() or handle.progress()
    server.batches.rewrite = lambda lines: [page]
    with pytest.raises(BrokenAnswer, match="none of a batch's 2 results can be read"):
        handle.result(10)
    server.batches.rewrite = None
    assert len(handle.result(10)) == 2


def test_a_line_that_stays_broken_is_told(fake, throttle, caplog):
    """Asked for twice, then missing."""
    server = finished(fake)
    server.batches.rewrite = lambda lines: [b"{\n", *lines[1:]]
    with caplog.at_level(logging.WARNING, "claude_throttle"):
        kinds = {r.kind for r in throttle(server).batches.submit(pairs(3), raw=True).result(20)}
    assert kinds == {"succeeded", "missing"}
    assert asked(server).count(("GET", "results")) == 2
    assert "1 results are missing, 1 lines are no results" in caplog.text


def test_a_cancel_that_is_refused_does_not_keep_the_others(fake, throttle):
    """Each is tried; the first refusal is told in the end."""
    server = fake()
    server.batches.seconds = 3600.0
    batches = throttle(server, max_retries=0).batches
    ids = [batches.submit(pairs(1, name)).ids[0] for name in "ab"]
    handle = batches.resume(ids)
    server.batches.script(Reply(400, {"x-should-retry": "false"}))
    with pytest.raises(Exception, match="400"):
        handle.cancel()
    assert [state.ended for state in batches.recent()] == [True, False] or asked(server).count(
        ("POST", "cancel")
    ) == 2

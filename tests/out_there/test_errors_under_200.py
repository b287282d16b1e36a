"""A gateway that answers 200 with an error: its words reach the caller, and no answer is quoted."""

from __future__ import annotations

import json
import pickle

import pytest

from claude_throttle import BrokenAnswer
from claude_throttle.features.batches.wire_format import read_list, read_state
from claude_throttle.testing import Garbage
from claude_throttle.transport.verdicts import LONGEST_MESSAGE, read_message
from tests.support.calls import ask

WORDS = "No deployments available for selected model"

TOLD = [
    {"error": {"message": WORDS, "code": "429"}},
    {"error": WORDS},
    {"error": {"error": {"message": WORDS}}},
    {"type": "error", "error": {"type": "overloaded_error", "message": WORDS}},
    {"detail": WORDS},
    {"detail": [{"loc": ["body"], "msg": WORDS, "input": "the prompt"}]},
    {"success": False, "errors": [{"code": 1015, "message": WORDS}]},
    {"message": WORDS, "status": 503},
    {"type": "about:blank", "title": WORDS, "status": 429},
    [{"error": {"message": WORDS}}],
    json.dumps({"error": {"message": WORDS}}),
]


def _refused(body: bytes) -> str:
    with pytest.raises(BrokenAnswer, match="may be billed") as caught:
        read_message(body, None)
    return str(caught.value)


@pytest.mark.parametrize("answer", TOLD)
def test_the_words_of_an_error_under_200_are_in_the_exception(answer):
    """Whichever field they stand in; what was sent, quoted beside them, is not."""
    text = _refused(json.dumps(answer).encode())
    assert WORDS in text
    assert "the prompt" not in text


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>" + WORDS.encode() + b"</title></head><body>secret</body></html>",
        WORDS.encode() + b" (upstream error)",
        b'event: error\ndata: {"error": {"message": "' + WORDS.encode() + b'"}}\n\n',
    ],
)
def test_an_error_that_is_no_json_is_quoted_too(body):
    """A page by its title, a notice as it is, a stream that nobody asked for by its error."""
    text = _refused(body)
    assert WORDS in text
    assert "secret" not in text


def test_an_error_without_words_is_called_by_its_codes():
    """So that its reader can look it up."""
    assert "429 RESOURCE_EXHAUSTED" in _refused(
        b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "input": {"x": "the prompt"}}}'
    )


ANSWERS = [
    b'{"type": "message", "content": [{"type": "text", "text": "an error occurred',
    b'{"choices": [{"message": {"role": "assistant", "content": "an error occurred"}}]}',
    b'{"type": "message", "content": "an error occurred"}',
    b'{"type": "completion", "completion": "an error occurred"}',
    b'["an error occurred"]',
    b'data: {"type": "content_block_delta", "delta": {"text": "an error occurred"}}\n\n',
    b"an error occurred: " + b"and a long answer went on " * 30,
]


@pytest.mark.parametrize("body", ANSWERS)
def test_what_may_be_an_answer_is_not_quoted(body):
    """Answers stay out of exceptions, which end up in logs."""
    assert "occurred" not in _refused(body)


def test_foreign_words_are_short_and_hold_no_key_and_no_control_characters():
    """A terminal obeys them, and a log keeps them."""
    said = "Received API Key = sk-ant-api03-abc\x1b[31m" + "x" * 5000
    text = _refused(json.dumps({"error": {"message": said}}).encode())
    assert "sk-ant-api03" not in text
    assert "\x1b" not in text
    assert len(text) < LONGEST_MESSAGE + 300


@pytest.mark.parametrize("read", [read_state, lambda value: read_list(json.dumps(value).encode())])
def test_a_batch_that_is_an_error_is_told_with_its_words(read):
    """Batches are asked for at the same gateway."""
    with pytest.raises(BrokenAnswer, match=WORDS):
        read({"error": {"message": WORDS}})


def test_a_call_raises_the_words_of_the_gateway_once(fake, throttle):
    """Sent once, since it may be billed; the exception pickles."""
    server = fake()
    body = json.dumps({"error": {"message": WORDS}}).encode()
    server.script(Garbage(body, headers={"content-type": "application/json"}))
    throttler = throttle(server)
    with pytest.raises(BrokenAnswer, match=WORDS) as caught:
        throttler.call(**ask())
    assert len(server.arrivals) == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

"""Answers as server-sent events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import FakeClaude, Ok
from claude_throttle.testing.replies import block_events
from tests.support.fake_http import ask, events

TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}}
OTHER = {"type": "redacted", "data": "x"}


@pytest.fixture(scope="module")
def server():
    with FakeClaude(itpm=100_000, output_tokens=33) as running:
        yield running


def test_a_stream_has_the_documented_order(server):
    """From message_start to message_stop, with a ping between."""
    answer = ask(server, "tell me", stream=True)
    names = [name for name, _ in events(answer.text)]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert len(names[3:-3]) > 2
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in events(answer.text))


def test_a_stream_tells_usage_twice(server):
    """Input at the start, all of the output at the end; limits in the headers."""
    answer = ask(server, "tell me", stream=True)
    pairs = dict(events(answer.text))
    start = pairs["message_start"]["message"]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"]["input_tokens"] == 2
    assert start["usage"]["output_tokens"] == 1
    assert pairs["message_delta"]["usage"] == {"output_tokens": 33}
    assert pairs["message_delta"]["delta"]["stop_reason"] == "end_turn"
    assert answer.headers["anthropic-ratelimit-input-tokens-limit"] == "100000"


def test_a_streamed_tool_use_comes_as_pieces_of_json(server):
    """The block starts empty."""
    server.script(Ok("look", extra_content_blocks=(TOOL, OTHER)))
    pairs = events(ask(server, stream=True).text)
    starts = [data["content_block"] for name, data in pairs if name == "content_block_start"]
    deltas = [data["delta"] for name, data in pairs if name == "content_block_delta"]
    assert starts == [{"type": "text", "text": ""}, {**TOOL, "input": {}}, OTHER]
    parts = [delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta"]
    assert "".join(parts) == '{"city":"Zürich"}'
    assert len(parts) > 1


@given(st.text(max_size=60))
def test_the_pieces_make_the_text(text):
    """No character is lost or added, and none comes empty."""
    found = list(block_events({"content": [{"type": "text", "text": text}]}))
    pieces = [event["delta"]["text"] for event in found if "delta" in event]
    assert "".join(pieces) == text
    assert all(pieces)


def test_a_stream_takes_its_latency():
    """Spread over the events: the head comes early, the end at the end."""
    with FakeClaude(latency=0.3) as server:
        asked_at = SYSTEM_CLOCK.monotonic()
        answer = ask(server, stream=True)
        took = SYSTEM_CLOCK.monotonic() - asked_at
    assert took >= 0.29
    assert answer.elapsed.total_seconds() < took - 0.1


def test_a_refused_stream_is_a_plain_error():
    """Before 200 there is no stream."""
    with FakeClaude(rpm=1) as server:
        ask(server)
        answer = ask(server, stream=True)
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"

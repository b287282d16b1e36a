"""A message put together from events: as the SDK itself does it."""

from __future__ import annotations

import pytest

from claude_throttle.core.domain.cost import Usage
from claude_throttle.features.streaming.accumulator import MessageAccumulator
from claude_throttle.testing import replies
from claude_throttle.transport import sdk
from tests.support import sdk_releases

CITATION = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": "t",
    "start_char_index": 0,
    "end_char_index": 1,
}
BLOCKS = [
    {"type": "thinking", "thinking": "Let me see: ünd", "signature": "c2lnbmF0dXJl"},
    {"type": "text", "text": "Grüße \u2028 und so weiter", "citations": [CITATION, CITATION]},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"city": "Zürich", "n": [1, 2.5]}},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
    {"type": "redacted_thinking", "data": "abc"},
    {"type": "text", "text": ""},
]
START = {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 4}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "tool_use", "stop_sequence": None},
    "usage": {"output_tokens": 77, "input_tokens": None},
}


def events_of(blocks, usage=START):
    """As the API would send such a message."""
    message = replies.message_body("msg_1", "claude-x", blocks, "tool_use", usage)
    opening, *_ = replies.opening_events(message)
    opening["message"]["usage"] = dict(usage)
    return [opening, *replies.block_events(message), DELTA, {"type": "message_stop"}]


def accumulated(events):
    ours = MessageAccumulator()
    for event in events:
        ours.add_event(event)
    return ours


def shown(message):
    """Without what only the SDK's parsing adds, and pieces of JSON it kept."""
    return message.to_dict(mode="json", exclude_none=True)


@pytest.mark.parametrize("blocks", [BLOCKS, [], *([block] for block in BLOCKS)])
def test_it_is_what_the_sdk_makes_of_the_same_events(blocks):
    """Text, thinking, signatures, tool input, citations, usage; what is sent, on any release."""
    events = events_of(blocks)
    ours = sdk.build_message(accumulated(events).snapshot(), "req_1")
    assert sdk.message_fields(ours)["content"] == blocks
    if sdk_releases.ACCUMULATORS:
        theirs = sdk_releases.accumulated(events)
        assert shown(ours) == shown(theirs)
        assert [type(block).__name__ for block in ours.content] == [
            type(block).__name__.replace("Parsed", "").partition("[")[0] for block in theirs.content
        ]


def test_usage_is_a_total_and_what_is_left_out_stays():
    """message_delta overwrites; None and missing say nothing."""
    ours = accumulated(events_of(BLOCKS))
    assert ours.usage() == Usage(9, 77, 0, 4)
    assert (ours.counted, ours.complete) == (True, True)


def test_a_snapshot_in_the_midst_is_a_copy():
    """And changes nothing."""
    events = events_of([BLOCKS[1]])
    ours = MessageAccumulator()
    seen = []
    for event in events:
        ours.add_event(event)
        seen.append(ours.snapshot()["content"])
    texts = [content[0]["text"] for content in seen if content]
    assert texts == sorted(texts, key=len)
    assert len(set(texts)) > 3
    assert texts[-1] == BLOCKS[1]["text"] == ours.text()


def test_unknown_events_and_deltas_change_nothing():
    """New ones may come, says the documentation."""
    events = events_of([BLOCKS[1]])
    expected = accumulated(events).snapshot()
    events.insert(0, {"type": "before_all"})
    events.insert(3, {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta"}})
    events.insert(3, {"type": "weather", "index": 99})
    assert accumulated(events).snapshot() == expected


OPENING, BEGUN, *_ = events_of([BLOCKS[2]])


@pytest.mark.parametrize(
    "events",
    [
        [BEGUN],
        [{"type": "message_stop"}],
        [OPENING, OPENING],
        [{"type": "message_start"}],
        [{"type": "message_start", "message": {"content": "no list"}}],
        [OPENING, {"type": "content_block_start"}],
        [OPENING, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}],
        [OPENING, BEGUN, {"type": "content_block_delta", "index": 0}],
        [OPENING, BEGUN, {"type": "content_block_delta", "index": "0", "delta": {}}],
        [
            OPENING,
            BEGUN,
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 1}},
        ],
        [OPENING, {"type": "message_delta", "delta": None}],
    ],
)
def test_events_in_no_possible_order_are_refused(events):
    """With a word that quotes nothing of them."""
    with pytest.raises(ValueError, match="message_st|content_block|message_delta"):
        accumulated(events)


CUT = {'{"city": "Zür': {}, '{"a": [1, {"b"': {"a": [1, {}]}, "{": {}, '{"a": 1': {"a": 1}}


@pytest.mark.parametrize("written", [*CUT, "nonsense"])
def test_input_of_a_tool_that_was_cut_by_max_tokens(written):
    """As the SDK reads it; of what is no JSON at all, nothing."""
    piece = {"type": "input_json_delta", "partial_json": written}
    delta = {"type": "content_block_delta", "index": 0, "delta": piece}
    ours = accumulated([OPENING, BEGUN, delta, {"type": "content_block_stop", "index": 0}])
    (block,) = ours.snapshot()["content"]
    assert block["input"] == CUT.get(written, {})
    if sdk_releases.ACCUMULATORS and written in CUT:
        (theirs,) = sdk_releases.accumulated([OPENING, BEGUN, delta]).content
        assert block["input"] == theirs.input

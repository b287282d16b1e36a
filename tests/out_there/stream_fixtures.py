"""Streams as servers send them, and the message that each one is. One line per kind.

The shapes are those of public bug reports on gateways, relays and local servers that speak the
Messages API (2025 and 2026), and of the API's own newer features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

MODEL = "claude-sonnet-5"
#: What keeps every part: our accumulator always, these of the SDK's (2.14) where they are named;
#: BOTH in its older releases, too.
BOTH, BOTH_NOW, BETA, NONE = ("stable", "beta", "older"), ("stable", "beta"), ("beta",), ()


class StreamFixture(NamedTuple):
    """Events, and the message they add up to."""

    rule: str
    events: list[dict[str, Any]]
    #: Its blocks.
    content: list[dict[str, Any]]
    #: Other fields of the message.
    fields: dict[str, Any]
    kept_by: tuple[str, ...]


def begin(index, kind, **fields):
    """``content_block_start``."""
    block = {"type": kind, **fields}
    return {"type": "content_block_start", "index": index, "content_block": block}


def add(index, kind, **fields):
    """``content_block_delta``."""
    delta = {"type": kind, **fields}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def end(index):
    """``content_block_stop``."""
    return {"type": "content_block_stop", "index": index}


def text(index, *pieces):
    """A whole text block."""
    pieces = [add(index, "text_delta", text=piece) for piece in pieces]
    return [begin(index, "text", text=""), *pieces, end(index)]


def finish(usage=None, **more):
    """``message_delta``."""
    delta = {"stop_reason": "end_turn", "stop_sequence": None, **more.pop("delta", {})}
    return {"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 9}, **more}


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
STOP = {"type": "message_stop"}
THOUGHT = {"thinking": "", "signature": ""}
TOOL = {"id": "toolu_1", "name": "look", "input": {}}
TO = "claude-opus-5"
HOP = {"from": {"model": MODEL}, "to": {"model": TO}, "trigger": {"type": "refusal"}}
EDITS = {"applied_edits": [{"type": "clear_thinking", "cleared_input_tokens": 7}]}
PLACE = {"id": "container_1", "expires_at": "2026-12-01T00:00:00Z", "skills": None}
WHY = {"type": "refusal", "category": "cyber", "explanation": None}
CITED = {"type": "page_location", "cited_text": "x", "document_index": 0, "document_title": "t"}
CITED = {**CITED, "start_page_number": 1, "end_page_number": 2, "file_id": None}
HI = {"type": "text", "text": "Hi"}
HMM = {"type": "thinking", "thinking": "Hmm", "signature": "c2ln"}


def _of(rule, events, content, kept_by=NONE, last=None, **fields):
    fields = {"model": MODEL, "stop_reason": "end_turn", **fields}
    whole = [START, *events, finish() if last is None else last, STOP]
    return StreamFixture(rule.replace(" ", "_"), whole, content, fields, kept_by)


_THINK = [begin(0, "thinking", **THOUGHT), add(0, "thinking_delta", thinking="Hmm")]
_SIGN = [add(0, "signature_delta", signature="c2ln"), end(0)]

FIXTURES = [
    # what the API sends
    _of("text comes in pieces", text(0, "H", "i"), [HI], BOTH),
    _of("thinking is signed", [*_THINK, *_SIGN, *text(1, "Hi")], [HMM, HI], BOTH),
    _of("a message may be empty", [], [], BOTH),
    _of(
        "the input of a tool is JSON in pieces",
        [
            begin(0, "tool_use", **TOOL),
            add(0, "input_json_delta", partial_json='{"a"'),
            add(0, "input_json_delta", partial_json=": 1}"),
            end(0),
        ],
        [{"type": "tool_use", **TOOL, "input": {"a": 1}}],
        BOTH,
    ),
    _of(
        "the input of an MCP tool, too",
        [
            begin(0, "mcp_tool_use", **TOOL, server_name="s"),
            end(0),
            add(0, "input_json_delta", partial_json='{"a": [1]}'),
        ],
        [{"type": "mcp_tool_use", **TOOL, "server_name": "s", "input": {"a": [1]}}],
        BETA,
    ),
    _of(
        "a compaction comes as one delta",
        [
            begin(0, "compaction", content=None),
            add(0, "compaction_delta", content="So far.", encrypted_content="x1"),
            end(0),
            *text(1, "Hi"),
        ],
        [{"type": "compaction", "content": "So far.", "encrypted_content": "x1"}, HI],
        BETA,
    ),
    _of(
        "a compaction may have failed",
        [
            begin(0, "compaction", content=None),
            add(0, "compaction_delta", content=None),
            end(0),
            *text(1, "Hi"),
        ],
        [{"type": "compaction", "content": None}, HI],
        BETA,
    ),
    _of(
        "a fallback names the model that went on",
        [*text(0, "H"), begin(1, "fallback", **HOP), end(1), *text(2, "i")],
        [{"type": "text", "text": "H"}, {"type": "fallback", **HOP}, {"type": "text", "text": "i"}],
        BETA,
        model=TO,
    ),
    _of(
        "context management comes at the end",
        text(0, "Hi"),
        [HI],
        BETA,
        finish(context_management=EDITS),
        context_management=EDITS,
    ),
    _of(
        "container and stop details come at the end",
        text(0, "Hi"),
        [HI],
        BOTH_NOW,
        finish(delta={"container": PLACE, "stop_details": WHY, "stop_reason": "refusal"}),
        container=PLACE,
        stop_details=WHY,
        stop_reason="refusal",
    ),
    _of(
        "a citation joins those of its block",
        [
            begin(0, "text", text="", citations=None),
            add(0, "text_delta", text="Hi"),
            add(0, "citations_delta", citation=CITED),
            add(0, "citations_delta", citation=CITED),
            end(0),
        ],
        [{**HI, "citations": [CITED, CITED]}],
        BOTH,
    ),
    _of(
        "a count for a display is no part of the block",
        [_THINK[0], add(0, "thinking_delta", thinking="Hmm", estimated_tokens=50), *_SIGN],
        [HMM],
        BOTH,
    ),
    # null, and what is left out
    _of(
        "a thinking delta without thinking adds nothing",
        [*_THINK, add(0, "thinking_delta", estimated_tokens=50), *_SIGN],
        [HMM],
    ),
    _of(
        "a thinking delta of null adds nothing",
        [*_THINK, add(0, "thinking_delta", thinking=None), *_SIGN],
        [HMM],
    ),
    _of(
        "a block that begins with null is filled",
        [begin(0, "text", text=None), add(0, "text_delta", text="Hi"), end(0)],
        [HI],
    ),
    _of(
        "a text delta of null adds nothing",
        [begin(0, "text", text="Hi"), add(0, "text_delta", text=None), end(0)],
        [HI],
    ),
    _of(
        "a signature of null takes none away",
        [*_THINK, *_SIGN, add(0, "signature_delta", signature=None)],
        [HMM],
    ),
    _of(
        "tool input of null adds nothing",
        [begin(0, "tool_use", **TOOL), add(0, "input_json_delta", partial_json=None), end(0)],
        [{"type": "tool_use", **TOOL}],
    ),
    _of(
        "an empty tool input before the whole one adds nothing",
        [
            begin(0, "tool_use", **TOOL),
            add(0, "input_json_delta", partial_json="{}"),
            add(0, "input_json_delta", partial_json='{"a": 1}'),
            end(0),
        ],
        [{"type": "tool_use", **TOOL, "input": {"a": 1}}],
    ),
    _of(
        "a compaction delta of null takes nothing away",
        [
            begin(0, "compaction", content="So"),
            add(0, "compaction_delta", content=" far."),
            add(0, "compaction_delta", content=None, encrypted_content="x"),
            end(0),
        ],
        [{"type": "compaction", "content": "So far.", "encrypted_content": "x"}],
    ),
    _of(
        "a delta of null adds nothing",
        [*text(0, "Hi"), {"type": "content_block_delta", "index": 0, "delta": None}],
        [HI],
    ),
    _of(
        "a message that begins without content is filled",
        text(0, "Hi"),
        [HI],
        last=finish(delta={"container": None}),
        container=None,
    ),
    _of(
        "a later end without a reason takes none away",
        [*text(0, "Hi"), finish(delta={"stop_reason": "max_tokens"})],
        [HI],
        last=finish({"output_tokens": 9}, delta={"stop_reason": None}),
        stop_reason="max_tokens",
    ),
    _of(
        "an end may bring only counts",
        [*text(0, "Hi"), finish()],
        [HI],
        last={"type": "message_delta", "usage": {"output_tokens": 9}},
    ),
    # new names
    _of(
        "of an unknown delta texts are appended lists extended the rest replaced",
        [
            begin(0, "audio", data="a", marks=[1], rate=1),
            add(0, "audio_delta", data="b", marks=[2], rate=2, x={"y": 1}),
            add(0, "audio_delta", data="c", marks=None, x={"z": 2}),
            end(0),
        ],
        [{"type": "audio", "data": "abc", "marks": [1, 2], "rate": 2, "x": {"z": 2}}],
    ),
    _of(
        "an unknown delta of a known block is kept",
        [*text(0, "Hi"), add(0, "language_delta", language="d"), add(0, "language_delta", score=1)],
        [{**HI, "language": "d", "score": 1}],
    ),
    _of(
        "an unknown block takes known deltas",
        [
            begin(0, "connector_text", text=""),
            add(0, "text_delta", text="Hi"),
            add(0, "signature_delta", signature="c2ln"),
            end(0),
        ],
        [{"type": "connector_text", "text": "Hi", "signature": "c2ln"}],
    ),
    _of("an unknown event changes nothing", [{"type": "news", "index": 7}, *text(0, "Hi")], [HI]),
    _of(
        "a delta without a type is kept",
        [begin(0, "text", text="H"), {**add(0, "x"), "delta": {"text": "i"}}, end(0)],
        [HI],
    ),
    _of(
        "unknown fields at the end are kept",
        text(0, "Hi"),
        [HI],
        last=finish(delta={"mood": "good"}, weather="fine", input_transformations=[]),
        mood="good",
        weather="fine",
        input_transformations=[],
    ),
    # indices
    _of("indices may have gaps", [*_THINK, *_SIGN, *text(2, "Hi")], [HMM, HI]),
    _of("indices may begin at one", text(1, "H", "i"), [HI]),
    _of(
        "blocks begun out of order stand by their index",
        [
            begin(1, "text", text=""),
            _THINK[0],
            add(1, "text_delta", text="Hi"),
            *_THINK[1:],
            *_SIGN,
            end(1),
        ],
        [HMM, HI],
    ),
    _of(
        "blocks sent out of order stand by their index",
        [*text(1, "Hi"), *_THINK, *_SIGN],
        [HMM, HI],
    ),
    _of(
        "blocks may be written in turns",
        [
            begin(0, "text", text=""),
            begin(1, "tool_use", **TOOL),
            add(1, "input_json_delta", partial_json='{"a":'),
            add(0, "text_delta", text="H"),
            add(1, "input_json_delta", partial_json="1}"),
            add(0, "text_delta", text="i"),
            end(1),
            end(0),
        ],
        [HI, {"type": "tool_use", **TOOL, "input": {"a": 1}}],
        BOTH,
    ),
    _of(
        "a second block may use the index of the first",
        [
            *text(0, "Hi"),
            begin(0, "tool_use", **TOOL),
            add(0, "input_json_delta", partial_json='{"a":1}'),
            end(0),
        ],
        [HI, {"type": "tool_use", **TOOL, "input": {"a": 1}}],
    ),
    _of(
        "two texts may have one index",
        [*text(0, "H"), *text(0, "i")],
        [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
    ),
    _of("a beginning sent twice is one", [begin(0, "text", text=""), *text(0, "Hi")], [HI]),
    _of(
        "a text whose beginning is left out is one",
        [add(0, "text_delta", text="H"), add(0, "text_delta", text="i"), end(0)],
        [HI],
    ),
    _of("so is thinking", [*_THINK[1:], *_SIGN], [HMM]),
    _of(
        "so is a compaction",
        [add(0, "compaction_delta", content="So far."), end(0), *text(1, "Hi")],
        [{"type": "compaction", "content": "So far."}, HI],
    ),
    _of(
        "so is a block of an unknown type",
        [add(0, "audio_delta", data="a"), add(0, "audio_delta", data="b")],
        [{"type": "audio", "data": "ab"}],
    ),
    _of("an end of a block that never began says nothing", [end(5), *text(0, "Hi")], [HI]),
    _of(
        "a text numbered as thinking is text",
        [*_THINK, *_SIGN, begin(1, "text", text=""), add(0, "text_delta", text="Hi"), end(1)],
        [HMM, HI],
    ),
    _of(
        "a text within thinking is a block of its own",
        [*_THINK, add(0, "text_delta", text="H"), add(0, "text_delta", text="i"), *_SIGN],
        [HMM, HI],
    ),
    _of(
        "events without an index are about the last block",
        [begin(None, "text", text=""), add(None, "text_delta", text="Hi"), end(None)],
        [HI],
    ),
    _of(
        "a block may go on after its end",
        [
            begin(0, "tool_use", **TOOL),
            add(0, "input_json_delta", partial_json='{"a":'),
            end(0),
            add(0, "input_json_delta", partial_json="1}"),
            end(0),
        ],
        [{"type": "tool_use", **TOOL, "input": {"a": 1}}],
        BOTH,
    ),
    _of(
        "a whole block at the beginning is whole",
        [begin(0, "text", text="Hi"), end(0), begin(1, "redacted_thinking", data="x"), end(1)],
        [HI, {"type": "redacted_thinking", "data": "x"}],
        BOTH,
    ),
]

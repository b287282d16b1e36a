"""Input tokens of a request, by what it holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.estimation.estimator import (
    BYTES_PER_TOKEN,
    MESSAGE_TOKENS,
    estimate_input_tokens,
)
from claude_throttle.core.estimation.media import PAGE_CHARACTERS, PAGE_TOKENS, UNSEEN_IMAGE_TOKENS

TOOL = {"name": "weather", "description": "d" * 300, "input_schema": {"type": "object"}}


def params(content, **more):
    return {"messages": [{"role": "user", "content": content}], **more}


def guess(content, **more):
    """Without the framing of its one message."""
    return estimate_input_tokens(params(content, **more)) - MESSAGE_TOKENS


def of_text(text):
    return pytest.approx(len(text.encode()) / BYTES_PER_TOKEN)


@given(st.text(max_size=50), st.text(min_size=1, max_size=50))
def test_more_text_is_never_guessed_to_be_less(text, more):
    """And nothing costs less than one token."""
    assert 1.0 <= estimate_input_tokens(params(text)) < estimate_input_tokens(params(text + more))


def test_text_counts_by_its_bytes():
    """A Chinese character is nearly a token, a Cyrillic one half, an English letter a quarter."""
    assert guess("a" * 360) == pytest.approx(100.0)
    assert guess("世" * 120) == pytest.approx(100.0)
    assert guess("ж" * 180) == pytest.approx(100.0)
    assert guess("\ud800") > 0  # half a surrogate pair is refused elsewhere; no crash here


def test_messages_add_up():
    """Each has its own framing."""
    one = {"role": "user", "content": "a" * 36}
    assert estimate_input_tokens({"messages": [one] * 3}) == pytest.approx(
        3 * (10 + MESSAGE_TOKENS)
    )


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a" * 360, "cache_control": {"type": "ephemeral"}},
        {"type": "thinking", "thinking": "a" * 360, "signature": "s" * 9000},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a" * 360, "is_error": False},
        {"type": "tool_result", "content": [{"type": "text", "text": "a" * 360}]},
        {"type": "search_result", "title": "a" * 60, "source": "b" * 300},
        {"type": "document", "source": {"type": "text", "data": "a" * 360}},
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "a" * 360}]},
        },
    ],
    ids=lambda block: block["type"],
)
def test_blocks_count_what_the_model_reads(block):
    """Not their types, ids, signatures and cache marks."""
    assert guess([block]) == pytest.approx(100.0)
    assert guess([block, block]) == pytest.approx(200.0)


def test_a_tool_call_counts_its_name_and_its_json():
    """Numbers and keys too: the model reads them."""
    value = {"city": "Wien", "days": [1, 2, 3]}
    written = "weather" + json.dumps(value, separators=(",", ":"))
    block = {"type": "tool_use", "id": "toolu_" + "x" * 99, "name": "weather", "input": value}
    assert guess([block]) == of_text(written)


def test_a_system_prompt_is_text_or_blocks():
    """Both are read alike."""
    assert guess("", system="a" * 360) == pytest.approx(100.0)
    assert guess("", system=[{"type": "text", "text": "a" * 360}]) == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["mcp_servers", "output_config"])
def test_schemas_count_as_json(name):
    """Where the model gets to see them; other parameters are for the server."""
    value = [{"description": "x" * 300}]
    assert guess("", **{name: value}) == of_text(json.dumps(value, separators=(",", ":")))
    assert guess("", stop_sequences=["x" * 360], metadata={"user_id": "x" * 360}) == 0.0


@pytest.mark.parametrize(
    ("model", "auto", "forced"),
    [
        ("claude-opus-5", 290, 410),
        ("claude-opus-4-8", 290, 410),
        ("claude-opus-4-7", 675, 804),
        ("claude-sonnet-5", 354, 474),
        ("claude-sonnet-4-6", 497, 589),
        ("claude-haiku-4-5-20251001", 496, 588),
        ("claude-opus-4-1-20250805", 313, 315),
        ("claude-sonnet-4-20250514", 313, 315),
        ("claude-3-5-haiku-20241022", 264, 355),
    ],
)
def test_tools_bring_a_system_prompt(model, auto, forced):
    """By the table of the tool use page; more where a tool must be used; none without tools."""
    schema = len(json.dumps([TOOL], separators=(",", ":"))) / BYTES_PER_TOKEN
    with_tool = {"model": model, "tools": [TOOL]}
    assert guess("", **with_tool) == pytest.approx(schema + auto)
    for kind, prompt in (("auto", auto), ("none", auto), ("any", forced), ("tool", forced)):
        choice = {"type": kind}
        assert guess("", **with_tool, tool_choice=choice) == pytest.approx(schema + prompt)
    assert guess("", model=model, tools=[]) < 1.0


def test_pictures_do_not_cost_what_their_base64_weighs():
    """Not in a tool's result either."""
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.jpg"}}
    assert guess([image]) == UNSEEN_IMAGE_TOKENS
    assert guess([{"type": "tool_result", "content": [image]}]) == UNSEEN_IMAGE_TOKENS
    assert guess([{"type": "image", "source": {"type": "base64", "data": "A" * 10**6}}]) < 5000


def test_a_pdf_costs_by_its_pages():
    """Of which a URL or a file id tells nothing: one; the title is text."""
    data = "A" * (30 * PAGE_CHARACTERS)
    pdf = {"type": "document", "source": {"type": "base64", "data": data}, "title": "a" * 36}
    assert guess([pdf]) == pytest.approx(30 * PAGE_TOKENS + 10)
    assert guess([{"type": "document", "source": {"type": "url", "url": "u"}}]) == PAGE_TOKENS


@pytest.mark.parametrize("odd", [None, 5, True, b"bytes", object(), {}, [[["deep"]]]])
def test_what_is_no_text_costs_nothing_and_breaks_nothing(odd):
    """The API will say what is wrong with it."""
    assert 0.0 <= guess(odd) < 3.0
    assert estimate_input_tokens({"messages": [odd]}) == MESSAGE_TOKENS
    assert guess("", tools=odd, system=odd, tool_choice=odd) >= 0.0
    for name in ("y", "input", "source", "content"):
        assert guess([{"type": "document", name: odd}]) >= 0.0
    assert guess([{"type": "image", "source": odd}]) == UNSEEN_IMAGE_TOKENS

"""No part lost: every stream of the table adds up to its message, by us and by the SDK."""

from __future__ import annotations

import anthropic
import pytest

from claude_throttle.features.streaming.accumulator import MessageAccumulator
from claude_throttle.testing import Streamed
from claude_throttle.transport import sdk
from tests.out_there.stream_fixtures import FIXTURES, add, begin
from tests.support.needs import needs
from tests.support.sdk_releases import ACCUMULATORS
from tests.support.sdk_releases import accumulated as by_the_sdk
from tests.support.streams import ask

#: Older ones know fewer types and fields.
IS_CURRENT = tuple(map(int, anthropic.__version__.split(".")[:2])) >= (2, 14)

every_stream = pytest.mark.parametrize("stream", FIXTURES, ids=lambda stream: stream.rule)


def accumulated(events):
    ours = MessageAccumulator()
    for event in events:
        ours.add_event(event)
    return ours


def shown(message):
    return message.to_dict(mode="json", exclude_none=True, warnings=False)


@every_stream
def test_a_stream_is_the_message_that_it_carries(stream):
    ours = accumulated(stream.events)
    message = ours.snapshot()
    assert message["content"] == stream.content
    assert {name: message[name] for name in stream.fields} == stream.fields
    assert (ours.complete, ours.counted, message["usage"]["output_tokens"]) == (True, True, 9)


@needs("accumulators")
@pytest.mark.parametrize(
    ("stream", "name"),
    [
        pytest.param(stream, name, id=f"{stream.rule}-{name}")
        for stream in FIXTURES
        for name in ACCUMULATORS
        if name in stream.kept_by and (IS_CURRENT or "older" in stream.kept_by)
    ],
)
def test_it_is_what_the_sdk_makes_of_it_where_that_keeps_everything(stream, name):
    ours = accumulated(stream.events).snapshot()
    kind = {"stable": anthropic.types.Message, "beta": anthropic.types.beta.BetaMessage}[name]
    assert shown(kind.construct(**ours)) == shown(by_the_sdk(stream.events, name))
    assert shown(sdk.build_message(ours, "req_1")) == shown(by_the_sdk(stream.events, name))


@every_stream
def test_a_snapshot_in_the_midst_never_fails(stream):
    """And what was seen once is not taken away."""
    ours, seen = MessageAccumulator(), 0
    for event in stream.events:
        ours.add_event(event)
        snapshot = ours.snapshot()
        assert len(snapshot["content"]) >= seen
        seen = len(snapshot["content"])
        assert sdk.build_message(snapshot, None)


def test_raw_and_typed_readers_get_all_of_it(fake, throttle):
    """Iteration, text_stream, final message, final text: over the wire."""
    server = fake()
    throttler = throttle(server)
    for stream in FIXTURES:
        server.script(*[Streamed(events=tuple(stream.events))] * 2)
        with throttler.stream(raw=True, **ask()) as opened:
            assert list(opened) == stream.events
            assert opened.get_final_message()["content"] == stream.content
        with throttler.stream(**ask()) as opened:
            told = "".join(opened.text_stream)
            message = opened.get_final_message()
            assert [block.type for block in message.content] == [
                block["type"] for block in stream.content
            ]
            assert message.model == stream.fields["model"]
            assert opened.get_final_text() in told  # which has that of unknown blocks, too


@pytest.mark.parametrize(
    "event",
    [
        add(0, "input_json_delta", partial_json="{}"),
        add(0, "text_delta", text=None),
        add("0", "text_delta", text="x"),
        begin("0", "text", text=""),
        {"type": "content_block_start", "index": 0, "content_block": None},
        {"type": "content_block_start", "index": 0, "content_block": "text"},
        {"type": "content_block_delta", "index": 0, "delta": "text"},
    ],
)
def test_what_nobody_could_put_anywhere_is_a_broken_answer(event):
    """A tool's input without its tool, above all: half an answer is none."""
    with pytest.raises(ValueError, match="fits nothing"):
        accumulated([FIXTURES[0].events[0], event])


def test_input_nested_too_deeply_breaks_no_reader():
    """It is a tool's input, and the message around it is paid."""
    deep = add(0, "input_json_delta", partial_json='{"a":' + "[" * 100_000)
    ours = accumulated([FIXTURES[0].events[0], begin(0, "tool_use", input={}), deep])
    assert ours.snapshot()["content"] == [{"type": "tool_use", "input": {}}]

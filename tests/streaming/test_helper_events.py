"""Iterating a stream: the events of the SDK's own helper, in its order, with its fields."""

from __future__ import annotations

import inspect
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import anthropic
import pytest

from claude_throttle import Closed
from claude_throttle.engine import Engine
from claude_throttle.features.streaming.accumulator import MessageAccumulator
from claude_throttle.features.streaming.helper_events import helper_events
from claude_throttle.testing import Streamed
from claude_throttle.transport import sdk
from tests.out_there.stream_fixtures import BOTH, CITED, FIXTURES
from tests.support.calls import echo
from tests.support.inside import slots_in_use
from tests.support.needs import needs
from tests.support.streams import TEXT, THOUGHT, TOOL, ask

#: Older ones know fewer types and fields.
IS_CURRENT = tuple(map(int, anthropic.__version__.split(".")[:2])) >= (2, 14)
RAW = {
    "message_start": "RawMessageStartEvent",
    "message_delta": "RawMessageDeltaEvent",
    "message_stop": "RawMessageStopEvent",
    "content_block_start": "RawContentBlockStartEvent",
    "content_block_delta": "RawContentBlockDeltaEvent",
    "content_block_stop": "RawContentBlockStopEvent",
}


class WireEvents(list):
    """What the SDK's helper reads, without a wire."""

    class response:  # noqa: N801 - the helper's own name
        """Without headers."""

        class request:  # noqa: N801
            """The helper of the beta looks at them."""

            headers: ClassVar[dict[str, str]] = {}


def without_none(value):
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def shown(event):
    """Class and fields. Those of the beta have other names."""
    fields = without_none(sdk.message_fields(event))
    return type(event).__name__.replace("Beta", "").replace("ParsedText", "Text"), fields


def by_the_sdk(name, events):
    """What its helper yields, each as it was when it came."""
    from anthropic.lib.streaming import _beta_messages, _messages

    kind, types, prefix = {
        "stable": (_messages.MessageStream, anthropic.types, ""),
        "beta": (_beta_messages.BetaMessageStream, anthropic.types.beta, "Beta"),
    }[name]
    raw = WireEvents(getattr(types, prefix + RAW[e["type"]]).construct(**e) for e in events)
    takes_format = "output_format" in inspect.signature(kind.__init__).parameters
    more = {"output_format": anthropic.NOT_GIVEN} if takes_format else {}
    return [shown(event) for event in kind(raw, **more)]


def by_us(events):
    received = MessageAccumulator()
    for event in events:
        received.add_event(event)
        yield from (shown(sdk.build_event(e, "req_1")) for e in helper_events(event, received))


@needs("accumulators")
@pytest.mark.parametrize(
    ("stream", "name"),
    [
        pytest.param(stream, name, id=f"{stream.rule}-{name}")
        for stream in FIXTURES
        for name in ("stable", "beta")
        if name in stream.kept_by and (IS_CURRENT or stream.kept_by == BOTH)
    ],
)
def test_the_events_are_those_of_the_sdks_helper(stream, name):
    """Where the SDK keeps all of the stream: classes, fields, order."""
    assert list(by_us(stream.events)) == by_the_sdk(name, stream.events)


@pytest.mark.parametrize("stream", FIXTURES, ids=lambda stream: stream.rule)
def test_no_odd_stream_fails_or_loses_an_event(stream):
    """What gateways send: the API's own events all come, in their order."""
    ours = [fields["type"] for _, fields in by_us(stream.events)]
    told = [event["type"] for event in stream.events]
    assert [kind for kind in ours if kind in told] == told


def read(stream):
    """Types in order, and the pieces that come as events of their own."""
    events = list(stream)
    pieces = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}
    joined = {
        kind: "".join(getattr(event, field) for event in events if event.type == kind)
        for kind, field in pieces.items()
    }
    return [event.type for event in events], joined, events[-1].message


def test_a_loop_over_text_events_prints_the_text(fake, throttle):
    """Ported from the SDK's helper, it works as it is; snapshots and whole blocks included."""
    server = fake()
    server.script(Streamed(blocks=(THOUGHT, {**TEXT, "citations": [CITED]}, TOOL)))
    with throttle(server).stream(**ask()) as stream:
        snapshots, blocks = {}, []
        for event in stream:
            if event.type in ("text", "thinking", "input_json"):
                snapshots[event.type] = event.snapshot
            if event.type == "citation":
                assert (event.citation.type, len(event.snapshot)) == ("page_location", 1)
            if event.type == "signature":
                assert event.signature == THOUGHT["signature"]
            if event.type == "content_block_stop":
                blocks.append(event.content_block.type)
        assert snapshots["text"] == TEXT["text"] == stream.get_final_text()
        assert snapshots["thinking"] == THOUGHT["thinking"]
        assert snapshots["input_json"] == TOOL["input"]
        assert blocks == ["thinking", "text", "tool_use"]
        assert (event.type, event.message._request_id) == ("message_stop", stream.request_id)
        final = stream.get_final_message()
        assert shown(event.message)[1] == shown(final)[1]


def test_raw_streams_give_the_apis_events_only(fake, throttle):
    """As dicts, untouched."""
    with throttle(fake()).stream(raw=True, **ask()) as stream:
        events = list(stream)
    assert {event["type"] for event in events} == set(RAW)
    assert "message" not in events[-1]


def test_testing_mode_and_stages_give_them_too(fake, throttle, monkeypatch):
    """Canned or replayed: what a reader sees is the same."""
    server = fake()
    throttler = throttle(server)
    with throttler.stream(**ask()) as stream:
        kinds, joined, message = read(stream)
    with throttler.testing_mode("echo: hello"), throttler.stream(**ask()) as stream:
        canned_kinds, canned, _ = read(stream)
        assert stream.response.headers["request-id"] == stream.request_id
    blocks = (THOUGHT, {**TEXT, "citations": [CITED]}, TOOL)
    server.script(Streamed(blocks=blocks))
    with throttler.stream(**ask()) as stream:
        all_kinds, all_joined, whole = read(stream)
    answered = Future()
    answered.set_result(whole)
    monkeypatch.setattr(Engine, "stages", lambda _engine: [lambda *_request: answered])
    with throttle(server).stream(**ask()) as stream:
        replayed_kinds, replayed, _ = read(stream)
        assert stream.response.status_code == 200
    assert list(dict.fromkeys(canned_kinds)) == list(dict.fromkeys(kinds))
    assert canned["text"] == joined["text"] == message.content[0].text
    assert list(dict.fromkeys(replayed_kinds)) == list(dict.fromkeys(all_kinds))
    assert {k: v for k, v in replayed.items() if k != "input_json"} == {
        k: v for k, v in all_joined.items() if k != "input_json"
    }


def test_other_ways_of_reading_go_on_behind_the_derived_events(fake, throttle):
    """What was derived from an event is over with the next one, as in the SDK."""
    server = fake()
    throttler = throttle(server)
    with throttler.stream(**ask("a b c d e")) as stream:
        first = next(event for event in stream if event.type == "content_block_delta")
        rest = "".join(stream.text_stream)
        assert first.delta.text + rest == stream.get_final_text()
    with throttler.stream(**ask("a b c d e")) as stream:
        next(event for event in stream if event.type == "content_block_delta")
        stream.close()
        with pytest.raises(Closed, match="before its end"):
            next(stream)


def test_the_head_of_the_answer_can_be_read(fake, throttle):
    """As with the SDK: status and headers, no cookies and no key."""
    with throttle(fake()).stream(**ask()) as stream:
        stream.until_done()
    assert stream.response.status_code == 200
    assert stream.response.headers["Request-Id"] == stream.request_id
    assert stream.response.request.headers == {}


@pytest.mark.parametrize("kind", ["message_start", "content_block_start", "text"])
def test_a_call_rides_on_a_stream_whose_event_its_thread_read_last(fake, throttle, kind):
    """The first event, too, and one that was derived where another thread had read."""
    throttler = throttle(fake(), max_concurrency=1)
    with throttler.stream(**ask()) as stream:
        if kind == "text":
            next(event for event in stream if event.type == "content_block_delta")
        if kind == "content_block_start":
            next(stream)

        def read_and_call():
            assert next(stream).type == kind
            assert echo(throttler.call(raw=True, timeout=10, **ask("here"))) == "here"

        with ThreadPoolExecutor(1) as pool:
            pool.submit(read_and_call).result(20)
        stream.until_done()
    assert slots_in_use(throttler) == 0


@pytest.mark.thorough
def test_an_sdk_without_these_classes_gives_objects_with_the_same_fields():
    """As releases before 0.46 are: its BaseModel, with messages, blocks and citations inside."""
    program = """
import anthropic.lib.streaming._types as types, anthropic.lib.streaming._beta_types as beta
for name in [n for n in dir(types) if n.endswith("Event") and not n.startswith("Raw")]:
    delattr(types, name)
from claude_throttle.transport import sdk
text = {"type": "text", "text": "Hi"}
event = sdk.build_event({**text, "snapshot": "Hi"}, "req_1")
assert (event.type, event.text, event.snapshot) == ("text", "Hi", "Hi")
event = sdk.build_event({"type": "message_stop", "message": {"content": [text]}}, "req_1")
assert event.message.content[0].text == "Hi" and event.message._request_id == "req_1"
end = {"type": "content_block_stop", "index": 0, "content_block": text}
assert sdk.build_event(end, None).content_block.text == "Hi"
cited = {"type": "citation", "citation": {"cited_text": "x"}, "snapshot": [{"cited_text": "x"}]}
event = sdk.build_event(cited, None)
assert event.citation.cited_text == event.snapshot[0].cited_text == "x"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

"""A loop over tools as the SDK's docs write it, through every method that takes a request."""

from __future__ import annotations

import pytest

from claude_throttle import InvalidCall
from claude_throttle.testing import ClaudeApi
from tests.support.calls import HELLO, MODEL
from tests.support.needs import needs
from tests.support.sdk_releases import NOT_GIVEN

CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}


@pytest.fixture
def api():
    with ClaudeApi() as server:
        yield server


def turn(throttler, method, messages):
    """One more answer, typed."""
    request = {**HELLO, "messages": messages, "tools": [TOOL], "system": NOT_GIVEN}
    if method == "call":
        return throttler.call(**request)
    if method == "map":
        return next(throttler.map([request]))
    with throttler.stream(**request) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("method", ["call", "stream", "map"])
def test_the_content_of_an_answer_goes_into_the_next_request(api, throttle, method):
    """Typed blocks, without a line of the caller's own."""
    throttler = throttle(api)
    api.answer("", blocks=[CALL])
    api.answer("It is sunny.")
    messages = list(HELLO["messages"])
    message = turn(throttler, method, messages)
    messages.append({"role": "assistant", "content": message.content})
    used = [block for block in message.content if block.type == "tool_use"]
    results = ({"type": "tool_result", "tool_use_id": one.id, "content": "sun"} for one in used)
    messages.append({"role": "user", "content": results})
    turn(throttler, method, messages)
    _first, second = api.asked
    assert second["messages"][1]["content"][-1] == CALL
    assert second["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}
    ]
    assert "system" not in second


def test_a_stream_is_no_content(api, throttle):
    """Its final message has some; the stream is not read by it."""
    throttler = throttle(api)
    with throttler.stream(**HELLO) as stream:
        messages = [*HELLO["messages"], {"role": "assistant", "content": stream}]
        with pytest.raises(InvalidCall, match=r"write stream.get_final_message\(\).content"):
            throttler.call(**{**HELLO, "messages": messages})
        assert "".join(stream.text_stream)


def test_the_price_of_a_request_is_asked_for_in_the_same_words(api, throttle):
    """With whatever else a call would have; what extra_body says counts."""
    throttler = throttle(api, itpm=1000, otpm=100_000, burst=1)
    message = throttler.call(**HELLO)
    messages = [*HELLO["messages"], message]
    extras = {"betas": ["x"], "timeout": NOT_GIVEN, "priority": "batch", "extra_query": {"a": 1}}
    assert throttler.estimate_wait(**{**HELLO, "messages": messages}, **extras) >= 0
    with pytest.raises(InvalidCall, match="max_tokens= must be"):
        throttler.estimate_wait(**HELLO, extra_body={"max_tokens": 0})


def test_every_door_takes_a_priority_by_its_name(api, throttle):
    """And tells the right ones."""
    throttler = throttle(api)
    with throttler.permit(model=MODEL, priority="Interactive", tenant=NOT_GIVEN, timeout=NOT_GIVEN):
        pass
    for door in (throttler.transport, throttler.adapter, throttler.session):
        requires_a_right_name(door)


@needs("middleware")
def test_the_middleware_takes_a_priority_by_its_name(api, throttle):
    """As the other doors."""
    requires_a_right_name(throttle(api).middleware)


def requires_a_right_name(door):
    assert door(priority="batch")
    with pytest.raises(InvalidCall, match='"interactive", "normal", "batch"'):
        door(priority="urgent")

"""A stage sees every call that goes through the throttler, and may answer it by itself."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from claude_throttle.engine import Engine
from claude_throttle.transport.sdk import message_fields
from claude_throttle.transport.verdicts import read_json
from tests.support.calls import ask

ANSWER = {
    "id": "msg_kept",
    "type": "message",
    "role": "assistant",
    "model": "kept",
    "content": [
        {"type": "thinking", "thinking": "Where was it?", "signature": "s"},
        {"type": "text", "text": "Here it is."},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"where": "here"}},
        {"type": "of_tomorrow", "data": [1]},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 5},
}


class Answering:
    """A stage that answers from a dict, by prompt, and passes on what is not in there."""

    def __init__(self, answers):
        self.answers = answers
        self.seen = []

    def __call__(self, request, next_stage):
        prompt = read_json(request.body)["messages"][0]["content"]
        self.seen.append(prompt)
        if prompt not in self.answers:
            return next_stage(request)
        answered = Future()
        answered.set_result(self.answers[prompt])
        return answered


@pytest.fixture
def stage(monkeypatch):
    stage, stages = Answering({"kept": ANSWER}), Engine.stages
    monkeypatch.setattr(Engine, "stages", lambda engine: [stage, *stages(engine)])
    return stage


def test_every_way_in_passes_the_stages(fake, throttle, stage):
    server = fake()
    throttler = throttle(server)
    throttler.submit(**ask("a")).result()
    throttler.call(**ask("b"))
    list(throttler.map([ask("c"), ask("d")]))
    with throttler.stream(**ask("e")) as stream:
        stream.until_done()
    assert stage.seen == ["a", "b", "c", "d", "e"]
    assert len(server.arrivals) == 5


def test_what_a_stage_answers_is_not_sent(fake, throttle, stage):
    server = fake()
    throttler = throttle(server)
    future = throttler.submit(**ask("kept", raw=True))
    assert future.done()
    assert future.result() is ANSWER
    assert throttler.call(**ask("kept", raw=True)) is ANSWER
    kept, sent = throttler.map([ask("kept"), ask("other")])
    assert kept is ANSWER
    assert sent["id"] != ANSWER["id"]
    assert len(server.arrivals) == 1
    assert throttler.stats().submitted == 1


@pytest.mark.parametrize("raw", [True, False])
def test_what_a_stage_answers_is_streamed_as_if_it_came(fake, throttle, stage, raw):
    if not raw:
        from anthropic.types import Message

        stage.answers["kept"] = Message.construct(**ANSWER)
    throttler = throttle(fake())
    with throttler.stream(**ask("kept", raw=raw)) as stream:
        assert "".join(stream.text_stream) == "Here it is."
        message = stream.get_final_message()
    assert (message if raw else message_fields(message)) == ANSWER
    assert stream.get_final_text() == "Here it is."


def test_a_stream_that_a_stage_answers_may_be_left_early(fake, throttle, stage):
    stream = throttle(fake()).stream(**ask("kept", raw=True))
    assert next(stream)["type"] == "message_start"
    stream.close()
    with pytest.raises(Exception, match="closed"):
        next(stream)
    assert "ended" in repr(stream)


def test_a_stage_may_refuse(fake, throttle, stage, monkeypatch):
    refusal = Future()
    refusal.set_exception(KeyError("no"))
    monkeypatch.setattr(Engine, "stages", lambda _engine: [lambda _request, _next: refusal])
    throttler = throttle(fake())
    for way in (throttler.call, throttler.stream):
        with pytest.raises(KeyError):
            way(**ask())


def test_permits_pass_no_stage_but_admission(fake, throttle, stage):
    with throttle(fake()).permit(model="m", max_tokens=1):
        assert stage.seen == []

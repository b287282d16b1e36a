"""Event streams as they come: odd framing, and errors in anybody's form and words."""

from __future__ import annotations

import json
import pickle

import anthropic
import pytest

from claude_throttle import BrokenAnswer, RetryScheduled
from claude_throttle.testing import FakeClaude, Ok, Streamed, StreamError
from claude_throttle.transport.sse import SseDecoder
from claude_throttle.transport.stream_error import InStreamError, error_in
from claude_throttle.transport.verdicts import classify, read_json
from tests.out_there.stream_fixtures import START, STOP, finish, text
from tests.support.fake_http import ask as ask_http
from tests.support.fake_http import events as events_of
from tests.support.streams import ask
from tests.support.waiting import SERVERS

EVENTS = [START, *text(0, "Grüße ", "🎈"), finish(), STOP]


def framed(events, end="\n", named=True):
    """The bytes of a stream."""
    names = ["event: {}" + end if named else ""] * len(events)
    return "".join(
        name.format(event["type"]) + f"data: {json.dumps(event, ensure_ascii=False)}{end}{end}"
        for name, event in zip(names, events)
    ).encode()


WHOLE = framed(EVENTS)
ODD_BODIES = {
    "the last blank line may be missing": WHOLE[:-1],
    "the last line end may be missing": WHOLE[:-2],
    "DONE may come last": WHOLE + b"data: [DONE]\n\n",
    "DONE may come last without a blank line": WHOLE + b"data: [DONE]",
    "DONE may have a name": WHOLE + b"event: done\ndata: [DONE]\n\n",
    "DONE may come first": b"data: [DONE]\n\n" + WHOLE,
    "lines may end with CRLF": framed(EVENTS, "\r\n"),
    "lines may end with CR": framed(EVENTS, "\r"),
    "a CRLF stream may lack its end": framed(EVENTS, "\r\n")[:-3],
    "there may be no event lines": framed(EVENTS, named=False),
    "there may be a byte order mark": b"\xef\xbb\xbf" + WHOLE,
    "there may be comments": b": hello\n\n" + WHOLE.replace(b"\n\n", b"\n: ping\n\n"),
    "there may be ids and retries": WHOLE.replace(b"data:", b"id: 7\nretry: 10\ndata:"),
    "there may be more blank lines": WHOLE.replace(b"\n\n", b"\n\n\n\n"),
    "data may be on several lines": WHOLE.replace(b', "', b',\ndata: "'),
    "data may come before its name": b"\n\n".join(
        b"\n".join(reversed(frame.split(b"\n"))) for frame in WHOLE.split(b"\n\n")
    ),
    "there may be no space after the colon": WHOLE.replace(b": ", b":", 2),
    "data may be empty": WHOLE.replace(b"\n\n", b"\n\ndata:\n\ndata: \n\n", 2),
    "the last event may be a name only": WHOLE.replace(b'data: {"type": "message_stop"}', b"data:"),
    "names may have spaces": WHOLE.replace(b"event: ", b"event:  ").replace(b"\ndata", b" \ndata"),
    "pings may have any data": b'event: ping\ndata: {}\n\ndata: {"type": "ping"}\n\n' + WHOLE,
    "unknown events may come": b'event: news\ndata: {"a": 1}\n\n' + WHOLE,
}


@pytest.fixture(scope="module")
def server():
    with FakeClaude() as running:
        yield running


@pytest.fixture
def throttler(server, throttle):
    """One of its own, so that no test meets what another one taught."""
    SERVERS.append(server)
    return throttle(server)


@pytest.mark.parametrize("rule", ODD_BODIES)
def test_odd_framing_loses_nothing(server, throttler, rule):
    chunked = len(rule) % 2 == 0
    server.script(Streamed(body=ODD_BODIES[rule], chunked=chunked, chunk_bytes=7))
    with throttler.stream(raw=True, **ask()) as stream:
        assert "".join(stream.text_stream) == "Grüße 🎈"
        message = stream.get_final_message()
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("end_turn", 9)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stream_may_be_split_anywhere(end):
    """Within a mark, a line end, a character: in two pieces, and byte by byte."""
    body = b"\xef\xbb\xbf" + framed(EVENTS[:3], end)

    def decoded(*chunks):
        decoder = SseDecoder()
        found = [event for chunk in chunks for event in decoder.feed(chunk)]
        return [*found, *decoder.rest()]

    expected = [(event["type"], event) for event in EVENTS[:3]]
    for at in range(len(body)):
        found = decoded(body[:at], body[at:])
        assert [(name, json.loads(data)) for name, data in found] == expected
    assert decoded(*[bytes([byte]) for byte in body]) == decoded(body)


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_half_a_last_event_is_none(server, throttler, cut):
    """Only what is whole without its blank line counts."""
    body = framed(EVENTS[:-1]) + framed([finish(), STOP])[: -cut - 2]
    server.script(Streamed(body=body, chunked=False))
    with pytest.raises(BrokenAnswer, match="without message_stop") as info:
        throttler.stream(raw=True, **ask()).get_final_message()
    assert info.value.partial_message["content"] == [{"type": "text", "text": "Grüße 🎈"}]


def test_DONE_is_no_message_stop(server, throttler):
    """Half an answer is not taken for a whole one."""
    server.script(Streamed(events=(*EVENTS[:-1], "[DONE]")))
    with pytest.raises(BrokenAnswer, match="without message_stop"):
        throttler.stream(**ask()).get_final_message()


def test_what_came_before_a_broken_event_is_kept(server, throttler):
    """Also where both are in one packet."""
    server.script(Streamed(body=framed(EVENTS[:3]) + b"event: content_block_delta\ndata: {\n\n"))
    with pytest.raises(BrokenAnswer, match="not a JSON object") as info:
        throttler.stream(raw=True, **ask()).get_final_message()
    assert info.value.partial_message["content"] == [{"type": "text", "text": "Grüße "}]


# -- errors ----------------------------------------------------------------------------------------

#: Name, data, status, whether it may be tried again before content.
ERRORS = [
    # without event: or type
    ("message", {"error": {"message": "Stream error: quota exceeded"}}, 429, True),
    ("message", {"error": {"message": "Stream error: connection closed"}}, 500, True),
    ("message", {"error": {"message": "Rate limit reached", "type": "tokens"}}, 429, True),
    ("message", {"error": {"message": "x", "type": "overloaded_error"}}, 529, True),
    ("message", {"error": {"message": "x", "type": "rate_limit_error"}}, 429, True),
    ("message", {"error": {"message": "x", "type": "invalid_request_error"}}, 400, False),
    ("message", {"error": {"message": "x", "type": "server_error"}}, 500, True),
    ("message", {"error": {"message": "prompt is too long: 210000 tokens"}}, 400, False),
    ("message", {"error": {"message": "model: not found"}}, 404, False),
    ("message", {"error": {"message": "Request timed out."}}, 504, True),
    ("message", {"error": {"message": "Invalid response from upstream"}}, 500, True),
    ("message", {"error": {"message": "litellm.InternalServerError: status code 529"}}, 529, True),
    ("message", {"error": {"error": {"type": "overloaded_error", "message": "x"}}}, 529, True),
    ("message", {"type": "overloaded_error", "message": "x"}, 529, True),
    ("message", {"errors": [{"message": "upstream unavailable"}]}, 503, True),
    ("message", {"message": "Internal server error"}, 500, True),
    ("message", {"detail": "Not authenticated"}, 401, False),
    ("message", {"detail": [{"loc": ["body"], "msg": "invalid input"}]}, 400, False),
    ("message", {"status": "error", "reason": "at capacity"}, 529, True),
    ("message", {"status": "failed"}, 500, True),
    ("message", {"status": 503}, 503, True),
    ("message", {"success": False, "data": "quota used up"}, 429, True),
    ("message", {"success": False, "msg": "Insufficient balance"}, 402, False),
    ("message", {"code": "SlowDown", "message": "Please slow down"}, 429, True),
    ("message", {"throttlingException": {"message": "Too many tokens"}}, 429, True),
    # with a number
    ("message", {"error": "text", "status": 503}, 503, True),
    ("message", {"error": "text", "status": 400}, 400, False),
    ("message", {"error": "text", "status_code": "502"}, 502, True),
    ("message", {"error": {"message": "x", "code": 503}}, 503, True),
    ("message", {"error": {"message": "x", "code": "429", "type": "None"}}, 429, True),
    ("message", {"error": {"code": 529}}, 529, True),
    ("message", {"error": {"code": 8, "status": "RESOURCE_EXHAUSTED"}}, 429, True),
    ("message", {"error": True, "code": 422, "message": "x"}, 422, False),
    # with the API's type, and little else
    ("error", {"type": "error", "error": "overloaded"}, 529, True),
    ("error", {"type": "error", "error": "Bad request"}, 400, False),
    ("error", {"type": "error", "message": "rate-limited"}, 429, True),
    ("error", {"type": "error"}, 500, True),
    ("error", {"type": "error", "error": None}, 500, True),
    ("error", {"type": "error", "error": {"type": None, "message": "Overloaded"}}, 529, True),
    ("error", {"message": "x"}, 500, True),
    ("error", {}, 500, True),
    # with a type of a gateway's own
    ("message", {"type": "upstream_error", "error": {"message": "x", "code": 502}}, 502, True),
    ("message", {"type": "ThrottlingException", "message": "Slow down"}, 429, True),
    ("ValidationException", {"message": "bad schema"}, 400, False),
    ("stream_error", "the backend went away", 500, True),
    # a text
    ("error", "upstream connect error or disconnect/reset before headers", 500, True),
    ("error", "Overloaded", 529, True),
    ("error", "", 500, True),
    ("error", '{"type":"error","error":{"type":"overloaded_err', 529, True),
    ("message", "Error: 503 Service Unavailable", 503, True),
    ("message", '"Too many requests"', 429, True),
    ("message", '"{\\"error\\": {\\"code\\": 529}}"', 529, True),
    # the API's own
    (
        "error",
        {"type": "error", "error": {"type": "api_error", "message": "Overloaded"}},
        529,
        True,
    ),
    ("error", {"type": "error", "error": {"type": "new", "message": "not found"}}, 500, True),
    ("error", {"type": "error", "error": {"type": "not_found_error"}}, 404, False),
]


@pytest.mark.parametrize(("name", "said", "status", "again"), ERRORS)
def test_an_error_is_read_by_its_fields_then_by_its_words(name, said, status, again):
    data = said if isinstance(said, str) else json.dumps(said)
    found = error_in(name, data, read_json(data.encode()))
    error = InStreamError(found, {"request-id": "req_1", "server": "x"})
    assert error.status == status
    assert error.all_headers["request-id"] == "req_1"
    assert classify(error.status, error.headers, error.read(), 0.0).retry == again


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("message_start", json.dumps(START)),
        ("message", json.dumps({"type": "message_stop", "error": "text"})),
        ("news", '{"message": "a new event"}'),
        ("message", '{"choices": [], "id": "x"}'),
        ("message", '{"type": "content_block_delta", "delta": {"error": 1}}'),
        ("message", '{"message": {"content": []}}'),
        ("message", '{"message": [], "success": true, "status": "ok", "code": 200}'),
        ("message", '{"text": "an error'),
        ("content_block_delta", "an error"),
        ("message", "hello"),
    ],
)
def test_what_reports_no_error_is_none(name, data):
    assert error_in(name, data, read_json(data.encode())) is None


def test_foreign_words_are_short_and_without_control_characters():
    said = {"error": {"message": "\x1b[31mred\u202e" + "x" * 5000, "more": [[[[[{}]]]]] * 9}}
    error = InStreamError(said, {})
    assert len(str(error.shown)) < 600
    assert str(error.shown).isprintable()
    assert "red" in str(error.shown)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"error": {"message": "Rate limit exceeded. Try again in 5 seconds", "code": "429"}}, 5),
        ({"error": "too many requests", "retry_after": 7}, 7),
        ({"error": {"code": 429, "message": "slow down"}}, None),
    ],
)
def test_a_gateways_rate_limit_is_waited_for_as_long_as_it_says(said, seconds):
    error = InStreamError(said, {"request-id": "req_1"})
    verdict = classify(error.status, error.headers, error.read(), 0.0)
    assert (verdict.retry, verdict.retry_after) == (True, seconds)
    assert "retry-after-ms" not in error.all_headers


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_gateways_word_on_a_key_or_a_bill_suspends_nobody(server, throttler, status):
    server.script(StreamError(frame={"error": {"message": "no", "code": status}}))
    with pytest.raises(anthropic.APIStatusError) as info:
        throttler.stream(**ask())
    assert info.value.status_code == status
    server.script(Streamed(events=tuple(EVENTS)))
    assert throttler.stream(**ask()).get_final_text() == "Grüße 🎈"


QUOTA = {"error": {"message": "Stream error: quota exceeded"}}


@pytest.mark.parametrize(
    ("frame", "words", "kind"),
    [
        (QUOTA, "Stream error: quota exceeded", anthropic.RateLimitError),
        ({"error": "busy here", "status": 503}, "busy here", anthropic.InternalServerError),
        (b'event: error\ndata: {"type":"error","error":"overloaded"}', "overloaded", None),
        ("Error: upstream gone", "upstream gone", anthropic.InternalServerError),
        (b'{"error":{"message":"bare"}}\n\n', "bare", anthropic.InternalServerError),
        ({"error": {"message": "Invalid request"}}, "Invalid", anthropic.BadRequestError),
        (b"data: " + json.dumps(QUOTA).encode(), "quota exceeded", anthropic.RateLimitError),
    ],
    ids=["no type", "text and status", "no object", "text", "no data line", "invalid", "unended"],
)
@pytest.mark.parametrize("after", [2, None], ids=["after content", "behind message_stop"])
def test_a_gateways_words_reach_the_reader_with_what_came(
    server, throttler, frame, words, kind, after
):
    """Nothing is sent again: the beginning has been read, or the answer is paid."""
    already = len(server.arrivals)
    server.script(StreamError(after_deltas=after, frame=frame))
    with throttler.stream(**ask()) as stream:
        with pytest.raises(kind or anthropic.APIStatusError, match=words) as info:
            list(stream)
        with pytest.raises(anthropic.APIStatusError, match=words):  # at each further look
            stream.get_final_message()
    error = pickle.loads(pickle.dumps(info.value))
    assert words in str(error)
    assert error.request_id == stream.request_id
    expected = "echo: hello" if after is None else "echo: "
    assert error.partial_message.content[0].text == expected
    assert len(server.arrivals) == already + 1
    assert throttler.stats().failed_total == 1


@pytest.mark.parametrize(
    "frame",
    [QUOTA, {"error": "text", "status": 503}, b'event: error\ndata: "overloaded"\n\n'],
    ids=["quota", "status", "text"],
)
def test_before_content_an_error_is_tried_again_by_its_meaning(
    server, throttle, frame, monkeypatch
):
    monkeypatch.setattr("claude_throttle.core.pacing.backoff.FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("claude_throttle.core.pacing.pacer.UNNAMED_SECONDS", 0.01)
    events, already = [], len(server.arrivals)
    server.script(StreamError(frame=frame), Streamed(events=(START, frame)), Ok())
    throttler = throttle(server, on_event=events.append)
    with throttler.stream(**ask()) as stream:
        assert stream.get_final_text() == "echo: hello"
    assert len(server.arrivals) == already + 3
    assert len([event for event in events if isinstance(event, RetryScheduled)]) == 2


def test_before_content_an_invalid_request_is_not_tried_again(server, throttler):
    already = len(server.arrivals)
    server.script(
        StreamError(frame={"error": {"message": "messages: field required: invalid input"}})
    )
    with pytest.raises(anthropic.BadRequestError, match="field required") as info:
        throttler.stream(**ask())
    assert info.value.partial_message is None
    assert len(server.arrivals) == already + 1


@pytest.mark.parametrize(
    "behind", ["[DONE]", "bye", {"type": "after"}, {"type": "ping"}, b"{x\n\n"]
)
def test_other_things_behind_message_stop_say_nothing(server, throttler, behind):
    """The answer is whole."""
    server.script(Streamed(events=(*EVENTS, behind)))
    with throttler.stream(raw=True, **ask()) as stream:
        assert stream.get_final_text() == "Grüße 🎈"


# -- FakeClaude ------------------------------------------------------------------------------------

BLOCKS = (
    {"type": "compaction", "content": "So far.", "encrypted_content": "x"},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
    {"type": "text", "text": "Hi"},
)


def test_the_fake_api_streams_a_compaction_and_a_fallback_as_the_api_does(server):
    server.script(*[Streamed(blocks=BLOCKS, fields={"context_management": {"x": 1}})] * 2)
    whole = ask_http(server).json()
    assert (whole["model"], whole["content"][0]) == ("b", BLOCKS[0])
    pairs = events_of(ask_http(server, stream=True).text)
    told = {name: data for name, data in pairs if name in ("message_start", "message_delta")}
    assert told["message_start"]["message"]["model"] == "a"
    assert "context_management" not in told["message_start"]["message"]
    assert told["message_delta"]["context_management"] == whole["context_management"] == {"x": 1}
    parts = [data for name, data in pairs if name.startswith("content_block")][:2]
    assert parts[0]["content_block"] == {**BLOCKS[0], "content": None, "encrypted_content": None}
    assert parts[1]["delta"]["type"] == "compaction_delta"


def test_whole_and_streamed_answers_are_the_same_message(server, throttler):
    """Compaction, fallback, the end's fields: whoever reads them."""
    answer = Streamed(blocks=BLOCKS, fields={"context_management": {"x": 1}, "container": None})
    server.script(answer, answer)
    whole = throttler.call(raw=True, **ask())
    streamed = throttler.stream(raw=True, **ask()).get_final_message()
    assert {**streamed, "id": ""} == {**whole, "id": ""}


def test_frames_are_scripted_as_they_are(server):
    """With an event line only where there is a type."""
    server.script(Streamed(events=({"a": 1}, "two\nlines", b": raw\n\n", {"type": "t"})))
    text = ask_http(server, stream=True).text
    assert text == (
        'data: {"a":1}\n\ndata: two\ndata: lines\n\n: raw\n\nevent: t\ndata: {"type":"t"}\n\n'
    )

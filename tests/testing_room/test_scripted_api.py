"""ClaudeApi: the fake server with a unit test's words."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Optional

import anthropic
import pydantic
import pytest
import requests

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import ClaudeApi, ManualClock, Ok, Reply, Reset, Stall, Streamed
from tests.support.fake_http import (
    ask,
    body,
    events,
    raw_request,
    raw_socket,
    read_answer,
)
from tests.support.sdk_releases import text_block


@pytest.fixture
def api():
    with ClaudeApi() as api:
        yield api


def texts(answer):
    return [block.get("text", block["type"]) for block in answer.json()["content"]]


def test_answers_are_given_in_order(api):
    """One text a call; then each call gets its own text back."""
    api.answer("one", "two", usage={"output_tokens": 3})
    answers = [ask(api, f"call {number}") for number in range(3)]
    assert [texts(answer) for answer in answers] == [["one"], ["two"], ["echo: call 2"]]
    assert [answer.json()["usage"]["output_tokens"] for answer in answers] == [3, 3, 20]


def test_an_answer_may_hold_a_tool_use(api):
    """After the text, or alone: the API sends no empty text before it."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
    api.answer("looking", "", blocks=[tool])
    first, second = ask(api), ask(api)
    assert texts(first) == ["looking", "tool_use"]
    assert second.json()["content"] == [tool]
    assert second.json()["stop_reason"] == "tool_use"


@pytest.mark.parametrize("wrong", [(), (None,), (b"bytes",), (7,)])
def test_what_is_no_text_is_no_answer(api, wrong):
    """Said where it was written, not in the server's thread."""
    with pytest.raises(TypeError, match=r"answer"):
        api.answer(*wrong)
    assert texts(ask(api, "x")) == ["echo: x"]


def test_a_scripted_text_is_whole_unless_it_says_otherwise(api):
    """However long the server's own answers are; and each reason can be given."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    api.answer("positive", "negative")
    api.answer("cut", usage={"output_tokens": 20})
    api.answer("cut", stop_reason="max_tokens")
    api.answer("", stop_reason="refusal")
    api.answer("so far", stop_reason="pause_turn")
    api.answer("a", stop_reason="stop_sequence")
    api.answer("", blocks=[tool], stop_reason="max_tokens")
    api.script(
        Ok("x", stop_reason="end_turn"), Streamed(blocks=(tool,)), Ok(usage={"input_tokens": 5})
    )
    said = [ask(api, max_tokens=20, stop_sequences=["\n"]).json() for _ in range(11)]
    assert [message["stop_reason"] for message in said] == [
        *("end_turn", "end_turn", "max_tokens", "max_tokens", "refusal", "pause_turn"),
        *("stop_sequence", "max_tokens", "end_turn", "tool_use", "end_turn"),
    ]
    assert [message["stop_sequence"] for message in said if message["stop_sequence"]] == ["\n"]
    api.answer("in pieces", stop_reason="refusal")
    streamed = events(ask(api, max_tokens=2, stream=True).text)
    (delta,) = [data["delta"] for name, data in streamed if name == "message_delta"]
    assert delta["stop_reason"] == "refusal"


def test_scripted_answers_ask_the_quotas():
    """A text waits for the request that is admitted, and uses the quotas like any other."""
    with ClaudeApi(rpm=2, clock=ManualClock()) as api:
        api.answer("one", "two", "three")
        assert [texts(ask(api)) for _ in "ab"] == [["one"], ["two"]]
        refused = ask(api)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        assert ask(api, stream=True).status_code == 429
        api.refuse(529)
        assert ask(api).status_code == 429, "in order"
        api.limits(rpm=None)
        assert texts(ask(api)) == ["three"]
        assert ask(api).status_code == 529


@pytest.mark.parametrize("limit", ["itpm", "otpm", "max_concurrency", "spend_cap_after"])
def test_scripted_answers_ask_each_limit(limit):
    """Tokens, requests in flight and the spend limit."""
    options = {"itpm": 4, "otpm": 1, "max_concurrency": 1, "spend_cap_after": 1}
    with ClaudeApi(clock=ManualClock(), **{limit: options[limit]}) as api:
        api.script(Stall(after_bytes=1) if limit == "max_concurrency" else Ok("first"), Ok("next"))
        with raw_socket(api) as sock:
            sock.sendall(raw_request(body("four characters")))
            assert sock.recv(1) == b"H"
            api.wait_until_idle() if limit != "max_concurrency" else None
            assert ask(api, "four characters").status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_of_the_request_decides(api, stream):
    """From its turn on, and between what is scripted; None is the answer nobody scripted."""

    def decide(request):
        text = request["messages"][-1]["content"]
        return {
            "default": None,
            "dict": {"score": 1},
            "message": {"content": [{"type": "text", "text": "m"}], "stop_reason": "pause_turn"},
            "block": {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
            "reply": Reply(529),
        }.get(text, text.upper())

    api.answer("first", decide)
    asked = ["x", "y", "dict", "message", "block", "default"]
    answers = [ask(api, text, stream=stream) for text in asked]
    assert ask(api, "reply", stream=stream).status_code == 529
    api.answer("then")
    answers += [ask(api, text, stream=stream) for text in "zz"]
    said = [whole(answer) for answer in answers]
    assert [text for text, _ in said] == [
        *("first", "Y", '{"score": 1}', "m", '{"at":1}', "echo: default", "then", "Z")
    ]
    assert [reason for _, reason in said[3:5]] == ["pause_turn", "tool_use"]


def whole(answer):
    """Text (or input) and stop reason of an answer, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        (block,) = answer.json()["content"]
        shown = block.get("text") or json.dumps(block.get("input"), separators=(",", ":"))
        return shown, answer.json()["stop_reason"]
    deltas = [data["delta"] for name, data in events(answer.text) if name.endswith("_delta")]
    pieces = [delta.get("text", delta.get("partial_json", "")) for delta in deltas]
    return "".join(pieces), deltas[-1]["stop_reason"]


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s=="}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": None}}
SUMMARY = {"type": "compaction", "content": "So far."}


class City(pydantic.BaseModel):
    """What an application reads from an answer."""

    name: str = pydantic.Field(alias="cityName")
    mayor: Optional[str]


@pytest.mark.parametrize("by_function", [False, True], ids=["given", "by a function"])
def test_content_blocks_are_an_answer(api, by_function):
    """A list of them, or the field of a message; dicts, and the SDK's typed ones."""
    typed = text_block()(type="text", text="x")
    blocks = [THOUGHT, typed, TOOL]
    for value in (blocks, tuple(blocks), {"content": blocks}, {"content": "x", "stop_reason": "a"}):
        api.answer((lambda _request, value=value: value) if by_function else value)
    api.answer([SUMMARY], blocks=[TOOL])
    answers = [ask(api).json() for _ in range(5)]
    contents = [answer["content"] for answer in answers]
    assert contents[:3] == [[THOUGHT, text("x"), TOOL]] * 3
    assert contents[3:] == [[text("x")], [SUMMARY, TOOL]]
    assert [one["stop_reason"] for one in answers] == [*["tool_use"] * 3, "a", "tool_use"]


@pytest.mark.parametrize("wrong", [["a", "b"], [{"a": 1}], [None], ("a", 1)])
def test_another_list_is_told_what_to_write(api, wrong):
    """It may be meant as several answers, or as JSON."""
    with pytest.raises(TypeError, match="json.dumps"):
        api.answer(wrong)


def test_a_model_of_the_application_is_the_json_that_it_reads(api):
    """By its aliases, and with what may be null; also within a dict."""
    city = City(cityName="Rome", mayor=None)
    api.answer(city, {"cities": [city]})
    one = {"cityName": "Rome", "mayor": None}
    assert [json.loads(texts(ask(api))[0]) for _ in "12"] == [one, {"cities": [one]}]


def test_errors_are_answers(api):
    """Given or raised: the SDK's are refusals, a lost connection is one, others are named."""

    def failing(error):
        def decide(_request):
            raise error

        return decide

    response = SimpleNamespace(
        request=None, status_code=429, headers={"retry-after": "7", "request-id": "req_1"}
    )
    body_ = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    limited = anthropic.RateLimitError("slow down", response=response, body=body_)
    for told in (limited, failing(limited), lambda _: body_):
        api.answer(told)
        refused = ask(api)
        assert (refused.status_code, refused.json()["error"]) == (429, body_["error"])
    api.answer(limited)
    assert ask(api).headers["retry-after"] == "7"
    for lost in (ConnectionResetError(), failing(anthropic.APIConnectionError(request=None))):
        api.answer(lost)
        with pytest.raises(requests.ConnectionError, match="reset|aborted"):
            ask(api)
    for late in (TimeoutError(), anthropic.APITimeoutError(request=None)):
        api.answer(late)
        with pytest.raises(requests.Timeout, match="timed out"):
            ask(api, timeout=0.05)
    api.answer(failing(LookupError("no such thing")), lambda _: 7)
    for words in ("LookupError: no such thing", "not int"):
        wrong = ask(api)
        assert (wrong.status_code, wrong.headers["x-should-retry"]) == (500, "false")
        assert words in wrong.json()["error"]["message"]


def test_a_function_uses_a_quota_if_it_answers():
    """It is asked when a request is admitted; a refusal of its own uses nothing."""
    seen = []

    def decide(request):
        seen.append(request)
        return Reply(529) if len(seen) == 1 else "x"

    with ClaudeApi(rpm=1, clock=ManualClock()) as api:
        api.answer(decide)
        assert [ask(api).status_code for _ in range(4)] == [529, 200, 429, 429]
        assert seen == [body(), body()]
        assert ask(api, max_tokens=0).status_code == 400
        assert len(seen) == 2, "an invalid request is the server's"


def text(words):
    return {"type": "text", "text": words}


def test_prompts_show_all_blocks(api):
    """Texts and tool results as they are, the rest by marks; the system prompt is in asked."""
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    image = {"type": "image", "source": source}
    ask(
        api,
        [image, {"type": "text", "text": "What is this?"}, {"type": "text", "text": "Briefly."}],
    )
    plain = {"type": "text", "media_type": "text/plain", "data": "All of it."}
    ask(
        api,
        [
            {"type": "document", "title": "Report", "source": plain},
            {"type": "document", "source": source},
            {"type": "tool_result", "tool_use_id": "t", "content": "12 °C"},
            {"type": "tool_result", "tool_use_id": "t", "content": [image, text("b")]},
            {"type": "tool_result", "tool_use_id": "t"},
            {"type": "search_result", "title": "T", "content": [text("found")]},
            {"type": "of_tomorrow"},
        ],
        system="Be kind.",
    )  # fmt: skip
    assert api.prompts == [
        "[image]\nWhat is this?\nBriefly.",
        "[document Report] All of it.\n[document]\n[tool_result] 12 °C\n"
        "[tool_result] [image]\nb\n[tool_result]\n[search_result T] found\n[of_tomorrow]",
    ]


@pytest.mark.parametrize(
    ("status", "options", "expected"),
    [
        (429, {"retry_after": 2}, ("rate_limit_error", "true", "2")),
        (429, {"retry_after": 0.5}, ("rate_limit_error", "true", "0.5")),
        (429, {}, ("rate_limit_error", "true", None)),
        (429, {"error_code": "credits_required"}, ("rate_limit_error", "false", None)),
        (529, {}, ("overloaded_error", "true", None)),
        (500, {}, ("api_error", "true", None)),
        (400, {}, ("invalid_request_error", "false", None)),
        (413, {"error_type": "own"}, ("own", "false", None)),
        (599, {}, ("api_error", "true", None)),
    ],
)
def test_refusals_are_worded_as_the_api_words_them(api, status, options, expected):
    """Type and headers by the status; a code without a time does not pass."""
    api.refuse(status, **options)
    answer = ask(api)
    said = answer.json()["error"]
    headers = answer.headers
    assert answer.status_code == status
    assert (said["type"], headers["x-should-retry"], headers.get("retry-after")) == expected
    assert said["message"]
    assert ask(api).status_code == 200


def test_a_refusal_may_come_several_times_and_late(api):
    """With words of one's own."""
    api.refuse(503, message="Back soon", latency=0.05, times=2)
    began = SYSTEM_CLOCK.monotonic()
    answers = [ask(api) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json()["error"]["message"] == "Back soon"
    assert SYSTEM_CLOCK.monotonic() - began >= 0.1


@pytest.mark.parametrize(
    "wrong", [{"status": 200}, {"status": 302}, {"status": 429, "retry_after": -1}]
)
def test_what_is_no_refusal_is_refused(api, wrong):
    """A redirect, for example, is scripted by its own name."""
    with pytest.raises(ValueError, match="refusal|retry_after"):
        api.refuse(**wrong)


def test_latencies_change_while_it_runs(api):
    """For all calls, as a function of the request, or for one answer."""

    def seconds():
        began = SYSTEM_CLOCK.monotonic()
        ask(api, "slow")
        return SYSTEM_CLOCK.monotonic() - began

    api.answer("late", latency=0.1)
    assert seconds() >= 0.1
    api.latency = lambda random, body: 0.1 if "slow" in str(body) else 0.0
    assert seconds() >= 0.1
    api.latency = 5.0
    api.answer("at once", latency=0.0)
    assert seconds() < 4.0


def test_what_was_asked_is_kept_word_for_word(api):
    """Refused or not, and prompts whole where an arrival keeps 200 characters."""
    api.refuse(529)
    api.script(Reset(), Ok("last"))
    long = "x" * 1000
    ask(api, long, system="be kind")
    with pytest.raises(OSError, match=r"."):
        ask(api, "reset")
    ask(api, [{"type": "text", "text": "blocks"}])
    assert api.asked[0] == body(long, system="be kind")
    assert api.prompts == [long, "reset", "blocks"]
    assert [arrival.status for arrival in api.arrivals] == [529, 0, 200]
    api.asked[0].clear()
    assert api.asked[0]["system"] == "be kind", "a copy"


def test_what_is_no_json_was_asked_too(api):
    """Each arrival has its place."""
    for sent in (b"nonsense", b"[1]", {"model": "m"}):
        with raw_socket(api) as sock, sock.makefile("rb") as stream:
            sock.sendall(raw_request(sent))
            read_answer(stream)
    with raw_socket(api) as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_request(body(), path="/v1/messages/count_tokens"))
        read_answer(stream)
    assert api.asked == [{}, {}, {"model": "m"}]
    assert api.prompts == ["", "", ""]


def test_the_log_has_a_limit():
    """The same for requests as for arrivals."""
    with ClaudeApi(log_limit=2) as api:
        for text in "abc":
            ask(api, text)
        assert api.prompts == ["b", "c"]


def test_many_threads_ask_and_look():
    """Nothing is lost, and looking meanwhile does no harm."""
    with ClaudeApi() as api:
        threads = [threading.Thread(target=ask, args=(api, f"{n}")) for n in range(16)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert len(api.asked) <= 16
        for thread in threads:
            thread.join()
        assert sorted(api.prompts, key=int) == [str(number) for number in range(16)]


def test_time_is_moved_on_until_they_are_done():
    """And it tells how far."""
    clock = ManualClock()
    late: Future[None] = Future()
    condition = threading.Condition()

    def wait():
        with condition:
            clock.wait(condition, 10.0)
        late.set_result(None)

    thread = threading.Thread(target=wait)
    thread.start()
    clock.wait_for_sleepers(1)
    began = clock.monotonic()
    moved = clock.advance_until_done(late, step=5.0)
    assert moved >= 10.0  # more, if the thread takes a while to wake
    assert moved == clock.monotonic() - began
    thread.join()
    assert clock.advance_until_done(late) == 0.0

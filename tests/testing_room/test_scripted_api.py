"""ClaudeApi: the fake server with a unit test's words."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import ClaudeApi, ManualClock, Ok, Reset
from tests.support.fake_http import ask, body, raw_request, raw_socket, read_answer


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
    assert clock.advance_until_done(late, step=5.0) == 10.0
    thread.join()
    assert clock.advance_until_done(late) == 0.0

"""The fake server as a client sees it: routes, answers, keys, seeds."""

from __future__ import annotations

import random
import re

import pytest
import requests

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import FakeClaude
from tests.support.fake_http import HEADERS, KEY, ask, body


@pytest.fixture(scope="module")
def server():
    with FakeClaude() as running:
        yield running


def test_a_good_answer_has_the_shape_of_the_api(server):
    """Every field a client reads."""
    answer = ask(server, "hello there")
    message = answer.json()
    assert re.fullmatch("msg_[0-9a-z]+", message.pop("id"))
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": [{"type": "text", "text": "echo: hello there"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 20,
            "service_tier": "standard",
        },
    }
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["anthropic-organization-id"]
    assert not [name for name in answer.headers if "ratelimit" in name]


def test_the_log_tells_what_came(server):
    """Without the key."""
    ask(server, "x" * 300, headers={**HEADERS, "X-Trace": "7"})
    last = server.arrivals[-1]
    assert (last.model, last.input_tokens, last.output_tokens) == ("claude-sonnet-5", 75, 20)
    assert (last.status, last.admitted, last.in_flight) == (200, True, 1)
    assert last.nonce == "x" * 200
    assert last.headers["x-trace"] == "7"
    assert last.key_tail == "wxyz"
    assert KEY not in str(last)
    assert 0 <= SYSTEM_CLOCK.monotonic() - last.at < 5


def test_all_text_of_the_prompt_is_counted(server):
    """System, blocks and tools; not what is no text."""
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 10_000}}
    blocks = [image, {"type": "text", "text": "b" * 8}]
    tool = {"name": "c" * 4, "description": "d" * 4, "input_schema": {"type": "object"}}
    answer = ask(server, blocks, system="a" * 4, tools=[tool])
    assert answer.json()["usage"]["input_tokens"] == 5
    assert server.arrivals[-1].nonce == "b" * 8


def test_output_is_cut_to_max_tokens(server):
    """And says so."""
    message = ask(server, max_tokens=7).json()
    assert (message["usage"]["output_tokens"], message["stop_reason"]) == (7, "max_tokens")


@pytest.mark.parametrize("text", ["Grüße, 世界 🎉", "\ud800"])
def test_any_text_comes_back(server, text):
    """UTF-8 both ways; half a surrogate pair does no harm."""
    expected = text.encode("utf-8", "replace").decode()
    assert ask(server, text).json()["content"][0]["text"] == f"echo: {expected}"


def test_both_kinds_of_key_are_accepted(server):
    """And none is not."""
    assert ask(server, headers={"Authorization": "Bearer sk-0123"}).status_code == 200
    assert server.arrivals[-1].key_tail == "0123"
    refused = ask(server, headers={"Authorization": "Basic abc"})
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"
    assert refused.headers["request-id"] == refused.json()["request_id"]


def test_only_known_keys_are_let_in():
    """If there is a list of them."""
    with FakeClaude(api_keys={"good"}) as server:
        assert ask(server, headers={"x-api-key": "good"}).status_code == 200
        assert ask(server, headers={"x-api-key": "bad"}).status_code == 401


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
    ],
)
def test_wrong_fields_are_invalid(server, change, word):
    """400 names the field, and tells not to retry."""
    answer = ask(server, **change)
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"].startswith(word)


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_missing_fields_are_invalid(server, name):
    """All three are required."""
    fields = body()
    del fields[name]
    answer = requests.post(server.url + "/v1/messages", json=fields, headers=HEADERS, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"{name}: Field required"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_invalid(server, data):
    """And harms nobody."""
    answer = requests.post(server.url + "/v1/messages", data=data, headers=HEADERS, timeout=5)
    assert answer.status_code == 400


def test_a_huge_body_is_refused_by_the_edge(server):
    """413, as no JSON and without a request id."""
    data = bytes(33 * 1024 * 1024)
    answer = requests.post(server.url + "/v1/messages", data=data, headers=HEADERS, timeout=10)
    assert answer.status_code == 413
    assert b"cloudflare" in answer.content
    assert "request-id" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_other_places_are_not_found(server, method):
    """The connection lives on."""
    with requests.Session() as session:
        for _ in range(2):
            answer = session.request(method, server.url + "/", timeout=5)
            assert answer.status_code == 404
            if method == "GET":
                assert answer.json()["error"]["type"] == "not_found_error"


def test_tokens_can_be_counted_without_quota():
    """count_tokens has limits of its own in the real API, none here; it is not in the log."""
    with FakeClaude(rpm=1) as server:
        url = server.url + "/v1/messages/count_tokens"
        fields = {"model": "m", "messages": [{"role": "user", "content": "x" * 41}]}
        for _ in range(3):
            answer = requests.post(url, json=fields, headers=HEADERS, timeout=5)
            assert answer.json() == {"input_tokens": 11}
        assert requests.post(url, json={}, headers=HEADERS, timeout=5).status_code == 400
        assert server.arrivals == []


def test_latency_and_length_may_be_functions():
    """Of a seeded random source and the body."""
    seen = []

    def length(source: random.Random, fields):
        seen.append(fields["messages"][0]["content"])
        return source.randint(1, 90)

    with FakeClaude(latency=lambda source, fields: 0.05, output_tokens=length) as server:
        answer = ask(server, "how long?")
    assert answer.elapsed.total_seconds() >= 0.05
    assert seen == ["how long?"]
    assert 1 <= answer.json()["usage"]["output_tokens"] <= 90


def test_a_function_that_raises_is_an_internal_error(caplog):
    """The server lives on, and its log tells."""
    with FakeClaude(latency=lambda source, fields: 1 / 0) as server:
        assert [ask(server).status_code for _ in range(2)] == [500, 500]
    assert "division by zero" in caplog.text


def test_the_same_seed_says_the_same():
    """Ids and lengths, in order of arrival; another seed says something else."""

    def told(seed):
        lengths = lambda source, fields: source.randint(1, 100)
        with FakeClaude(seed=seed, output_tokens=lengths) as server:
            answers = [ask(server) for _ in range(5)]
        return [(a.headers["request-id"], a.json()["id"], a.json()["usage"]) for a in answers]

    assert told(1) == told(1)
    assert told(1) != told(2)

"""The ``responses`` helper: requests-based code and our throttler, without a server."""

from __future__ import annotations

import json
import subprocess
import sys

import anthropic
import pytest
import requests
import responses

from claude_throttle import AccountSuspended, Throttler
from claude_throttle.testing import OWN_SPEND_LIMIT, add_message, add_refusal, limit_headers
from tests.support.fake_http import HEADERS, body, events

URL = "https://api.anthropic.com/v1/messages"


pytestmark = pytest.mark.usefixtures("_no_network")


@pytest.fixture
def rsps():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def throttler(rsps):
    """Closed before the mock goes."""
    with Throttler(api_key="any", rpm=1e6, burst=1000) as throttler:
        yield throttler


def post(**more):
    return requests.post(URL, json=body(**more), headers=HEADERS, timeout=5)


def test_plain_requests_code_gets_a_whole_message(rsps):
    """Made of its own request; the last answer is given again and again."""
    add_message(rsps, "Hello!", headers=limit_headers(requests=(50, 49)))
    add_message(rsps)
    first, second, third = post(), post(text="two"), post(text="three")
    message = first.json()
    assert message["content"] == [{"type": "text", "text": "Hello!"}]
    assert message["model"] == body()["model"]
    assert message["usage"]["input_tokens"] == 2
    assert message["usage"]["output_tokens"] == 2
    assert first.headers["anthropic-ratelimit-requests-remaining"] == "49"
    assert first.headers["content-type"] == "application/json"
    assert [answer.json()["content"][0]["text"] for answer in (second, third)] == [
        "echo: two",
        "echo: three",
    ]
    assert second.headers["request-id"] != third.headers["request-id"]


def test_the_address_is_that_of_the_environment(rsps, monkeypatch):
    """As for a client that is told none."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gate.example/")
    add_message(rsps, "by the gate")
    with Throttler(api_key="any") as throttler:
        answer = throttler.call(**body(), raw=True)
    assert answer["content"][0]["text"] == "by the gate"


def test_the_module_itself_will_do():
    """With the decorator most people use."""

    @responses.activate
    def run():
        add_message(responses, "x", usage={"output_tokens": 7}, base_url="https://gate.example/a")
        answer = requests.post(
            "https://gate.example/a/v1/messages",
            data=json.dumps(body()),
            headers=HEADERS,
            timeout=5,
        )
        return answer.json()["usage"]["output_tokens"]

    assert run() == 7


def test_a_throttlers_calls_are_caught(rsps, throttler):
    """Typed and raw; a refusal that passes is tried again, without a wait in between."""
    add_refusal(rsps, 529)
    add_refusal(rsps, 429, retry_after=0.01)
    add_message(rsps, "after all")
    message = throttler.call(**body())
    assert isinstance(message, anthropic.types.Message)
    assert message.content[0].text == "after all"
    assert throttler.call(**body(), raw=True)["content"][0]["text"] == "after all"
    assert [call.response.status_code for call in rsps.calls] == [529, 429, 200, 200]


def test_limits_are_learned_from_canned_headers(rsps):
    """So a test can bring a throttler to where it wants it."""
    told = limit_headers(
        requests=(1000, 999), input_tokens=(80_000, 79_400), reset_seconds=1, tokens=(9e4, 9e4)
    )
    assert told["anthropic-ratelimit-input-tokens-remaining"] == "79000"
    assert told["anthropic-ratelimit-requests-reset"].endswith("Z")
    add_message(rsps, "x", headers=told)
    with Throttler(api_key="any") as throttler:
        throttler.call(**body(), raw=True)
        (lane,) = throttler.limits().values()
    assert {quota.kind: quota.learned for quota in lane.quotas}["requests"] == 1000
    with pytest.raises(TypeError, match="a limit request"):
        limit_headers(request=(1, 1))


def test_a_refusal_is_the_sdks_own_error(rsps, throttler):
    """With the words, the type and the id of the API."""
    add_refusal(rsps, 400, message="prompt is too long", headers={"request-id": "req_9"})
    error = throttler.submit(**body()).exception(20)
    assert isinstance(error, anthropic.BadRequestError)
    assert error.body["error"] == {"type": "invalid_request_error", "message": "prompt is too long"}
    assert error.body["request_id"] == error.request_id == "req_9"


def test_an_account_problem_suspends(rsps, throttler):
    """Given whole, as the server would."""
    add_refusal(rsps, OWN_SPEND_LIMIT)
    with pytest.raises(anthropic.BadRequestError):
        throttler.call(**body())
    with pytest.raises(AccountSuspended):
        throttler.call(**body())
    assert len(rsps.calls) == 1


def test_a_wrong_request_is_refused_as_the_api_would(rsps):
    """A mock that answers everything would hide the mistake."""
    add_message(rsps, "never mind")
    asked = body()
    del asked["max_tokens"]
    without = requests.post(URL, json=asked, headers=HEADERS, timeout=5)
    assert (without.status_code, "max_tokens" in without.text) == (400, True)
    assert requests.post(URL, json=body(), timeout=5).status_code == 401
    assert requests.post(URL, data=b"{", headers=HEADERS, timeout=5).status_code == 400


def test_a_stream_is_a_stream_of_events(rsps):
    """The text in pieces, and a tool after it."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
    add_message(rsps, "a longer text", blocks=[tool])
    answer = post(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    seen = events(answer.text)
    assert [seen[0][0], seen[-1][0]] == ["message_start", "message_stop"]
    deltas = [data["delta"] for name, data in seen if name == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "a longer text"
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"at": 1}
    assert post().json()["stop_reason"] == "tool_use"


def test_a_tool_alone_has_no_empty_text_before_it(rsps):
    """As with the fake server."""
    add_message(rsps, "", blocks=[{"type": "tool_use", "id": "t", "name": "n", "input": {}}])
    assert [block["type"] for block in post().json()["content"]] == ["tool_use"]


def test_it_loads_neither_responses_nor_requests():
    """They are the caller's."""
    look = (
        "import sys, claude_throttle.testing.with_responses;"
        "print([name for name in ('requests', 'responses', 'anthropic') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "[]"

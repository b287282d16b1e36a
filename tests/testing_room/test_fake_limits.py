"""The fake server's quotas as a client meets them: refusals, headers, concurrency, spend."""

from __future__ import annotations

import http.client
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle.testing import FakeClaude, Stall, worst_excess
from tests.support.fake_http import (
    HEADERS,
    ask,
    ask_until,
    body,
    raw_request,
    raw_socket,
    wait_for_arrivals,
)


def test_the_refusal_names_the_limit_and_the_wait():
    """The captured text, and headers a client obeys."""
    with FakeClaude(rpm=50, burst=1, organization_id="org-1") as server:
        ask(server)
        answer = ask(server)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-should-retry"] == "true"
    assert message.startswith(
        "This request would exceed your organization's rate limit of 50 requests per minute"
        " (org: org-1, model: claude-sonnet-5)."
    )


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"itpm": 30_000, "itpm_burst": 10}, "30,000 input tokens per minute"),
        ({"otpm": 8_000, "otpm_burst": 5}, "8,000 output tokens per minute"),
    ],
)
def test_token_limits_are_named_too(limit, text):
    """One call of 10 tokens in and 20 out is what fits."""
    with FakeClaude(**limit, clock=StandingClock()) as server:  # 10 tokens are back in 20 ms
        answers = [ask(server, "x" * 40), ask(server, "x" * 40)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert text in answers[1].json()["error"]["message"]


class StandingClock:
    """Time that a test sets; nothing waits on it."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_800_000_000.0 + self.now

    def wait(self, condition, seconds):
        raise AssertionError("the server does not wait on the clock")


def test_the_headers_tell_limit_remaining_and_reset():
    """Tokens rounded to thousands; reset is the instant of the full refill, in RFC 3339."""
    clock = StandingClock()
    with FakeClaude(rpm=60, itpm=60_000, otpm=6_000, clock=clock) as server:
        answer = ask(server, "x" * 40_400)
    headers = {
        name[len("anthropic-ratelimit-") :]: value
        for name, value in answer.headers.items()
        if name.startswith("anthropic-ratelimit-")
    }
    resets = {name: headers.pop(name) for name in list(headers) if name.endswith("reset")}
    assert headers == {
        "requests-limit": "60",
        "requests-remaining": "59",
        "input-tokens-limit": "60000",
        "input-tokens-remaining": "50000",
        "output-tokens-limit": "6000",
        "output-tokens-remaining": "6000",
        "tokens-limit": "66000",
        "tokens-remaining": "56000",
    }
    # 10,100 tokens at 1,000 a second; a reset is a whole second, never too early.
    assert resets == {
        "requests-reset": "2027-01-15T08:01:41Z",
        "input-tokens-reset": "2027-01-15T08:01:51Z",
        "output-tokens-reset": "2027-01-15T08:01:40Z",
        "tokens-reset": "2027-01-15T08:01:51Z",
    }
    assert answer.headers["date"] == "Fri, 15 Jan 2027 08:01:40 GMT"


def test_models_have_buckets_of_their_own():
    """One model's traffic does not slow another."""
    with FakeClaude(rpm=1) as server:
        assert [ask(server, model=name).status_code for name in "aabb"] == [200, 429, 200, 429]


def test_limits_change_while_running():
    """At once, for all models; what is not named stays."""
    with FakeClaude(rpm=1, itpm=1000) as server:
        assert [ask(server).status_code for _ in range(2)] == [200, 429]
        assert server.limits(rpm=None).itpm == 1000
        assert [ask(server).status_code for _ in range(3)] == [200] * 3
        with pytest.raises(TypeError):
            server.limits(rps=3)


def test_quotas_and_log_follow_the_given_clock():
    """An hour passes when the test says so."""
    clock = StandingClock()
    with FakeClaude(rpm=1, clock=clock) as server:
        first = ask(server)
        assert ask(server).headers["retry-after"] == "60"
        clock.now += 60.0
        assert ask(server).status_code == 200
        assert [arrival.at for arrival in server.arrivals] == [100.0, 100.0, 160.0]
    assert first.headers["date"] == "Fri, 15 Jan 2027 08:01:40 GMT"
    assert first.headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:02:40Z"


def test_output_is_charged_while_it_is_produced():
    """In steps over the latency: others are refused before the first answer is complete."""

    def only_long(value):
        return lambda source, fields: value if fields["messages"][0]["content"] == "long" else 0

    limits = {"otpm": 60, "otpm_burst": 10}
    with FakeClaude(**limits, output_tokens=only_long(90), latency=only_long(5.0)) as server:
        with raw_socket(server) as sock:
            sock.sendall(raw_request(body("long")))
            wait_for_arrivals(server, 1)
            refused = ask_until(server, 429, "probe")
        assert server.arrivals[-1].in_flight == 1
    assert "60 output tokens per minute" in refused.json()["error"]["message"]


def test_concurrency_has_a_cap():
    """The text of the captures; no retry-after."""
    with FakeClaude(max_concurrency=1) as server, raw_socket(server) as sock:
        server.script(Stall())
        sock.sendall(raw_request(body()))
        wait_for_arrivals(server, 1)
        answer = ask(server)
        assert answer.status_code == 429
        assert "retry-after" not in answer.headers
        assert answer.headers["x-should-retry"] == "true"
        assert answer.json()["error"]["message"].startswith("Number of concurrent connections")
        assert [arrival.in_flight for arrival in server.arrivals] == [1, 1]


def test_the_spend_cap_comes_after_so_many():
    """And stays."""
    with FakeClaude(spend_cap_after=2) as server:
        assert [ask(server).status_code for _ in range(4)] == [200, 200, 429, 429]
        assert "retry-after" not in ask(server).headers


def test_a_hundred_connections_at_once():
    """Each keeps its connection for three calls, and gets its own answers."""
    with FakeClaude(rpm=6000, burst=150, latency=0.02) as server:
        with ThreadPoolExecutor(100) as pool:
            statuses = Counter(
                status for found in pool.map(three_calls, [server] * 100) for status in found
            )
        arrivals = server.arrivals
    let_in = [arrival.at for arrival in arrivals if arrival.admitted]
    assert sum(statuses.values()) == len(arrivals) == 300
    assert statuses[200] == len(let_in) >= 150
    assert set(statuses) <= {200, 429}
    assert worst_excess(let_in, [1] * len(let_in), 100, 150, 0) <= 1e-3
    assert [a.at for a in arrivals] == sorted(a.at for a in arrivals)


def three_calls(server):
    host = server.url.rpartition("//")[2]
    connection = http.client.HTTPConnection(host, timeout=10)
    found = []
    for number in range(3):
        connection.request("POST", "/v1/messages", raw_body(number), HEADERS)
        answer = connection.getresponse()
        content = answer.read()
        found.append(answer.status)
        assert answer.status != 200 or b"echo: call %d" % number in content
    connection.close()
    return found


def raw_body(number):
    return raw_request(body(f"call {number}")).partition(b"\r\n\r\n")[2]

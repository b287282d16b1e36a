"""A client that sends nothing again by itself loses no request to a limit that only time mends.

That is a session of ``throttler.session()`` or ``mount()``, and a client of httpx around
``throttler.transport()``: as many libraries as are installed.
"""

from __future__ import annotations

import contextlib
import io
import json
from concurrent.futures import ThreadPoolExecutor

import anthropic
import pytest
import requests
from requests.adapters import HTTPAdapter, Retry

from claude_throttle.testing import Garbage, Ok, Reply, Reset
from tests.support.calls import HELLO, KEY, echo
from tests.support.httpx_libraries import INSTALLED, library
from tests.support.inside import connections_to, slots_in_use
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "content-type": "application/json"}
BODY = json.dumps(HELLO).encode()
SOON = {"retry-after-ms": "1"}

#: Of a server that is asked no oftener than it says.
BUSY = Reply(429, SOON, "rate_limit_error", "would exceed your rate limit of 50 requests")

DOORS = ["session", "mount", *INSTALLED]


class RawClient:
    """One face for both kinds of libraries."""

    def __init__(self, made, url):
        self.made = made
        self._url = url
        self._sends_data = isinstance(made, requests.Session)

    def post(self, content=BODY, path="/v1/messages"):
        given = {"data" if self._sends_data else "content": content}
        return self.made.post(self._url + path, headers=HEADERS, timeout=10, **given)

    @contextlib.contextmanager
    def stream(self, content):
        if self._sends_data:
            url = self._url + "/v1/messages"
            with self.made.post(url, data=content, headers=HEADERS, stream=True, timeout=9) as it:
                yield it.status_code, it.iter_content()
            return
        url = self._url + "/v1/messages"
        with self.made.stream("POST", url, content=content, headers=HEADERS) as it:
            yield it.status_code, it.iter_bytes()


@pytest.fixture
def door():
    """``door(name, server, throttler, **terms)``: a client of a program's own, at that door."""
    with contextlib.ExitStack() as stack:

        def make(name, server, throttler, **terms):
            if name == "session":
                made = throttler.session(**terms)
            elif name == "mount":
                made = requests.Session()
                made.mount(server.url, throttler.adapter())
                throttler.mount(made, **terms)
            else:
                made = library(name).Client(transport=throttler.transport(**terms))
            return RawClient(stack.enter_context(made), server.url)

        yield make


@pytest.fixture
def soon(monkeypatch):
    """A server that names no time is asked again at once."""
    monkeypatch.setattr("claude_throttle.core.pacing.backoff.FIRST_BACKOFF_SECONDS", 0.002)
    monkeypatch.setattr("claude_throttle.core.pacing.pacer.UNNAMED_SECONDS", 0.002)


def gateway(status, text, headers=SOON):
    return Garbage(text.encode(), status, {"content-type": "application/json", **headers})


#: What was refused before anything was done, and may pass when its turn comes again.
PASSING = {
    "a rate limit": BUSY,
    "a rate limit of tokens": Reply(
        429, SOON, "rate_limit_error", "would exceed your rate limit of 90,000 input tokens"
    ),
    "a 429 that names no time": Reply(429, {}, "rate_limit_error"),
    "a gateway's 429": gateway(429, "<html>Too Many Requests</html>", {}),
    "a relay's": gateway(429, '{"error": {"message": "slow down", "code": "429"}}'),
    "a rate limit under another status": Reply(403, SOON, "rate_limit_error", "too many"),
    "a cloud's, by its name": gateway(400, '{"__type": "coral#ThrottlingException"}'),
    "growth": Reply(429, SOON, "rate_limit_error", "slower", error_code="ramp_limit_exceeded"),
    "too many at once": Reply(429, {}, "rate_limit_error", "number of concurrent connections"),
    "an overload with a time": Reply(529, SOON),
    "a 429 to be tried again": Reply(429, {"x-should-retry": "true", **SOON}),
}

#: What is the caller's own affair.
FINAL = {
    "a fault": Reply(500, SOON),
    "a bad gateway": Reply(502),
    "unavailable, with a time": Reply(503, SOON),
    "an overload without a time": Reply(529),
    "a wrong request": Reply(400),
    "a wrong key": Reply(401),
    "no money": Reply(429, {}, "rate_limit_error", "Your credit balance is too low to access"),
    "a spend limit": Reply(429, SOON, "rate_limit_error", "", "enforced_spend_limit_reached"),
    "not to be tried again": Reply(429, {"x-should-retry": "false", **SOON}, "rate_limit_error"),
    "no capacity": Reply(429, SOON, "rate_limit_error", "would exceed your rate limit of 0 fast"),
    "larger than the limit": Reply(
        429, SOON, "rate_limit_error", "would exceed your rate limit of 2 input tokens per minute"
    ),
}


def some_doors(cases):
    """Each case at one door of each kind; at the others in the thorough run."""
    for number, case in enumerate(sorted(cases)):
        for at, name in enumerate(DOORS):
            is_default = at == number % len(DOORS)
            yield (case, name) if is_default else only_thorough(case, name)


@pytest.mark.parametrize(("case", "name"), [*some_doors(PASSING)])
@pytest.mark.usefixtures("soon")
def test_what_a_limit_refused_is_sent_again(fake, throttle, door, case, name):
    """Under a permit of its own; what refused it taught the pace, and nothing stays in flight."""
    server = fake()
    throttler = throttle(server)
    server.script(PASSING[case], Ok())
    answer = door(name, server, throttler).post()
    assert (answer.status_code, echo(answer.json())) == (200, "hello")
    first, second = server.arrivals
    assert first.nonce == second.nonce
    stats = throttler.stats()
    assert (stats.permits, stats.permits_answered, stats.permits_refused) == (2, 1, 1)
    assert slots_in_use(throttler) == 0
    assert len(connections_to(server)) == 1


@pytest.mark.parametrize(("case", "name"), [*some_doors(FINAL)])
def test_all_else_is_the_callers(fake, throttle, door, case, name):
    """A fault, money, what can never pass: sent once."""
    server = fake()
    server.script(FINAL[case], Ok())
    answer = door(name, server, throttle(server)).post()
    assert answer.status_code == FINAL[case].status
    assert answer.json()["type"] == "error"
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("name", ["session", INSTALLED[0]])
def test_a_lost_connection_is_the_callers(fake, throttle, door, name):
    """It may have been taken."""
    server = fake()
    server.script(Reset(), Ok())
    with pytest.raises(Exception, match=r"(?i)connection|reset|disconnected"):
        door(name, server, throttle(server)).post()
    assert len(server.arrivals) == 1


@pytest.mark.parametrize(("name", "most"), [("session", 2), (INSTALLED[0], 2), ("mount", 0)])
def test_it_is_sent_again_as_often_as_max_retries_says(fake, throttle, door, name, most):
    """Then its last refusal is the answer, and can be read."""
    server = fake()
    server.script(*[BUSY] * 5)
    answer = door(name, server, throttle(server, max_retries=most)).post()
    assert answer.status_code == 429
    assert "50 requests" in answer.json()["error"]["message"]
    assert len(server.arrivals) == 1 + most


# -- for how long ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["session", INSTALLED[0]])
def test_a_wait_that_is_longer_than_its_time_is_not_begun(fake, throttle, door, name):
    """The refusal says for how long, and comes at once."""
    server = fake()
    server.script(Reply(429, {"retry-after": "30"}, "rate_limit_error", "busy"), Ok())
    answer = door(name, server, throttle(server), timeout=20).post()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    assert answer.json()["error"]["message"] == "busy"


@pytest.mark.parametrize("name", ["session", INSTALLED[0]])
def test_a_wait_that_outlasts_its_time_ends_with_the_refusal(fake, throttle, door, name):
    """The next turn comes in a minute."""
    server = fake()
    server.script(BUSY, Ok())
    answer = door(name, server, throttle(server, rpm=1), timeout=0.3).post()
    assert (answer.status_code, len(server.arrivals)) == (429, 1)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("session", BUSY),
        (INSTALLED[0], Reply(429, {"retry-after": "60"}, "", "number of concurrent connections")),
    ],
)
def test_close_ends_its_wait_with_the_refusal(fake, throttle, door, name, refusal):
    """Whether it waits for its turn or rests."""
    server = fake()
    throttler = throttle(server, rpm=1)
    client = door(name, server, throttler)
    server.script(refusal, Ok())
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.post)
        wait_until(lambda: throttler.stats().permits_refused == 1)
        throttler.close(timeout=0, cancel_pending=True)
        assert answer.result(10).status_code == 429
    assert len(server.arrivals) == 1


def test_it_goes_before_what_came_after_it(fake, throttle, door):
    """It keeps its place, as the retry of a call does."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    first, second = (door(name, server, throttler) for name in ("session", INSTALLED[0]))
    server.script(Reply(429, {"retry-after-ms": "150"}, "rate_limit_error"), Ok(), Ok())
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(first.post)
        wait_until(lambda: throttler.stats().permits_refused == 1)
        later = pool.submit(second.post, json.dumps({**HELLO, "max_tokens": 7}))
        assert {each.result(10).status_code for each in (refused, later)} == {200}
    assert [arrival.status for arrival in server.arrivals] == [429, 200, 200]
    assert server.arrivals[0].nonce == server.arrivals[1].nonce
    assert server.arrivals[2].output_tokens == 7


# -- bodies ----------------------------------------------------------------------------------------


class Pipe(io.BytesIO):
    """Can be read, once."""

    def seekable(self):
        return False


BODIES = {
    "a generator": lambda body: (body[at : at + 9] for at in range(0, len(body), 9)),
    "a file": io.BytesIO,
    "a pipe": Pipe,
    "text": bytes.decode,
}


@pytest.mark.parametrize(("case", "name"), [*some_doors(BODIES)])
def test_a_body_that_can_be_read_once_is_sent_twice(fake, throttle, door, case, name):
    """Whole."""
    server = fake()
    server.script(BUSY, Ok())
    answer = door(name, server, throttle(server)).post(BODIES[case](BODY))
    assert echo(answer.json()) == "hello"


@pytest.mark.parametrize("name", ["session", INSTALLED[0]])
def test_counts_are_sent_again_too(fake, throttle, door, name):
    """With their own quota, and a body of any kind."""
    server = fake(count_rpm=60_000)
    server.script(BUSY)
    body = {key: value for key, value in HELLO.items() if key != "max_tokens"}
    client = door(name, server, throttle(server))
    answer = client.post(iter([json.dumps(body).encode()]), "/v1/messages/count_tokens")
    assert answer.json()["input_tokens"] > 0


@pytest.mark.parametrize("name", ["session", INSTALLED[0]])
def test_a_stream_that_is_refused_at_its_head_is_sent_again(fake, throttle, door, name):
    """Over the same connection."""
    server = fake()
    throttler = throttle(server)
    server.script(BUSY, Ok())
    body = json.dumps({**HELLO, "stream": True})
    with door(name, server, throttler).stream(body) as (status, chunks):
        assert status == 200
        assert b"message_stop" in b"".join(chunks)
    assert slots_in_use(throttler) == 0
    assert len(connections_to(server)) == 1


# -- who sends again by itself ---------------------------------------------------------------------


@pytest.mark.parametrize("own", [0, 1])
def test_the_sdk_is_left_to_its_own_retries(fake, throttle, sdk, own):
    """It asked for so many; each release says in its headers who it is."""
    server = fake()
    server.script(BUSY, BUSY, BUSY)
    client = sdk(server, throttle(server).transport(), max_retries=own)
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(**HELLO)
    assert len(server.arrivals) == 1 + own


@pytest.mark.parametrize(
    ("retries", "sends"),
    [
        ({"status_forcelist": [429]}, 2),
        ({"status_forcelist": [503]}, 4),
        ({"status_forcelist": [429], "allowed_methods": ["GET"]}, 4),
    ],
    ids=["covered", "of another status", "of another method"],
)
def test_a_sessions_own_retries_go_first(fake, throttle, retries, sends):
    """Where they cover a 429, ours add nothing."""
    server = fake()
    server.script(*[BUSY] * 3, Ok())
    given = {"allowed_methods": None, "raise_on_status": False, **retries}
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(1, **given)))
        throttle(server).mount(session)
        session.post(server.url + "/v1/messages", data=BODY, headers=HEADERS, timeout=10)
    assert len(server.arrivals) == sends

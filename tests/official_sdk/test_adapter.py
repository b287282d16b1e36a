"""``session.mount(…, throttler.adapter())``: raw calls of a caller's own."""

from __future__ import annotations

import gc
import json
import pickle
import threading

import pytest
import requests

from claude_throttle import ConfigurationError, DeadlineExceeded
from claude_throttle.testing import Ok, Reply, Reset
from tests.support.calls import FIVE_SECONDS_AT_ONCE, HELLO, MODEL, ask, echo
from tests.support.inside import endpoint_lane_of, engine_of, pacer_of, slots_in_use

KEY = {"x-api-key": "sk-ant-test-key-0000", "anthropic-version": "2023-06-01"}


@pytest.fixture
def session():
    """``session(server, throttler)``: mounted."""
    with requests.Session() as made:

        def mount(server, throttler, **options):
            made.mount(server.url, throttler.adapter(**options))
            made.headers.update(KEY)
            return made

        yield mount


def post(made, server, path="/v1/messages", **options):
    return made.post(server.url + path, json=HELLO, timeout=10, **options)


def test_an_answer_comes_as_without_it(fake, throttle, session):
    """And is heard."""
    server = fake(rpm=600)
    throttler = throttle(server, rpm=None, max_concurrency=1)
    made = session(server, throttler)
    for _ in range(2):
        answer = post(made, server)
        assert echo(answer.json()) == "hello"
        assert slots_in_use(throttler) == 0
    assert pacer_of(throttler).learned["requests"].limit == 600


def test_it_settles_from_the_answer(fake, throttle, session, manual):
    """The body may be text, too."""
    server = fake(clock=manual)
    server.script(Ok(usage={"input_tokens": 10, "output_tokens": 20}))
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    text = json.dumps({**HELLO, "max_tokens": 1000})
    session(server, throttler).post(server.url + "/v1/messages?beta=true", data=text, timeout=10)
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_a_429_is_shown_and_pauses_the_lane(fake, throttle, session):
    """Nothing is sent again; the next waits for its turn."""
    server = fake()
    throttler = throttle(server)
    made = session(server, throttler)
    server.script(Reply(429, {"retry-after": "1"}, message="limit of 50 requests per minute"))
    refused = post(made, server)
    assert refused.status_code == 429
    assert "requests per minute" in refused.json()["error"]["message"]
    assert len(server.arrivals) == 1
    assert post(made, server).status_code == 200
    first, second = server.arrivals
    assert second.at - first.at >= 1.0


#: Read to their end in all the ways that there are.
WAYS = {
    "iter_lines": lambda answer: b"\n".join(answer.iter_lines()),
    "content": lambda answer: answer.content,
    "raw.read": lambda answer: answer.raw.read(),
    "raw.readline": lambda answer: b"".join(iter(answer.raw.readline, b"")),
    "raw": lambda answer: b"".join(answer.raw),
    "next": lambda answer: next(answer.raw) + b"".join(iter(lambda: next(answer.raw, b""), b"")),
}


@pytest.mark.parametrize("how", WAYS)
def test_a_stream_holds_its_place_until_its_end(fake, throttle, session, manual, how):
    """However it is read."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    body = {**HELLO, "stream": True, "max_tokens": 1000}
    answer = session(server, throttler).post(
        server.url + "/v1/messages", json=body, stream=True, timeout=10
    )
    assert slots_in_use(throttler) == 1
    assert b"message_stop" in WAYS[how](answer)
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_what_urllib3_gave_gives_lines_as_without_it(fake, throttle, session):
    """``for line in answer.raw``: programs look at how each begins."""
    server = fake()
    with session(server, throttle(server)).post(
        server.url + "/v1/messages", json={**HELLO, "stream": True}, stream=True, timeout=10
    ) as answer:
        lines = list(answer.raw)
    begins = {line.partition(b":")[0] for line in lines if line.strip()}
    assert begins == {b"event", b"data"}


def test_events_read_at_once_settle_too(fake, throttle, session, manual):
    """ "stream": true in the body, without stream=True for requests."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    body = {**HELLO, "stream": True, "max_tokens": 1000}
    session(server, throttler).post(server.url + "/v1/messages", json=body, timeout=10)
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_a_stream_that_is_closed_or_dropped_comes_back(fake, throttle, session):
    """By close(), by a with, by nobody."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = session(server, throttler)
    for end in ("close", "drop"):
        answer = post(made, server, stream=True)
        next(answer.iter_content(8))
        assert slots_in_use(throttler) == 1
        if end == "close":
            answer.close()
        del answer
        gc.collect()
        assert slots_in_use(throttler) == 0
    assert echo(throttler.submit(**ask()).result(10)) == "hello"


def test_everything_else_passes(fake, throttle, session):
    """Other paths, other methods, bodies that are no JSON."""
    server = fake()
    throttler = throttle(server)
    made = session(server, throttler)
    assert made.get(server.url + "/v1/models", timeout=10).status_code == 404
    with pytest.warns(UserWarning, match="not a JSON object"):
        made.post(server.url + "/v1/messages", data="no JSON", timeout=10)
    assert engine_of(throttler).account.lanes() == []


def test_counts_have_a_lane_of_their_own(fake, throttle, session):
    """As in the SDK."""
    server = fake()
    throttler = throttle(server, rpm=1)
    throttler.submit(**ask()).result(10)
    counted = post(session(server, throttler), server, "/v1/messages/count_tokens")
    assert counted.json()["input_tokens"] > 0


def test_batches_have_a_lane_of_their_own(fake, throttle, session):
    """Whatever the method; their bodies may be read from a file as they are sent."""
    server = fake()
    throttler = throttle(server, rpm=1)
    made = session(server, throttler)
    url = server.url + "/v1/messages/batches"
    requests = json.dumps({"requests": [{"custom_id": "one", "params": HELLO}]}).encode()
    batch = made.post(url, data=iter([requests]), timeout=10).json()
    assert made.get(f"{url}/{batch['id']}", timeout=10).json()["id"] == batch["id"]
    assert endpoint_lane_of(throttler, "batches").pacer._number == 2
    assert engine_of(throttler).account.lanes() == []


def test_what_breaks_gives_the_place_back(fake, throttle, session):
    """requests' own error."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = session(server, throttler)
    server.script(Reset())
    with pytest.raises(requests.ConnectionError):
        post(made, server)
    assert slots_in_use(throttler) == 0


def test_our_errors_come_as_they_are(fake, throttle, session):
    """Through requests."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = session(server, throttler, timeout=0.05)
    raised = []

    def try_it():
        with pytest.raises(DeadlineExceeded):
            post(made, server)
        raised.append(True)

    with throttler.permit(model=MODEL):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join(10)
    assert raised


def test_retries_of_urllib3_are_refused(fake, throttle):
    """They would not wait for a turn."""
    with pytest.raises(ConfigurationError, match="max_retries"):
        throttle(fake()).adapter(max_retries=3)


def test_it_does_not_pickle(fake, throttle):
    """It belongs to a throttler, and that to a process."""
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(throttle(fake()).adapter())

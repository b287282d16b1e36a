"""``permit.settle(response)``: what it reads, as each library gives it, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unittest.mock import AsyncMock, MagicMock

import anthropic
import pytest
import requests

from claude_throttle import DeadlineExceeded
from claude_throttle.core.pacing.circuit_breaker import FAILURES_IN_A_ROW
from claude_throttle.testing import Ok, Reply
from tests.support.calls import FIVE_SECONDS_AT_ONCE, HELLO, KEY, MODEL, ask
from tests.support.httpx_libraries import OF_THE_SDK
from tests.support.inside import pacer_of
from tests.support.sdk_errors import status_error
from tests.support.sdk_releases import CAPABILITIES

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}

#: What the answers of these tests take.
USAGE = {"input_tokens": 10, "output_tokens": 20}

#: An answer without its usage.
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [],
    "stop_reason": "end_turn",
    "stop_sequence": None,
}


@pytest.fixture
def sdk(fake):
    """``sdk(server)``: a client of the official SDK, as it is."""
    made = []

    def make(server):
        made.append(anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0))
        return made[-1]

    yield make
    for client in made:
        client.close()


def post(server, **options):
    url = f"{server.url}/v1/messages"
    return requests.post(url, json=HELLO, headers=HEADERS, timeout=10, **options)


def streamed(client):
    with client.messages.stream(**HELLO) as stream:
        stream.until_done()
        return stream


def final_message(client):
    return streamed(client).get_final_message()


def beta_message(client):
    return client.beta.messages.create(**HELLO)


def read_in_block(client):
    with client.messages.with_streaming_response.create(**HELLO) as response:
        response.read()
        return response


#: What the SDK gives for one request, by how it is asked.
OF_SDK = {
    "message": lambda client: client.messages.create(**HELLO),
    "dict": lambda client: client.messages.create(**HELLO).model_dump(),
    "beta message": beta_message,
    "raw response": lambda client: client.messages.with_raw_response.create(**HELLO),
    "streaming response": read_in_block,
    "httpx": lambda client: client.messages.with_raw_response.create(**HELLO).http_response,
    "stream": streamed,
    "final message": final_message,
    "usage": lambda client: client.messages.create(**HELLO).usage,
}

#: Old releases have no beta, and leave a stream's usage as it was at its beginning.
LATER = (beta_message, streamed, final_message)

#: Those that bring headers, too.
WITH_HEADERS = ("raw response", "streaming response", "httpx", "stream")


@pytest.mark.parametrize(
    "how", [how for how, ask in OF_SDK.items() if CAPABILITIES["accumulators"] or ask not in LATER]
)
def test_what_the_sdk_gives_teaches_the_usage(fake, throttle, sdk, how):
    """And the headers and the status, where it has them."""
    server = fake(rpm=600)
    server.script(Ok(usage=USAGE))
    throttler = throttle(server, rpm=None)
    with throttler.permit(model=MODEL, max_tokens=100) as permit:
        permit.settle(OF_SDK[how](sdk(server)))
    stats = throttler.stats()
    assert (stats.input_tokens, stats.output_tokens) == (10, 20)
    assert stats.permits_answered == (how != "usage")
    learned = pacer_of(throttler).learned
    assert ("requests" in learned and learned["requests"].limit == 600) == (how in WITH_HEADERS)


@pytest.mark.parametrize("events", [False, True])
def test_a_response_of_requests_teaches_all(fake, throttle, events):
    """The events of a stream, too, if they were read."""
    server = fake(rpm=600)
    server.script(Ok(usage=USAGE))
    throttler = throttle(server, rpm=None)
    with throttler.permit(model=MODEL, max_tokens=100) as permit:
        body = {**HELLO, "stream": events}
        url = f"{server.url}/v1/messages"
        permit.settle(requests.post(url, json=body, headers=HEADERS, timeout=10))
    assert throttler.stats().output_tokens == 20
    assert throttler.stats().permits_answered == 1
    assert pacer_of(throttler).learned["requests"].limit == 600


def test_a_body_that_was_not_read_is_left_to_its_reader(fake, throttle, manual):
    """The headers teach, the estimate stays."""
    server = fake(rpm=600, clock=manual)
    throttler = throttle(server, rpm=None, otpm=600, clock=manual)
    with throttler.permit(model=MODEL, max_tokens=600) as permit:
        response = post(server, stream=True)
        permit.settle(response)
    assert pacer_of(throttler).learned["requests"].limit == 600
    assert throttler.estimate_wait(**ask(max_tokens=600)) > 1
    assert json.loads(b"".join(response.iter_content(7)))["type"] == "message"


def test_what_is_told_by_name_goes_before_the_response(fake, throttle):
    """Each part of it."""
    server = fake()
    throttler = throttle(server)
    with throttler.permit(model=MODEL) as permit:
        permit.settle(post(server), usage={"input_tokens": 1, "output_tokens": 2.0})
    assert throttler.stats().output_tokens == 2


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 500, "completion_tokens": 700},
        {"input_tokens": "500", "output_tokens": "700"},
        {"input_tokens": -500, "output_tokens": 1e400},
        {"input_tokens": None, "output_tokens": None},
        {},
        None,
    ],
)
def test_a_usage_of_another_kind_gives_no_tokens_back(fake, throttle, manual, usage):
    """It is unknown, not zero: what was booked stays, whoever sends the request."""
    server = fake(clock=manual)
    body = {**MESSAGE, "usage": usage}
    server.script(*[Reply(200, {}, body=json.dumps(body).encode())] * 4)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    with throttler.permit(model=MODEL, max_tokens=1000) as permit:
        permit.settle(post(server))
    assert throttler.estimate_wait(**ask(max_tokens=900)) > 20
    bound = {**HELLO, "max_tokens": 1000}
    transport = {"http_client": OF_THE_SDK.Client(transport=throttler.transport())}
    clients = [transport]
    if CAPABILITIES["middleware"]:
        clients.append({"middleware": [throttler.middleware()]})
    for options in clients:
        manual.advance(600)
        with anthropic.Anthropic(api_key=KEY, base_url=server.url, **options) as client:
            client.messages.create(**bound)
        assert throttler.estimate_wait(**ask(max_tokens=900)) > 20
    manual.advance(600)
    with throttler.session() as session:
        session.post(f"{server.url}/v1/messages", json=bound, headers=HEADERS, timeout=10)
    assert throttler.estimate_wait(**ask(max_tokens=900)) > 20


def test_nothing_beside_what_is_known_is_no_answer(fake, throttle):
    """``settle(response, status=503)``, where no response came."""
    throttler = throttle(fake())
    with throttler.permit(model=MODEL) as permit:
        permit.settle(None, status=503)
    assert throttler.stats().permits_refused == 1


# -- refusals --------------------------------------------------------------------------------------


def refused_by_requests(server):
    return post(server, stream=True)


def error_of_requests(server):
    with pytest.raises(requests.HTTPError) as caught:
        post(server).raise_for_status()
    return caught.value


def error_of_sdk(server):
    with (
        anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0) as client,
        pytest.raises(anthropic.RateLimitError) as caught,
    ):
        client.messages.create(**HELLO)
    return caught.value


@pytest.mark.parametrize("how", [refused_by_requests, error_of_requests, error_of_sdk])
def test_a_refusal_pauses_the_lane(fake, throttle, manual, how):
    """By its response or by the exception that was made of it; its body says which it is."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual)
    server.script(Reply(429, {"retry-after": "20"}, message="50 requests per minute"))
    with throttler.permit(model=MODEL) as permit:
        permit.settle(how(server))
    assert 20 <= throttler.estimate_wait(**ask()) < 30
    assert throttler.stats().permits_refused == 1


def test_the_json_of_a_refusal_is_read_by_its_type(fake, throttle):
    """529 for an overload, as within a stream."""
    throttler = throttle(fake())
    with throttler.permit(model=MODEL) as permit:
        permit.settle({"type": "error", "error": {"type": "overloaded_error", "message": "x"}})
    assert throttler.stats().overloaded == 1


def test_another_keys_refusal_suspends_nobody(fake, throttle):
    """The response knows which key was sent."""
    error = status_error(401, "invalid x-api-key")
    error.response.request.headers["x-api-key"] = "another"
    throttler = throttle(fake())
    with throttler.permit(model=MODEL) as permit:
        permit.settle(error)
    throttler.permit(model=MODEL).close()


@pytest.mark.parametrize("kind", [requests.ConnectionError, ConnectionResetError])
def test_errors_without_a_response_open_the_circuit(fake, throttle, kind):
    """Several in a row."""
    throttler = throttle(fake())
    for _ in range(FAILURES_IN_A_ROW):
        with throttler.permit(model=MODEL) as permit:
            permit.settle(kind(ConnectionResetError("reset")))
    assert pacer_of(throttler).circuit.is_open


# -- what it cannot read ---------------------------------------------------------------------------


class Lazy:
    """An object of no library."""

    status_code = "200"
    headers = HEADERS


def test_what_it_cannot_read_is_refused_with_what_it_takes(fake, throttle):
    """It would teach nothing, and nobody would notice. The message quotes nothing."""
    throttler = throttle(fake())
    wrongs = [
        None,
        object(),
        MagicMock(),
        AsyncMock(),
        SimpleNamespace(usage={"input_tokens": float("nan"), "output_tokens": -1}),
        SimpleNamespace(status_code=200, headers={"retry-after": 5}),
        SimpleNamespace(status_code=429, headers={b"retry-after": b"5"}),
        "sk-secret answer",
        b"{}",
        200,
        [{"usage": USAGE}],
        {},
        {"content-type": "text/html"},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        Lazy(),
        SimpleNamespace(usage=None),
        anthropic.types.Message,
        requests.get,
        ValueError("sk-secret"),
        DeadlineExceeded("ours"),
    ]
    for wrong in wrongs:
        with throttler.permit(model=MODEL) as permit, pytest.raises(TypeError) as caught:
            permit.settle(wrong)
        text = str(caught.value)
        assert "settle() takes the answer: a Message" in text
        assert "settle(usage=" in text
        assert "secret" not in text
    assert throttler.stats().permits_unsettled == len(wrongs)


def test_each_part_is_checked_by_its_name(fake, throttle):
    """With what it takes."""
    throttler = throttle(fake())
    for name, wrong in [
        ("usage", object()),
        ("usage", "12"),
        ("usage", 12),
        ("usage", {"input_tokens": "12"}),
        ("usage", {"prompt_tokens": 12}),
        ("headers", [("retry-after", "1")]),
        ("headers", "retry-after: 1"),
        ("headers", {b"retry-after": b"1"}),
        ("status", "200"),
        ("status", True),
        ("status", 2.0),
        ("body", {"type": "error"}),
        ("body", None),
    ]:
        with (
            throttler.permit(model=MODEL) as permit,
            pytest.raises(TypeError, match=f"^{name}= takes .* such as .*, not "),
        ):
            permit.settle(**{name: wrong})


def test_a_permit_that_ends_unsettled_is_counted_and_said_once(fake, throttle, caplog):
    """However it ends; not one that was settled, if only by settle()."""
    throttler = throttle(fake())
    for _ in range(2):
        with throttler.permit(model=MODEL):
            pass
    with pytest.raises(KeyError), throttler.permit(model=MODEL):
        raise KeyError("program")
    for settled in ({}, {"usage": USAGE}, {"status": 200}, {"response": USAGE}):
        with throttler.permit(model=MODEL) as permit:
            permit.settle(**settled)
    stats = throttler.stats()
    assert (stats.permits, stats.permits_unsettled) == (7, 3)
    assert "7 under permits (0 refused), 3 unsettled, " in str(stats)
    (text,) = [r.getMessage() for r in caplog.records if "settle()" in r.getMessage()]
    assert "Write permit.settle(response)" in text

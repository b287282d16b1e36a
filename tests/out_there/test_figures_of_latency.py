"""Latency is the wire alone: to the last byte, before anything is made of it or of its parts."""

from __future__ import annotations

import contextlib

import anthropic
import pytest
import requests

from claude_throttle import CallSucceeded, PermitClosed
from claude_throttle.core.dispatch.wire_time import WireTime
from claude_throttle.testing import Reply, StreamError
from claude_throttle.transport import sdk
from tests.support.calls import HELLO, KEY, MODEL, ask
from tests.support.needs import needs
from tests.support.waiting import wait_until

#: Seconds that a reader, or the building of typed results, takes; the clock is moved by hand.
ELSEWHERE = 30.0


@pytest.fixture
def paced(fake, throttle, manual):
    """A server, a throttler with that clock, and its events."""
    server, events = fake(), []
    return server, throttle(server, clock=manual, on_event=events.append), events


def latency_of(throttler):
    return throttler.stats().latency_seconds


def test_a_call_is_measured_before_its_typed_message_is_built(paced, manual, monkeypatch):
    _, throttler, events = paced
    build = sdk.build_message

    def slowly(*args):
        manual.advance(ELSEWHERE)
        return build(*args)

    sdk.load()
    monkeypatch.setattr(sdk, "build_message", slowly)
    for _ in range(3):
        throttler.call(**ask(raw=False))
    assert (latency_of(throttler).count, latency_of(throttler).max < 1) == (3, True)
    answered = [event for event in events if isinstance(event, CallSucceeded)]
    assert all(event.latency_seconds < 1 for event in answered)


def by_typed_events(throttler, manual):
    with throttler.stream(**ask(raw=False)) as stream:
        for _ in stream:
            manual.advance(ELSEWHERE)


def by_text(throttler, manual):
    with throttler.stream(**ask()) as stream:
        for _ in stream.text_stream:
            manual.advance(ELSEWHERE)


def left_early(throttler, manual):
    with throttler.stream(**ask()) as stream:
        next(stream)
        manual.advance(ELSEWHERE)


@pytest.mark.parametrize("read", [by_typed_events, by_text, left_early], ids=lambda it: it.__name__)
def test_a_stream_is_measured_without_what_its_reader_does(paced, manual, read):
    _, throttler, _ = paced
    read(throttler, manual)
    assert (latency_of(throttler).count, latency_of(throttler).max < 1) == (1, True)


def sdk_client(server, throttler):
    return anthropic.Anthropic(
        api_key=KEY,
        base_url=server.url,
        middleware=[throttler.middleware()],
        http_client=anthropic.DefaultHttpxClient(verify=False),  # to read no certificates
    )


@needs("middleware")
def through_the_sdk(server, throttler, manual):
    with sdk_client(server, throttler) as client:
        client.messages.create(**HELLO)
    manual.advance(ELSEWHERE)


@needs("middleware")
def streamed_by_the_sdk(server, throttler, manual):
    with sdk_client(server, throttler) as client, client.messages.stream(**HELLO) as stream:
        for _ in stream:
            manual.advance(ELSEWHERE)


@contextlib.contextmanager
def post(server, throttler, **options):
    url = f"{server.url}/v1/messages"
    with requests.Session() as session:
        session.mount(server.url, throttler.adapter())
        with session.post(url, headers={"x-api-key": KEY}, **options) as response:
            yield response


def through_a_session(server, throttler, manual):
    with post(server, throttler, json=HELLO) as response:
        assert response.ok
        manual.advance(ELSEWHERE)


def streamed_by_a_session(server, throttler, manual):
    with post(server, throttler, json={**HELLO, "stream": True}, stream=True) as response:
        for _ in response.iter_content(20):
            manual.advance(ELSEWHERE)


def read_by_a_session(server, throttler, manual):
    with post(server, throttler, json=HELLO, stream=True) as response:
        manual.advance(ELSEWHERE)
        while response.raw.read(20):
            manual.advance(ELSEWHERE)


def under_a_permit(server, throttler, manual):
    with throttler.permit(model=MODEL) as permit:
        permit.settle(usage={"input_tokens": 9, "output_tokens": 9}, headers={})
        manual.advance(ELSEWHERE)
        permit.settle(headers={})


@pytest.mark.parametrize(
    "send",
    [
        through_the_sdk,
        streamed_by_the_sdk,
        through_a_session,
        streamed_by_a_session,
        read_by_a_session,
        under_a_permit,
    ],
    ids=lambda it: it.__name__,
)
def test_a_request_of_others_is_measured_by_the_wire_too(paced, manual, send):
    server, throttler, events = paced
    send(server, throttler, manual)
    wait_until(lambda: latency_of(throttler).count)
    assert (latency_of(throttler).count, latency_of(throttler).max < 1) == (1, True)
    (closed,) = [event for event in events if isinstance(event, PermitClosed)]
    assert closed.seconds < 1


def test_what_the_holder_of_a_permit_does_after_settle_is_no_latency(paced, manual):
    _, throttler, events = paced
    with throttler.permit(model=MODEL) as permit:
        manual.advance(2.0)
        permit.settle(headers={})
        manual.advance(ELSEWHERE)
    (closed,) = [event for event in events if isinstance(event, PermitClosed)]
    assert closed.seconds == 2.0
    assert latency_of(throttler).max == pytest.approx(2.0, rel=0.05)


def test_a_permit_of_which_nothing_was_said_has_no_latency(paced, manual):
    _, throttler, events = paced
    with throttler.permit(model=MODEL):
        manual.advance(2.0)
    (closed,) = [event for event in events if isinstance(event, PermitClosed)]
    assert closed.seconds == 2.0
    assert latency_of(throttler).count == 0


@pytest.mark.parametrize(
    "first", [Reply(529, {"retry-after-ms": "1"}), StreamError()], ids=["refused", "in the stream"]
)
def test_waits_for_retries_count_as_they_did(fake, throttle, first):
    """From the first send on: that is what a caller waits for."""
    server, events = fake(), []
    throttler = throttle(server, on_event=events.append)
    server.script(first)
    with throttler.stream(**ask()) as stream:
        stream.until_done()
    kinds = [type(event).__name__ for event in events]
    (answered,) = [event for event in events if isinstance(event, CallSucceeded)]
    (retried,) = [event for event in events if type(event).__name__ == "RetryScheduled"]
    assert "CallSucceeded" in kinds
    assert answered.latency_seconds >= retried.wait_seconds


@pytest.mark.parametrize(
    ("reads", "seconds"),
    [
        ([(None, 2.0)], 2.0),
        ([(None, 2.0), (2.0, 3.0)], 3.0),
        ([(None, 2.0), (32.0, 32.0)], 2.0),
        ([(None, 2.0), (32.0, 32.001), (62.0, 62.001)], 2.002),
        ([(None, 2.0), (32.0, 33.0)], 33.0),
        ([(None, 2.0), (32.0, 32.0), (32.0, 34.0)], 34.0),
        ([(None, 2.0), (32.0, 34.0), (64.0, 64.0)], 34.0),
    ],
    ids=[
        "the head",
        "read at once",
        "there before its reader",
        "there before, twice",
        "still coming when its reader was back",
        "caught up with",
        "the rest was there",
    ],
)
def test_what_came_while_the_reader_was_away_is_known_by_whether_he_waits(reads, seconds):
    at = 0.0
    wire_time = WireTime(lambda: at, 0.0)
    for began, at in reads:  # noqa: B007 - the clock reads it
        wire_time.end_read(began)
    assert wire_time.seconds == pytest.approx(seconds)

"""A refusal of what worked a moment ago may pass: it is tried again before it counts."""

from __future__ import annotations

import json
from concurrent.futures import wait
from dataclasses import replace

import anthropic
import pytest
import responses

from claude_throttle import AccountSuspended, RetryScheduled, Suspended, Throttler
from claude_throttle.testing import KEY_REFUSED, NOT_PERMITTED, Reply
from claude_throttle.testing.replies import error_body
from tests.support.calls import LANE, MODEL, ask, echo
from tests.support.played_server import ANSWER, BASE, KEY, URL
from tests.support.waiting import wait_until

REVOKED = Reply(401, {}, "authentication_error", "OAuth token has been revoked.")
PASSING = {
    "401 invalid x-api-key": KEY_REFUSED,
    "401 in other words": REVOKED,
    "401 that says no retry": Reply(401, {"x-should-retry": "false"}, message="Invalid bearer"),
    "403": NOT_PERMITTED,
    "403 of OAuth": Reply(403, message="OAuth authentication is currently not allowed."),
    "404 of the model": Reply(404, message="model: claude-sonnet-5"),
}


@pytest.fixture(params=PASSING.values(), ids=PASSING.keys())
def refusal(request):
    return request.param


def test_what_worked_a_moment_ago_is_tried_again(fake, throttle, refusal):
    events = []
    server = fake()
    throttler = throttle(server, on_event=events.append)
    for n in range(3):
        throttler.call(**ask(str(n)))
    server.script(refusal)
    assert [echo(throttler.call(**ask(text))) for text in "ab"] == ["a", "b"]
    assert not [event for event in events if isinstance(event, Suspended)]
    assert len([event for event in events if isinstance(event, RetryScheduled)]) == 1
    assert len(server.arrivals) == 6


def test_what_never_worked_is_refused_at_once(fake, throttle, refusal):
    server = fake()
    server.script(refusal)
    with pytest.raises(anthropic.APIStatusError) as caught:
        throttle(server).call(**ask())
    assert caught.value.status_code == refusal.status
    assert len(server.arrivals) == 1


def test_what_worked_long_ago_is_refused_at_once(fake, throttle, manual, refusal):
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual)
    throttler.call(**ask())
    manual.advance(301.0)
    server.script(refusal)
    with pytest.raises(anthropic.APIStatusError):
        throttler.call(**ask())
    assert len(server.arrivals) == 2


@pytest.mark.parametrize("refusal", [KEY_REFUSED, NOT_PERMITTED], ids=["401", "403"])
def test_what_is_refused_three_times_suspends(fake, throttle, refusal):
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask())
    server.outage(reply=refusal)
    with pytest.raises(anthropic.APIStatusError) as caught:
        throttler.call(**ask())
    assert caught.value.status_code == refusal.status
    with pytest.raises(AccountSuspended):
        throttler.submit(**ask())
    assert len(server.arrivals) == 4


@pytest.mark.parametrize("refusal", [KEY_REFUSED, NOT_PERMITTED], ids=["401", "403"])
def test_a_key_revoked_in_the_middle_makes_no_storm(fake, throttle, refusal):
    """Sixty in flight, each refused: a handful more is sent, then all are told."""
    server = fake()
    throttler = throttle(server, rpm=600_000, max_concurrency=60)
    throttler.call(**ask())
    server.outage(reply=replace(refusal, latency=0.3))
    futures = [throttler.submit(**ask(str(n))) for n in range(120)]
    assert not wait(futures, 20).not_done
    errors = [future.exception() for future in futures]
    assert all(isinstance(e, (AccountSuspended, anthropic.APIStatusError)) for e in errors)
    assert len(server.arrivals) <= 1 + 60 + 6


def test_a_refusal_of_all_in_flight_that_passes_fails_none_of_them(fake, throttle):
    """As when a gateway restarts."""
    server = fake()
    throttler = throttle(server, rpm=600_000, max_concurrency=30)
    throttler.call(**ask())
    server.outage(reply=replace(KEY_REFUSED, latency=0.2))
    futures = [throttler.submit(**ask(str(n))) for n in range(30)]
    wait_until(lambda: throttler.stats().retried)
    server.outage(False)
    assert [echo(future.result(20)) for future in futures] == [str(n) for n in range(30)]


def test_a_call_that_alone_is_refused_fails_alone():
    """Others are answered meanwhile: the key is in order, and nobody else is told off."""

    def reply(request):
        odd = b"odd" in request.body
        body = error_body("permission_error", "not this", "req_1") if odd else json.dumps(ANSWER)
        return 403 if odd else 200, {}, body

    with responses.RequestsMock() as played:
        played.add_callback("POST", URL, reply)
        with Throttler(api_key=KEY, base_url=BASE, rpm=1200) as throttler:
            throttler.call(**ask())
            odd = throttler.submit(**ask("odd"))
            while not odd.done():
                throttler.call(**ask())
            throttler.call(**ask())
        assert sum(b"odd" in call.request.body for call in played.calls) == 3
    assert isinstance(odd.exception(), anthropic.PermissionDeniedError)


def test_a_model_that_is_gone_makes_no_storm(fake, throttle):
    server = fake()
    throttler = throttle(server, rpm=600_000, max_concurrency=30)
    throttler.call(**ask())
    server.outage(reply=Reply(404, message="model: gone", latency=0.2))
    futures = [throttler.submit(**ask(str(n))) for n in range(30)]
    assert not wait(futures, 20).not_done
    assert all(isinstance(future.exception(), anthropic.NotFoundError) for future in futures)
    assert len(server.arrivals) <= 1 + 30 + 6
    server.outage(False)
    assert echo(throttler.call(**ask())) == "hello"


def test_a_permit_that_is_refused_once_suspends_nobody(fake, throttle):
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask())
    for refused in range(3):
        with throttler.permit(model=MODEL) as permit:
            body = error_body("authentication_error", "invalid x-api-key", "req_1")
            permit.settle(status=401, body=body)
        assert throttler.limits()[LANE].suspended is None, refused
    with throttler.permit(model=MODEL) as permit:
        permit.settle(status=401, body=body)
    assert throttler.limits()[LANE].suspended == "key refused"


@pytest.mark.parametrize("refusal", [KEY_REFUSED, NOT_PERMITTED], ids=["401", "403"])
def test_a_refusal_of_batches_that_passes_is_tried_again(fake, throttle, refusal):
    """Nothing was created, so nothing is paid twice."""
    server = fake()
    server.batches.seconds = 0.0
    batches = throttle(server).batches
    batches.recent()
    server.batches.script(refusal)
    handle = batches.submit([("a", ask_of_batch("a"))], raw=True)
    server.batches.script(refusal)
    assert [result.kind for result in handle.results()] == ["succeeded"]
    assert len(server.batches.created) == 1


def ask_of_batch(text):
    return {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": text}]}

"""A refused call waits, queues again at its own place, and leaves at the common pace."""

from __future__ import annotations

import anthropic
import pytest

from claude_throttle import BrokenAnswer, LanePaused, RetryScheduled
from claude_throttle.testing import Garbage, Ok, Reply, Reset, SpendCap, Stall, Truncated
from tests.support.calls import ask, echo
from tests.support.inside import note_departures, pacer_of
from tests.support.sdk_releases import error_class
from tests.support.waiting import move_until_done, wait_until


def rate_limited(seconds="1", latency=None):
    headers = {"retry-after": seconds, "x-should-retry": "true"}
    return Reply(429, headers, "rate_limit_error", latency=latency)


def test_a_rate_429_pauses_the_lane_for_everybody(fake, throttle, manual):
    """Nothing else runs into the same wall; the refused call goes first when it is over."""
    server = fake(clock=manual)
    server.script(rate_limited("30"))
    events = []
    throttler = throttle(server, rpm=6000, clock=manual, on_event=events.append)
    refused = throttler.submit(**ask("refused"))
    wait_until(lambda: throttler.stats().retried)
    others = [throttler.submit(**ask(str(n))) for n in range(3)]
    manual.wait_for_sleepers(1)
    manual.advance(29.9)
    assert len(server.arrivals) == 1
    move_until_done(manual, [refused, *others], 0.5)
    arrivals = server.arrivals
    assert [a.nonce for a in arrivals] == ["refused", "refused", "0", "1", "2"]
    assert arrivals[1].at >= arrivals[0].at + 30
    paused = [event for event in events if isinstance(event, LanePaused)]
    assert len(paused) == 1
    assert 30 <= paused[0].seconds <= 33


def test_a_529_without_retry_after_delays_its_own_call_only(fake, throttle, manual):
    """Others go on at their pace."""
    server = fake(clock=manual)
    server.script(Reply(529, {}, "overloaded_error"))
    throttler = throttle(server, clock=manual)
    refused = throttler.submit(**ask("refused"))
    wait_until(lambda: throttler.stats().retried)
    throttler.submit(**ask("other")).result(10)
    assert not refused.done()
    manual.wait_for_sleepers(1)
    manual.advance(1.0)
    assert echo(refused.result(10)) == "refused"


def test_a_529_that_names_retry_after_pauses_the_lane(fake, throttle, manual):
    """It is said of the server, not of the call."""
    server = fake(clock=manual)
    server.script(Reply(529, {"retry-after": "5"}, "overloaded_error"))
    throttler = throttle(server, clock=manual)
    futures = [throttler.submit(**ask(str(n))) for n in range(1)]
    wait_until(lambda: throttler.stats().retried)
    futures.append(throttler.submit(**ask("other")))
    manual.wait_for_sleepers(1)
    assert len(server.arrivals) == 1
    manual.advance(10.0)
    for future in futures:
        future.result(10)


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
def test_passing_refusals_are_tried_again(fake, throttle, status):
    """And the answer in the end is the call's answer."""
    server = fake()
    server.script(Reply(status, {"retry-after-ms": "1"}, "api_error"))
    throttler = throttle(server)
    assert echo(throttler.call(**ask())) == "hello"
    assert [a.status for a in server.arrivals] == [status, 200]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, error_class("RequestTooLargeError")),
        (422, anthropic.UnprocessableEntityError),
    ],
)
def test_final_refusals_are_the_sdks_own_errors(fake, throttle, status, error):
    """Existing except clauses keep working; nothing is sent twice."""
    server = fake()
    server.script(Reply(status, {}, "some_error", "no way"))
    throttler = throttle(server)
    with pytest.raises(error, match="no way") as caught:
        throttler.call(**ask())
    assert type(caught.value).__name__ == error.__name__
    assert caught.value.status_code == status
    assert len(server.arrivals) == 1


def test_a_spend_cap_is_not_tried_again(fake, throttle):
    """It passes when the month ends."""
    server = fake()
    server.script(SpendCap())
    with pytest.raises(anthropic.RateLimitError, match="You have reached"):
        throttle(server).call(**ask())
    assert len(server.arrivals) == 1


def test_retries_end_with_the_servers_own_error(fake, throttle):
    """max_retries re-sends, then the last refusal."""
    server = fake()
    server.script(*[Reply(529, {"retry-after-ms": "1"}, "overloaded_error")] * 3)
    throttler = throttle(server, max_retries=2)
    overloaded = error_class("OverloadedError")
    with pytest.raises(overloaded):
        throttler.call(**ask())
    stats = throttler.stats()
    assert (stats.sent, stats.retried, stats.overloaded) == (3, 2, 3)
    assert dict(stats.failed) == {overloaded.__name__: 1}


def test_a_lost_connection_is_tried_again(fake, throttle):
    """Before any byte of answer, as the SDK does."""
    server = fake()
    server.script(Reset(), Ok())
    assert echo(throttle(server).call(**ask())) == "hello"


def test_a_lost_connection_is_not_tried_again_if_the_caller_says_so(fake, throttle):
    """retry_resets=False: it may have been billed."""
    server = fake()
    server.script(Reset())
    with pytest.raises(anthropic.APIConnectionError, match="connection lost after 1 attempt"):
        throttle(server, retry_resets=False).call(**ask())
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("fault", [Garbage(), Truncated(), Reset(after_bytes=400)])
def test_half_an_answer_is_an_error_and_not_sent_again(fake, throttle, fault):
    """Never half a message; it may be billed."""
    server = fake()
    server.script(fault)
    throttler = throttle(server)
    with pytest.raises((BrokenAnswer, anthropic.APIConnectionError), match="answer"):
        throttler.call(**ask())
    assert len(server.arrivals) == 1
    assert echo(throttler.call(**ask("next"))) == "next"


def test_nobody_listening_is_tried_again_and_then_said(throttle):
    """No connection: nothing can have been billed."""

    class Nowhere:
        url = "http://127.0.0.1:9"

    events = []
    throttler = throttle(Nowhere, max_retries=1, on_event=events.append)
    with pytest.raises(anthropic.APIConnectionError, match="no connection after 2 attempts"):
        throttler.call(**ask())
    assert [e.reason for e in events if isinstance(e, RetryScheduled)] == ["no connection"]


def test_a_retry_takes_its_turn_like_any_other_call(fake, throttle, manual):
    """Two refusals do not make two calls leave on each other's heels."""
    server = fake(clock=manual)
    server.script(*[Reply(500, {"retry-after-ms": "1"}, "api_error")] * 2)
    throttler = throttle(server, rpm=60, clock=manual)
    instants = note_departures(throttler)
    futures = [throttler.submit(**ask(str(n))) for n in range(3)]
    move_until_done(manual, futures, 0.25)
    assert len(server.arrivals) == len(instants) == 5
    assert all(b - a >= 1.0 for a, b in zip(instants, instants[1:]))


def test_a_waiting_retry_holds_no_permit(fake, throttle, manual):
    """max_concurrency=1: another call goes while the first waits for its next try."""
    server = fake(clock=manual)
    server.script(Reply(500, {"retry-after": "60"}, "api_error"))
    throttler = throttle(server, max_concurrency=1, clock=manual)
    refused = throttler.submit(**ask("refused"))
    wait_until(lambda: throttler.stats().retried)
    throttler.submit(**ask("other")).result(10)
    manual.wait_for_sleepers(1)
    manual.advance(100)
    refused.result(10)


def test_a_read_timeout_is_not_sent_again(fake, throttle, monkeypatch):
    """The server may be working on it; the error says that it may be billed."""
    monkeypatch.setattr("claude_throttle.transport.http.READ_TIMEOUT_SECONDS", 0.2)
    server = fake()
    server.script(Stall())
    with pytest.raises(anthropic.APITimeoutError, match="may be billed"):
        throttle(server).call(**ask())
    assert len(server.arrivals) == 1


def test_a_read_timeout_is_sent_again_where_the_caller_allowed_it(fake, throttle, monkeypatch):
    """retry_read_timeouts=True."""
    monkeypatch.setattr("claude_throttle.transport.http.READ_TIMEOUT_SECONDS", 0.2)
    server = fake()
    server.script(Stall(), Ok())
    assert echo(throttle(server, retry_read_timeouts=True).call(**ask())) == "hello"


def test_one_pause_for_a_wave_of_429s(fake, throttle, manual):
    """Twenty refused at once: one jitter, one pause, no second wave."""
    server = fake(clock=manual)
    server.script(*[rate_limited("10", latency=0.5)] * 20)
    throttler = throttle(server, rpm=600, burst=20, clock=manual)
    futures = [throttler.submit(**ask(str(n))) for n in range(20)]
    wait_until(lambda: throttler.stats().retried == 20)
    pacer = pacer_of(throttler)
    assert 1010.0 <= pacer.pause.until <= 1011.0
    move_until_done(manual, futures)
    assert [a.status for a in server.arrivals].count(429) == 20

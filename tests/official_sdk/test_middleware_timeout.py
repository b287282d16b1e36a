"""``middleware(timeout=)`` is for all attempts of one request of the SDK."""

from __future__ import annotations

import time

import anthropic
import pytest

from claude_throttle import DeadlineExceeded
from claude_throttle.testing import Reply, Stall
from tests.support.calls import HELLO

NEEDS = ["middleware"]

BUSY = Reply(429, {"retry-after": "30", "x-should-retry": "true"}, "rate_limit_error")


def test_a_refusal_is_raised_at_once_where_the_sdk_would_sleep_too_long(fake, throttle, client):
    server = fake()
    server.script(BUSY)
    made = client(server, throttle(server), terms={"timeout": 20})
    began = time.monotonic()
    with pytest.raises(anthropic.RateLimitError):
        made.messages.create(**HELLO)
    assert time.monotonic() - began < 10
    assert len(server.arrivals) == 1


def test_without_a_timeout_the_sdk_retries_as_it_always_does(fake, throttle, client):
    server = fake()
    server.script(Reply(429, {"retry-after-ms": "30"}, "rate_limit_error"))
    made = client(server, throttle(server))
    assert made.messages.create(**HELLO).content
    assert len(server.arrivals) == 2


def test_a_refusal_that_passes_in_time_is_tried_again(fake, throttle, client):
    server = fake()
    server.script(Reply(429, {"retry-after-ms": "30"}, "rate_limit_error"))
    made = client(server, throttle(server), terms={"timeout": 20})
    assert made.messages.create(**HELLO).content
    assert len(server.arrivals) == 2


def test_an_attempt_that_stalls_ends_with_its_request_and_may_be_billed(fake, throttle, client):
    server = fake()
    server.script(Stall())
    made = client(server, throttle(server), terms={"timeout": 0.3})
    with pytest.raises(DeadlineExceeded, match="all its attempts") as caught:
        made.messages.create(**HELLO)
    server.release_stalled()
    assert caught.value.sent
    assert len(server.arrivals) == 1


def test_the_sdks_own_timeout_is_for_one_attempt(fake, throttle, client):
    server = fake()
    server.script(Stall())
    made = client(server, throttle(server), terms={"timeout": 20})
    assert made.messages.create(**HELLO, timeout=0.3).content
    server.release_stalled()
    assert len(server.arrivals) == 2


def test_the_next_request_of_the_thread_has_a_time_of_its_own(fake, throttle, client):
    server = fake()
    made = client(server, throttle(server), terms={"timeout": 0.5})
    server.script(Stall())
    with pytest.raises(DeadlineExceeded):
        made.messages.create(**HELLO)
    server.release_stalled()
    assert made.messages.create(**HELLO).content
    with made.messages.stream(**HELLO) as stream:
        assert stream.get_final_message().content


@pytest.mark.parametrize("parts", [None, {"connect": 60, "read": 0.3}])
def test_the_clients_own_timeout_is_for_one_attempt_too(fake, throttle, client, parts):
    server = fake()
    server.script(Stall())
    own = 0.3 if parts is None else anthropic.Timeout(60, **parts)
    made = client(server, throttle(server), terms={"timeout": 20}, timeout=own)
    assert made.messages.create(**HELLO).content
    server.release_stalled()
    assert len(server.arrivals) == 2


def test_each_part_of_the_sdks_timeout_is_kept_where_it_is_shorter(fake, throttle, client):
    server, seen = fake(), []

    def look(request, call_next):
        seen.append(request.options.timeout)
        return call_next(request)

    paced = throttle(server).middleware(timeout=20)
    own = anthropic.Timeout(600, connect=1, pool=None)
    made = client(server, throttle(server), timeout=own)
    made = made.with_options(middleware=[paced, look, look])
    assert made.messages.create(**HELLO).content
    assert seen[0].connect == 1
    assert 1 < seen[0].read <= 20
    assert 1 < seen[0].pool <= 20


def test_a_stream_begins_in_time_and_may_be_silent_afterwards(fake, throttle, client):
    server = fake()
    server.script(Stall())
    terms = {"timeout": 0.4}
    made = client(server, throttle(server), terms=terms)
    with pytest.raises(DeadlineExceeded) as caught, made.messages.stream(**HELLO):
        pass  # it never begins
    assert caught.value.sent
    server.release_stalled()
    silence = []
    with made.messages.stream(**HELLO) as stream:
        silence.append(stream.response.request.extensions["timeout"]["read"])
        assert stream.get_final_message().content
    assert silence == [600]


def test_an_attempt_that_may_be_billed_is_told_of_when_the_next_one_waits_in_vain(
    fake, throttle, client
):
    server = fake()
    server.script(Reply(500, {"retry-after-ms": "1"}))
    throttler = throttle(server)

    def pause_behind(request, call_next):
        response = call_next(request)
        throttler.pause()
        return response

    made = client(server, throttler, terms={"timeout": 0.5})
    made = made.with_options(middleware=[*made.middleware, pause_behind])
    with pytest.raises(DeadlineExceeded, match="one may be billed") as caught:
        made.messages.create(**HELLO)
    assert caught.value.sent
    assert len(server.arrivals) == 1


def test_a_first_attempt_that_waits_in_vain_was_not_sent(fake, throttle, client):
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    made = client(server, throttler, terms={"timeout": 0.1})
    with pytest.raises(DeadlineExceeded, match=r"0\.1 s .*its turn; nothing was sent") as caught:
        made.messages.create(**HELLO)
    assert (caught.value.sent, len(server.arrivals)) == (False, 0)

"""``middleware(timeout=)`` is for all attempts of one request of the SDK."""

from __future__ import annotations

import time

import anthropic
import pytest

from claude_throttle import DeadlineExceeded
from claude_throttle.testing import Reply, Stall
from tests.support.calls import HELLO

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

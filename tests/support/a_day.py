"""A day in the life of a throttler, in which each kind of event occurs."""

from __future__ import annotations

import contextlib
from concurrent.futures import wait
from typing import get_args

from claude_throttle import (
    ConnectionLimitReached,
    Event,
    PausedByHand,
    ResumedByHand,
    StoreLost,
    StoreReturned,
    ThrottleError,
)
from claude_throttle.testing import Ok, Reply, SpendCap
from claude_throttle.testing.replies import too_many_connections
from tests.support.calls import MODEL, ask

#: What happens only to those who share a quota is shown in tests/sharing, and what happens to a
#: process with too many connections in test_connection_limit.py. Nothing ends while it is paused.
ELSEWHERE = {StoreLost, StoreReturned, ConnectionLimitReached, PausedByHand, ResumedByHand}
EVERY_EVENT = tuple(kind for kind in get_args(Event) if kind not in ELSEWHERE)
FAULT = Reply(500, {"retry-after-ms": "1"}, "api_error")
RATE_429 = Reply(429, {"retry-after-ms": "20", "x-should-retry": "true"}, "rate_limit_error")

#: Another model's tokens within an answer.
WITH_AN_ADVISOR = {
    "input_tokens": 9,
    "output_tokens": 9,
    "iterations": [
        {"type": "message", "input_tokens": 9, "output_tokens": 9},
        {
            "type": "advisor_message",
            "model": "claude-opus-5-5",
            "input_tokens": 9,
            "output_tokens": 9,
        },
    ],
}


def a_day(server, throttler):
    """All that can happen to a throttler; returns the futures. Goes on when it is closed."""
    futures = []

    def submit(text, *script):
        server.script(*script)
        try:
            futures.append(throttler.submit(**ask(text)))
        except ThrottleError:
            return
        wait(futures, 20)

    submit("first")
    submit("paused", RATE_429, Ok())
    submit("crowded", too_many_connections(None, True), Ok())
    submit("outage", *[FAULT] * 5, Ok())
    submit("unknown", Reply(404))
    submit("cap", SpendCap())
    throttler.resume()
    submit("last", Ok(usage=WITH_AN_ADVISOR))
    with contextlib.suppress(ThrottleError), throttler.permit(model=MODEL) as permit:
        permit.settle()
    return futures


def keen(throttle, server, **settings):
    """Nothing told, and retries enough for one call to meet an outage alone."""
    return throttle(server, rpm=None, max_retries=9, **settings)

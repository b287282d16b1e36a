"""A hand-made call behind PacedRetry, which is asked as urllib3 asks it."""

from __future__ import annotations

import io

import urllib3

from claude_throttle.core.domain.feedback import RetryDelay
from claude_throttle.transport.retry import PacedRetry, RetryExchange, RetryRules

RULES = RetryRules(max_retries=2, read_timeouts=False, resets=True)


class ScriptedAttempts:
    """Says what the test wrote, and writes down what it is asked."""

    def __init__(self, number=1, stopped=False, seconds_left=None, delays=()):
        self.number = number
        self.stopped = stopped
        self.left = seconds_left
        #: What the lane says to each refusal; when they are used up, what the call itself wants.
        self.delays = list(delays)
        #: What the lane was told of, and how long the call would wait by itself.
        self.feedback = []
        self.turns = []

    def seconds_left(self):
        return self.left

    def on_refusal(self, feedback, wait_seconds):
        self.feedback.append((feedback, wait_seconds))
        return self.delays.pop(0) if self.delays else RetryDelay(wait_seconds, alone=True)

    def again(self, **turn):
        self.turns.append(turn)


class StillClock:
    """At noon, 2026-11-21."""

    def wall(self):
        return 1795262400.0


def response(status, body=b"{}", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.HTTPResponse(
        body=io.BytesIO(body), status=status, headers=fields, preload_content=False
    )


def retry(attempts=None, rules=RULES):
    return PacedRetry.of(RetryExchange(attempts or ScriptedAttempts(), rules, StillClock()))


def refuse(asked, status, **headers):
    return asked.increment("POST", "/v1/messages", response=response(status, **headers))


def lose(asked, error):
    return asked.increment("POST", "/v1/messages", error=error)

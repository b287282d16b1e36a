"""Outages, and the circuit that opens in them."""

from __future__ import annotations

import threading
from concurrent.futures import wait

from claude_throttle.testing import Reply
from tests.support.calls import ask
from tests.support.inside import pacer_of

FAULT = Reply(500, {}, "api_error")


def circuit(throttler):
    """The circuit breaker of the tests' lane."""
    return pacer_of(throttler).circuit


def open_circuit(server, throttler, manual=None):
    """Submit calls into an outage until the circuit is open; return them."""
    server.outage()
    futures = [throttler.submit(**ask(str(n))) for n in range(8)]
    for _ in range(200):
        if circuit(throttler).is_open:
            return futures
        if manual is not None:
            manual.advance(0.25)
        wait(futures, 0.02)
    raise AssertionError("the circuit never opened")


def in_the_dark(server, manual, seconds, step=0.5):
    """Let an outage last; virtual *seconds*, with a moment of real time in each step."""
    pause = threading.Event()
    for _ in range(int(seconds / step)):
        manual.advance(step)
        pause.wait(0.005)

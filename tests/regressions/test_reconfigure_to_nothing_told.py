"""reconfigure() from a told rate to none left the concurrency unbounded (review of 2027-01)."""

from __future__ import annotations

import math

import pytest

from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from tests.support.calls import ask


def test_concurrency_is_found_out_once_no_rate_is_told(fake, throttle):
    """As many as a throttler that was told nothing has after its first answer."""
    throttler = throttle(fake(), rpm=1e6)
    throttler.call(**ask())
    assert throttler.limits().max_concurrency == math.inf
    throttler.reconfigure(rpm=None)
    assert throttler.limits().max_concurrency == 10


@pytest.mark.parametrize("told", [4, 40])
def test_what_was_told_of_it_stays_a_ceiling(fake, throttle, told):
    """max_concurrency is told, the rate not any more."""
    throttler = throttle(fake(), rpm=1e6, max_concurrency=told)
    throttler.call(**ask())
    throttler.reconfigure(rpm=None)
    assert throttler.limits().max_concurrency == min(told, 10)


def test_it_is_no_less_than_what_is_out_and_grows():
    """Those in flight were let in; silence while it is full is admission."""
    limiter = ConcurrencyLimiter()
    held = [limiter.try_acquire(10, 0.0) for _ in range(25)]
    assert all(held)
    limiter.set_told(None, rate_is_told=False)
    assert limiter.limit == 25
    assert limiter.admissible_priority(1.0) == -math.inf
    assert limiter.admissible_priority(1.6) == math.inf
    assert limiter.limit == 50


def test_what_a_refusal_taught_is_kept():
    """It was found out already."""
    limiter = ConcurrencyLimiter()
    held = [limiter.try_acquire(10, 0.0) for _ in range(5)]
    assert all(held)
    limiter.refused(0.0)
    limiter.set_told(None, rate_is_told=False)
    assert limiter.limit == 4

"""The fake server's cap on growing use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.simulation.quotas import ModelQuotas, SimulatedLimits
from claude_throttle.testing import FakeClaude, ManualClock
from tests.support.fake_http import ask

traffic = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 700)), min_size=1, max_size=40)


def test_the_refusal_is_the_captured_one():
    """Text, code, and the seconds to the minute boundary."""
    clock = ManualClock()
    limits = {"ramp": 58_276, "ramp_step": 10_000}
    with FakeClaude(**limits, clock=clock, organization_id="org-1") as server:
        first = ask(server, "x" * 4 * 58_000)
        clock.advance(12.5)
        answer = ask(server, "x" * 4 * 277)
    error = answer.json()["error"]
    assert (first.status_code, answer.status_code) == (200, 429)
    assert answer.headers["retry-after"] == "48"
    assert error["type"] == "rate_limit_error"
    assert error["details"] == {"error_code": "ramp_limit_exceeded"}
    assert error["message"] == (
        "This request would exceed your organization's maximum usage increase rate for input"
        " tokens per minute (org: org-1, model: claude-sonnet-5). Your current limit is 58,276"
        " input tokens per minute, and will increase to 68,276 at the next minute boundary. Please"
        " scale up your input tokens usage more gradually to stay within the acceleration limit."
    )


@given(traffic, st.integers(1, 500), st.integers(1, 500))
def test_no_minute_holds_more_than_its_cap(traffic, cap, step):
    """The cap has grown by one step for each earlier minute in which there was a request."""
    quotas = ModelQuotas(SimulatedLimits(ramp=cap, ramp_step=step), 0.0)
    used, asked, now = {}, set(), 0.0
    for gap, size in traffic:
        now += gap
        # Right at a boundary crumbs of floats decide which minute it is.
        now += 0.001 if abs(now / 60 - round(now / 60)) < 1e-6 else 0.0
        minute = int(now // 60)
        most = cap + step * len(asked - {minute})
        fits = used.get(minute, 0) + size <= most
        refusal = quotas.admit(size, now)
        assert (refusal is None) == fits
        if refusal is not None:
            assert (refusal.per_minute, refusal.next_per_minute) == (most, most + step)
        asked.add(minute)
        used[minute] = used.get(minute, 0) + size * fits


@given(st.floats(0, 1e4), st.integers(1, 100))
def test_after_retry_after_what_was_announced_fits(now, size):
    """Waiting as told leads over the boundary, and the cap has grown as told."""
    quotas = ModelQuotas(SimulatedLimits(ramp=100, ramp_step=50), 0.0)
    assert quotas.admit(100, now) is None
    refusal = quotas.admit(size, now)
    assert quotas.admit(refusal.next_per_minute, now + refusal.retry_after) is None


def test_the_cap_does_not_grow_while_nobody_asks():
    """An hour's rest is no use of it."""
    quotas = ModelQuotas(SimulatedLimits(ramp=100, ramp_step=50), 0.0)
    assert quotas.admit(1, 0.0) is None
    assert quotas.admit(151, 3600.0) == ("input tokens", 150, 60, 200)


def test_a_refused_request_takes_nothing():
    """Neither of the quotas nor of the minute."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, itpm=1000, ramp=100), 0.0)
    assert quotas.admit(101, 0.0) is not None
    assert [standing.remaining for standing in quotas.standings(0.0)] == [60, 1000]
    assert quotas.admit(100, 0.0) is None


def test_other_limits_may_change_without_throwing_the_cap_back():
    """Only another ramp begins again."""
    quotas = ModelQuotas(SimulatedLimits(ramp=100, ramp_step=50), 0.0)
    quotas.admit(1, 0.0)
    quotas.reshape(SimulatedLimits(rpm=5, ramp=100, ramp_step=50), 70.0)
    assert quotas.admit(150, 70.0) is None
    quotas.reshape(SimulatedLimits(ramp=100), 140.0)
    assert quotas.admit(101, 140.0) == ("input tokens", 100, 60, 10_100)
    quotas.reshape(SimulatedLimits(), 140.0)
    assert quotas.admit(10**6, 140.0) is None

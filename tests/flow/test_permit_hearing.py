"""permit.settle(headers=…, status=…): what others heard teaches the pace as an answer does."""

from __future__ import annotations

import gc

import pytest

from claude_throttle import AccountSuspended, PermitClosed, PermitGranted, Usage
from claude_throttle.core.pacing.circuit_breaker import FAILURES_IN_A_ROW
from tests.support.calls import MODEL, ask
from tests.support.inside import answers_awaited, engine_of, pacer_of, slots_in_use
from tests.support.waiting import wait_until

LANE = "sonnet-5"
LIMITS = {
    "anthropic-ratelimit-requests-limit": "600",
    "anthropic-ratelimit-requests-remaining": "599",
}


def refuse(throttler, status, headers=None, body=b""):
    """One request, refused."""
    with throttler.permit(model=MODEL, max_tokens=100) as permit:
        permit.settle(status=status, headers=headers or {}, body=body)


def test_headers_teach_limits(fake, throttle):
    """In whatever case their names are; usage is booked with them."""
    throttler = throttle(fake(), rpm=None)
    with throttler.permit(model=MODEL, input_tokens=100) as permit:
        named = {name.title(): value for name, value in LIMITS.items()}
        permit.settle(usage={"input_tokens": 1, "output_tokens": 1}, headers=named)
        permit.settle(headers={**LIMITS, "anthropic-ratelimit-requests-limit": "7"})
    assert pacer_of(throttler).learned["requests"].limit == 600


def test_a_429_pauses_the_lane(fake, throttle, manual):
    """For retry-after, and its tokens come back."""
    throttler = throttle(fake(clock=manual), clock=manual)
    body = b'{"error": {"type": "rate_limit_error", "message": "50 requests per minute"}}'
    refuse(throttler, 429, {"retry-after": "20"}, body)
    assert 20 <= throttler.estimate_wait(**ask()) < 30


def test_tokens_of_a_refusal_come_back_and_those_of_a_fault_stay(fake, throttle, manual):
    """A 529 took nothing, a 500 may have."""
    throttler = throttle(fake(clock=manual), rpm=None, otpm=600, clock=manual)
    with throttler.permit(model=MODEL, max_tokens=600) as permit:
        permit.settle(status=529, headers={})
    assert throttler.estimate_wait(**ask(max_tokens=600)) == 0
    with throttler.permit(model=MODEL, max_tokens=600) as permit:
        permit.settle(status=500, headers={})
    assert throttler.estimate_wait(**ask(max_tokens=600)) > 1


def test_what_came_of_it_is_told_once(fake, throttle, manual):
    """With what it took, if anybody said; the first time counts."""
    events = []
    throttler = throttle(fake(clock=manual), clock=manual, on_event=events.append)
    with throttler.permit(model=MODEL) as permit:
        manual.advance(2.0)
        permit.settle(usage={"input_tokens": 3, "output_tokens": 4}, status=200)
        permit.settle(usage={"input_tokens": 5}, status=500)
    permit.close()
    refuse(throttler, 529)
    with throttler.permit(model=MODEL):
        pass
    assert [e.waited_seconds for e in events if isinstance(e, PermitGranted)] == [0.0, 0.0, 0.0]
    ends = [e for e in events if isinstance(e, PermitClosed)]
    assert ends == [
        PermitClosed(1, LANE, 2.0, 200, False, Usage(3, 4)),
        PermitClosed(2, LANE, 0.0, 529, True, None),
        PermitClosed(3, LANE, 0.0, None, False, None),
    ]


def test_headers_without_usage_leave_the_estimate(fake, throttle, manual):
    """As without settle()."""
    throttler = throttle(fake(clock=manual), rpm=None, otpm=600, clock=manual)
    with throttler.permit(model=MODEL, max_tokens=600) as permit:
        permit.settle(headers=LIMITS)
    assert throttler.estimate_wait(**ask(max_tokens=600)) > 1


def test_failures_in_a_row_open_the_circuit(fake, throttle):
    """And an answer closes it."""
    throttler = throttle(fake())
    for _ in range(FAILURES_IN_A_ROW):
        refuse(throttler, 500)
    assert pacer_of(throttler).circuit.is_open
    with throttler.permit(model=MODEL) as permit:
        permit.settle(status=200)
    assert not pacer_of(throttler).circuit.is_open


def test_a_refused_key_suspends(fake, throttle):
    """For everybody, until resume() or an answer."""
    throttler = throttle(fake())
    body = b'{"error": {"type": "authentication_error", "message": "invalid x-api-key"}}'
    refuse(throttler, 401, body=body)
    with pytest.raises(AccountSuspended):
        throttler.permit(model=MODEL)
    throttler.resume()
    throttler.permit(model=MODEL).close()


def test_what_is_in_flight_is_counted_once(fake, throttle):
    """Whether it tells how it ended or not: who measures latencies must not lose count."""
    throttler = throttle(fake())
    latency = pacer_of(throttler).latency
    latency.start_request(0.0)  # somebody else's
    with throttler.permit(model=MODEL) as permit:
        permit.settle(status=200)
    throttler.permit(model=MODEL).close()
    assert answers_awaited(throttler) == 1


@pytest.mark.parametrize("settled", [True, False])
def test_one_that_was_to_be_heard_of_and_is_dropped_is_lost(fake, throttle, settled):
    """Without a lock; another thread settles it soon."""
    throttler = throttle(fake())
    admission = engine_of(throttler).account.admission
    attempt = admission.admit(ask(), throttler._admission_options(10, None, None))
    permit = attempt._permit
    if settled:
        permit.settle(usage={"input_tokens": 1})
    assert answers_awaited(throttler) == 1
    del attempt, permit
    gc.collect()
    wait_until(lambda: answers_awaited(throttler) == 0)
    wait_until(lambda: slots_in_use(throttler) == 0)

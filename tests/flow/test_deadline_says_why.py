"""A call whose time is up in the queue says what it waited for, and how long another would."""

from __future__ import annotations

import pickle

import pytest

from claude_throttle import DeadlineExceeded, LanePaused, RetryScheduled
from claude_throttle.testing import Reply, Stall
from tests.support.calls import MODEL, ask
from tests.support.waiting import wait_until


def _late(future, manual, seconds=5.0):
    manual.wait_for_sleepers(1)
    manual.advance(seconds)
    with pytest.raises(DeadlineExceeded) as caught:
        future.result(10)
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retry_after) == (str(error), error.retry_after)
    return error


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limit_error"), (529, "overloaded_error")])
def test_a_pause_is_named_with_its_status_and_its_rest(fake, throttle, manual, status, kind):
    """So that the reader looks at the API's refusal, and not at his own quota."""
    server = fake(clock=manual)
    server.script(Reply(status, {"retry-after": "60"}, kind))
    events = []
    throttler = throttle(server, clock=manual, on_event=events.append)
    first = throttler.submit(**ask())
    wait_until(lambda: any(isinstance(event, LanePaused) for event in events))
    error = _late(throttler.submit(**ask(timeout=5)), manual)
    assert f"the API answered {status}" in str(error)
    assert "nothing was sent" in str(error)
    assert not error.sent
    assert error.retry_after == pytest.approx(55, abs=10)
    first.cancel()


def test_a_pause_by_hand_names_resume_and_no_time(fake, throttle, manual):
    """It ends when somebody ends it."""
    throttler = throttle(fake(clock=manual), clock=manual)
    throttler.pause()
    error = _late(throttler.submit(**ask(timeout=5)), manual)
    assert "pause() holds everything back until resume()" in str(error)
    assert error.retry_after is None


def test_a_quota_is_named_with_those_ahead(fake, throttle, manual):
    """And the wait of one more call, as QueueFull counts it."""
    throttler = throttle(fake(clock=manual), rpm=1, clock=manual)
    throttler.submit(**ask()).result(10)
    throttler.submit(**ask("head"))
    error = _late(throttler.submit(**ask("hurried", timeout=5)), manual)
    assert "the quota of rpm, behind 1 other," in str(error)
    assert error.retry_after == pytest.approx(115, abs=1)


def test_places_in_flight_are_named(fake, throttle, manual):
    """No quota would have helped."""
    server = fake(clock=manual)
    server.script(Stall())
    throttler = throttle(server, max_concurrency=1, clock=manual)
    throttler.submit(**ask())
    wait_until(lambda: server.arrivals)
    error = _late(throttler.submit(**ask(timeout=5)), manual)
    assert "the only place in flight taken" in str(error)
    assert not error.sent


def test_a_permit_says_why_too(fake, throttle):
    """Whoever asks for a permit waits in the same line."""
    throttler = throttle(fake())
    throttler.pause()
    with pytest.raises(DeadlineExceeded, match=r"until resume\(\)"):
        throttler.permit(model=MODEL, max_tokens=5, timeout=0.01).__enter__()


def test_a_stream_says_why_too(fake, throttle, manual):
    """Its own thread waits."""
    throttler = throttle(fake())
    throttler.pause()
    keywords = ask(timeout=0.01)
    del keywords["raw"]
    with pytest.raises(DeadlineExceeded, match=r"until resume\(\)"), throttler.stream(**keywords):
        pass


@pytest.mark.parametrize(
    ("status", "sent", "words"),
    [(500, True, "the one before may be billed"), (429, False, "what was sent was refused")],
)
def test_a_call_between_two_tries_says_whether_it_may_be_billed(
    fake, throttle, manual, status, sent, words
):
    """It was sent: after a 500 the API may have worked, and a 429 costs nothing."""
    server, events = fake(clock=manual), []
    server.script(Reply(status, {"retry-after": "8"}))
    throttler = throttle(server, clock=manual, max_retries=5, on_event=events.append)
    future = throttler.submit(**ask(timeout=9.5))
    wait_until(lambda: any(isinstance(event, RetryScheduled) for event in events))
    throttler.pause()
    error = _late(future, manual, 9.5)
    assert words in str(error)
    assert error.sent is sent

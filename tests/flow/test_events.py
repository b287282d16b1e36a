"""Whatever changes is told: a frozen event to the listener, and one line in the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import pytest

from claude_throttle import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    ConcurrencyChanged,
    LanePaused,
    LaneResumed,
    LimitLearned,
    RetryScheduled,
    Suspended,
    SuspensionEnded,
)
from claude_throttle.metrics.event_bus import line_of
from claude_throttle.testing import Reply
from tests.support.a_day import EVERY_EVENT, RATE_429, a_day, keen
from tests.support.calls import MODEL, ask
from tests.support.inside import locks_of

LANE = "sonnet-5"
# -- what is told ----------------------------------------------------------------------------------


def test_every_change_is_an_event_and_a_line(fake, throttle, caplog):
    """Each kind of event occurs in this day; each is frozen, and logged once."""
    events = []
    server = fake(rpm=6000, itpm=1e6, otpm=1e6)
    throttler = keen(throttle, server, on_event=events.append)
    with caplog.at_level(logging.DEBUG, "claude_throttle"):
        a_day(server, throttler)
        throttler.close(timeout=5)
    assert {type(event) for event in events} == set(EVERY_EVENT)
    for event in events:
        assert type(event) in EVERY_EVENT
        with pytest.raises(AttributeError):
            event.number = event.lane = 7
    lines = [record for record in caplog.records if record.name.startswith("claude_throttle")]
    assert Counter(record.getMessage() for record in lines) == Counter(map(line_of, events))


def test_no_line_holds_a_key_or_a_prompt(fake, throttle, caplog):
    """Logs travel."""
    server = fake(rpm=6000)
    throttler = keen(throttle, server)
    with caplog.at_level(logging.DEBUG):
        a_day(server, throttler)
        throttler.call(**ask("my secret prompt"))
    assert caplog.records
    assert "sk-ant" not in caplog.text
    assert "secret" not in caplog.text


def test_what_the_events_of_the_pace_say(fake, throttle):
    """Lane, figures before and after, causes."""
    events = []
    server = fake(rpm=6000)
    throttler = keen(throttle, server, on_event=events.append)
    a_day(server, throttler)

    def told(kind):
        return [event for event in events if isinstance(event, kind)]

    assert told(LimitLearned) == [LimitLearned(LANE, "requests", 6000, 0.0)]
    (paused,) = told(LanePaused)
    assert (paused.lane, paused.status) == (LANE, 429)
    assert 0.02 <= paused.seconds <= 0.2
    assert told(LaneResumed) == [LaneResumed(LANE)]
    reasons = [event.reason for event in told(RetryScheduled)]
    assert reasons == ["rate limit", "concurrency limit"] + ["server error"] * 5
    (opened,) = told(CircuitOpened)
    assert opened.lane == LANE
    assert 0 < opened.probe_in_seconds <= 0.5
    assert told(CircuitHalfOpened) == [CircuitHalfOpened(LANE)]
    assert told(CircuitClosed) == [CircuitClosed(LANE)]
    assert all(event.limit != event.before for event in told(ConcurrencyChanged))
    assert told(Suspended) == [Suspended("", "spend limit", "2026-09-01 at 00:00 UTC")]
    assert told(SuspensionEnded) == [SuspensionEnded("")]
    assert [event.status for event in told(CallFailed)] == [404, 429]


def test_the_events_of_one_call_are_in_their_order(fake, throttle):
    """Queued, sent, refused, paused, resumed, sent again, answered."""
    events = []
    server = fake()
    server.script(RATE_429)
    throttle(server, on_event=events.append).call(**ask())
    assert [type(event) for event in events] == [
        CallQueued,
        CallSent,
        LanePaused,
        RetryScheduled,
        LaneResumed,
        CallSent,
        CallSucceeded,
    ]


def test_a_permit_that_leaves_first_after_a_pause_ends_it_for_the_listener(fake, throttle):
    """The lane goes on with whatever leaves first, and that is told."""
    events = []
    server = fake()
    server.script(Reply(429, {"retry-after-ms": "50"}, "rate_limit_error", "requests per minute"))
    throttler = throttle(server, max_retries=0, on_event=events.append)
    throttler.submit(**ask()).exception(10)
    assert any(isinstance(event, LanePaused) for event in events)
    with throttler.permit(model=MODEL):
        pass
    throttler.call(**ask())
    assert [e for e in events if isinstance(e, LaneResumed)] == [LaneResumed(LANE)]


# -- from where ------------------------------------------------------------------------------------


def test_no_event_comes_from_the_worker_or_under_a_lock(fake, throttle):
    """A listener may take its time, and may have others ask the throttler meanwhile."""
    stuck, workers = [], []

    def look():
        throttler.limits()
        throttler.stats()
        throttler.estimate_wait(**ask())
        for lock in locks_of(throttler):
            if not lock.acquire(timeout=5):
                stuck.append(lock)
                return
            lock.release()

    def listen(event):
        name = threading.current_thread().name
        if "worker" in name:
            workers.append((name, event))
        other = threading.Thread(target=look, daemon=True)
        other.start()
        other.join(10)
        if other.is_alive():
            stuck.append(event)

    server = fake(rpm=6000)
    throttler = keen(throttle, server, on_event=listen)
    futures = a_day(server, throttler)
    assert len(futures) == 7
    assert (stuck, workers) == ([], [])


def test_the_log_is_not_written_under_a_lock(fake, throttle):
    """A handler may be slow, or ask the throttler itself."""
    stuck = []

    class Handler(logging.Handler):
        def emit(self, record):
            other = threading.Thread(target=throttler.limits, daemon=True)
            other.start()
            other.join(10)
            if other.is_alive() or "worker" in threading.current_thread().name:
                stuck.append(record.getMessage())

    server = fake(rpm=6000)
    throttler = keen(throttle, server)
    logger, handler = logging.getLogger("claude_throttle"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        a_day(server, throttler)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert stuck == []

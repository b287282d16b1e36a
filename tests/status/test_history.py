"""``throttler.history()``: the last ten minutes, in fixed memory, whatever time does."""

from __future__ import annotations

import sys
import threading

import pytest

from claude_throttle.core.domain.cost import NO_USAGE
from claude_throttle.core.domain.events import (
    CallFailed,
    CallSent,
    CallSucceeded,
    PermitClosed,
    PermitGranted,
    RetryScheduled,
)
from claude_throttle.metrics.history import INTERVALS, SENT, RingBuffer
from claude_throttle.metrics.recorder import Recorder
from claude_throttle.testing import Reply
from tests.support.calls import ask


def sent_at(*instants, now):
    """Requests by seconds ago, of a ring that saw those *instants* in that order."""
    ring = RingBuffer()
    for instant in instants:
        ring.record(SENT, instant)
    return {one.seconds_ago: one.sent for one in ring.intervals(now) if one.sent}


def test_nothing_happened():
    """No interval, at any time."""
    assert RingBuffer().intervals(0.0) == RingBuffer().intervals(1e9) == ()


def test_an_interval_begins_on_the_ten():
    """So that a bar on a chart keeps its height while it moves."""
    assert sent_at(20.0, 29.9, 30.0, 35.0, now=42.0) == {22.0: 2, 12.0: 2}


def test_the_last_one_is_under_way():
    """And the one before it whole; both from their beginnings."""
    ring = RingBuffer()
    ring.record(SENT, 20.0)
    whole, under_way = ring.intervals(34.0)
    assert (whole.seconds_ago, whole.seconds) == (14.0, 10.0)
    assert (under_way.seconds_ago, under_way.seconds) == (4.0, 4.0)


def test_it_begins_with_the_first_event():
    """Of what was before, nobody knows anything."""
    ring = RingBuffer()
    ring.record(SENT, 1234.0)
    assert [one.seconds_ago for one in ring.intervals(1255.0)] == [25.0, 15.0, 5.0]


def test_what_is_older_than_ten_minutes_is_forgotten():
    """Sixty intervals are left, the one under way among them."""
    ring = RingBuffer()
    for instant in range(0, 2000, 10):
        ring.record(SENT, float(instant))
    found = ring.intervals(1999.0)
    assert (len(found), sum(one.sent for one in found)) == (INTERVALS, INTERVALS)
    assert found[0].seconds_ago == 599.0


@pytest.mark.parametrize("idle", [595.0, 600.0, 1200.0, 86_400.0, 1e8])
def test_after_a_long_rest_nothing_old_comes_back(idle):
    """The slots are used again, and were not cleared meanwhile."""
    assert list(sent_at(5.0, 5.0, 5.0 + idle, now=5.0 + idle).values()) == [1]


def test_a_look_long_after_shows_nothing():
    """All zeros, ten minutes of them."""
    ring = RingBuffer()
    ring.record(SENT, 5.0)
    found = ring.intervals(100_000.0)
    assert len(found) == INTERVALS
    assert not any(one.sent for one in found)


def test_time_that_goes_back():
    """No clock of ours does; two threads at a turn of the interval look as if it did."""
    assert sent_at(30.0, 29.9, 30.1, now=31.0) == {11.0: 1, 1.0: 2}
    assert sent_at(9000.0, 20.0, now=21.0) == {1.0: 1}
    assert sent_at(9000.0, 20.0, 9001.0, now=9001.0) == {1.0: 2}


def test_a_scale_that_begins_below_zero():
    """A monotonic clock may begin anywhere."""
    assert sent_at(-5.0, 5.0, now=6.0) == {16.0: 1, 6.0: 1}


def test_memory_is_fixed():
    """Whatever happens in however long a time."""
    ring = RingBuffer()
    ring.record(SENT, 0.0)
    before = sum(map(sys.getsizeof, ring._slots))
    for instant in range(0, 1_000_000, 7):
        ring.record(SENT, float(instant))
    assert (len(ring._slots), sum(map(sys.getsizeof, ring._slots))) == (INTERVALS, before)


def test_each_kind_of_event_is_counted():
    """Sent, answered, failed, refused with 429 or 529; a cancelled call is no failure."""
    recorder = Recorder()
    for event in (
        CallSent(1, "m", 1, 0.0),
        RetryScheduled(1, "m", 1, 429, "rate limit", 1.0),
        RetryScheduled(1, "m", 2, 529, "overloaded", 1.0),
        RetryScheduled(1, "m", 3, None, "connection lost", 1.0),
        CallSent(1, "m", 2, 0.0),
        CallSucceeded(1, "m", 2, 1.0, NO_USAGE, None),
        CallFailed(2, "m", 5, "RateLimitError", 429),
        CallFailed(3, "m", 0, "CancelledError", None),
        PermitGranted(4, "m", 0.0),
        PermitClosed(4, "m", 1.0, 200, False, None),
        PermitGranted(5, "m", 0.0),
        PermitClosed(5, "m", 1.0, 529, True, None),
        PermitGranted(6, "m", 0.0),
        PermitClosed(6, "m", 1.0, None, False, None),
    ):
        recorder.record(event, 10.0)
    (found,) = recorder.history(12.0)
    assert found[:7] == (2.0, 2.0, 5, 2, 1, 2, 2)


def test_the_history_of_a_throttler(fake, throttle, manual):
    """By hand-moved time: three calls, a quarter of a minute apart, one refused."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual, max_retries=0)
    assert throttler.history() == ()
    throttler.submit(**ask()).result(10)
    manual.advance(15.0)
    throttler.submit(**ask()).result(10)
    manual.advance(15.0)
    server.script(Reply(429, {"retry-after": "1"}))
    assert throttler.submit(**ask()).exception(10) is not None
    counts = [one[2:6] for one in throttler.history() if one.sent]
    assert counts == [(1, 1, 0, 0), (1, 1, 0, 0), (1, 0, 1, 1)]
    manual.advance(86_400.0)
    assert not any(one.sent for one in throttler.history())


def test_many_threads_lose_no_count():
    """Each event of four threads is in it once."""
    recorder = Recorder()

    def count():
        for n in range(2000):
            recorder.record(CallSent(n, "m", 1, 0.0), n / 10.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.sent for one in recorder.history(199.9)) == 8000

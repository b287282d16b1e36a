"""Counters fed by events, and the picture taken of them."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.domain.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    LanePaused,
    PermitClosed,
    PermitGranted,
    RetryScheduled,
)
from claude_throttle.metrics.histogram import Quantiles
from claude_throttle.metrics.recorder import Recorder, Stats


def queued(number=1):
    return CallQueued(number, "m", 1)


def sent(attempt=1, waited=0.5):
    return CallSent(1, "m", attempt, waited)


def retried(status=429):
    return RetryScheduled(1, "m", 1, status, "rate limit", 2.0)


def succeeded(usage=Usage(), latency=1.0):  # noqa: B008 - immutable
    return CallSucceeded(1, "m", 1, latency, usage, "req_1")


def failed(error="RateLimitError", status=429):
    return CallFailed(1, "m", 1, error, status)


def picture(*events, at=10.0, now=10.0, waiting=0, in_flight=0):
    recorder = Recorder()
    for event in events:
        recorder.record(event, at)
    return recorder.snapshot(waiting=waiting, in_flight=in_flight, now=now)


def test_a_fresh_picture_is_empty():
    """Zeros, a success rate of 1, no division by nothing."""
    assert picture(now=99.0) == Stats()
    assert Stats().success_rate == 1.0


def test_every_event_is_counted_where_it_belongs():
    """One call that was refused once and answered, one that failed, one that was cancelled."""
    stats = picture(
        *[queued(n) for n in (1, 2, 3)],
        sent(),
        retried(429),
        LanePaused("m", 429, 3.0),
        sent(attempt=2),
        succeeded(),
        sent(),
        retried(529),
        retried(None),
        failed("OverloadedError", 529),
        failed("CancelledError", None),
        waiting=4,
        in_flight=5,
    )
    assert (stats.submitted, stats.waiting, stats.in_flight) == (3, 4, 5)
    assert (stats.sent, stats.retried, stats.succeeded) == (3, 3, 1)
    assert (stats.rate_limited, stats.overloaded) == (1, 2)
    assert dict(stats.failed) == {"OverloadedError": 1, "CancelledError": 1}


def test_cancelled_calls_are_no_failures():
    """Nobody refused them."""
    stats = picture(succeeded(), succeeded(), succeeded(), failed(), failed("CancelledError", None))
    assert (stats.failed_total, stats.success_rate) == (1, 0.75)


def test_a_refusal_that_ended_its_call_counts_like_one_that_did_not():
    """Each 429 is counted once, whatever came of it."""
    assert picture(retried(429), failed(status=429)).rate_limited == 2


def test_tokens_are_added_up():
    """As usage counts them, each kind by itself."""
    stats = picture(succeeded(Usage(1, 2, 3, 4)), succeeded(Usage(10, 20, 30, 40)))
    assert (stats.input_tokens, stats.output_tokens) == (11, 22)
    assert (stats.cache_creation_input_tokens, stats.cache_read_input_tokens) == (33, 44)


def test_requests_of_others_count_as_sent():
    """One answered, one refused, one lost, one of which nobody said anything."""
    granted = [PermitGranted(n, "m", 0.5) for n in (1, 2, 3, 4)]
    used = Usage(10, 20, 0, 0)
    stats = picture(
        *granted,
        PermitClosed(1, "m", 3.0, 200, False, used),
        PermitClosed(2, "m", 9.0, 429, True, None),
        PermitClosed(3, "m", 9.0, None, True, None),
        PermitClosed(4, "m", 9.0, None, False, None),
        at=9.0,
    )
    assert (stats.sent, stats.permits) == (4, 4)
    assert (stats.permits_answered, stats.permits_refused) == (1, 2)
    assert (stats.rate_limited, stats.submitted, stats.succeeded) == (1, 0, 0)
    assert (stats.input_tokens, stats.output_tokens) == (10, 20)
    assert stats.queue_wait_seconds.max == pytest.approx(0.5, rel=0.1)
    assert stats.latency_seconds.max == pytest.approx(3.0, rel=0.1)
    assert stats.requests_per_minute == 240
    assert "4 under permits (2 refused)" in str(stats)


def test_only_the_first_send_tells_the_queue_wait():
    """A retry waits for its own reasons."""
    stats = picture(sent(1, 2.0), sent(2, 50.0), sent(3, 90.0))
    assert stats.queue_wait_seconds.count == 1
    assert stats.queue_wait_seconds.max == 2.0


def test_the_median_latency_is_there_for_estimates():
    """Zero while nothing was answered."""
    recorder = Recorder()
    assert recorder.median_latency() == 0.0
    for latency in (1.0, 2.0, 30.0):
        recorder.record(succeeded(latency=latency), 5.0)
    assert recorder.median_latency() == pytest.approx(2.0, rel=0.03)


def test_a_picture_does_not_change():
    """Frozen, its mapping included; later events make a later picture."""
    recorder = Recorder()
    recorder.record(failed(), 1.0)
    stats = recorder.snapshot(waiting=0, in_flight=0, now=1.0)
    recorder.record(failed(), 2.0)
    assert stats.failed == {"RateLimitError": 1}
    with pytest.raises(TypeError):
        stats.failed["RateLimitError"] = 0
    with pytest.raises(AttributeError):
        stats.sent = 5


# -- requests a minute -----------------------------------------------------------------------------


def rate(instants, now, start=0.0):
    recorder = Recorder()
    recorder.record(queued(), start)
    for instant in sorted(instants):
        recorder.record(sent(), instant)
    return recorder.snapshot(waiting=0, in_flight=0, now=now).requests_per_minute


@given(st.lists(st.floats(0.0, 300.0), max_size=100), st.floats(0.0, 100.0))
def test_the_rate_counts_the_last_minute(instants, later):
    """What left within the last 59 s counts, what left before the last 60 s does not."""
    now = max(instants, default=0.0) + later
    elapsed = min(max(now, 1.0), 60.0)
    counted = rate(instants, now) * elapsed / 60.0
    assert counted >= sum(t >= now - 59 for t in instants) - 1e-6
    assert counted <= sum(t >= now - 60 for t in instants) + 1e-6


def test_a_steady_pace_is_told_as_it_is():
    """Ten a second is 600 a minute, after five seconds as after five minutes."""
    assert rate([n / 10 for n in range(50)], now=5.0) == pytest.approx(600)
    assert rate([n / 10 for n in range(3000)], now=300.0) == pytest.approx(600, rel=0.02)


def test_the_first_moment_is_no_wild_guess():
    """One request after a millisecond is not 60,000 a minute."""
    assert rate([0.0], now=0.001) == 60.0


def test_an_hour_of_nothing_is_a_rate_of_nothing():
    """And the minute's departures are forgotten, not kept."""
    assert rate([n / 10 for n in range(100)], now=3600.0) == 0.0


# -- the report ------------------------------------------------------------------------------------


def test_the_report_can_be_read():
    """One line per question, thousands grouped, seconds with three digits."""
    wait = Quantiles(9, 0.5, 0.75, 1.25, 12.5)
    stats = Stats(
        submitted=12_345,
        waiting=12,
        in_flight=3,
        sent=1234,
        succeeded=75,
        failed={"RateLimitError": 25, "CancelledError": 2},
        retried=4,
        rate_limited=5,
        overloaded=6,
        input_tokens=1_000_000,
        output_tokens=7,
        cache_creation_input_tokens=8,
        cache_read_input_tokens=9,
        queue_wait_seconds=wait,
        requests_per_minute=49.96,
    )
    assert str(stats).splitlines() == [
        "calls     12,345 submitted, 12 waiting, 3 in flight, 75 succeeded (75.0%)",
        "failed    2 CancelledError, 25 RateLimitError",
        "requests  1,234 sent, 4 retried, 5 x 429, 6 x 529, 50.0 a minute",
        "tokens    1,000,000 in, 7 out, 8 written to cache, 9 read from it",
        "queue     p50 0.500 s p90 0.750 s p99 1.250 s max 12.500 s",
        "latency   p50 0.000 s p90 0.000 s p99 0.000 s max 0.000 s",
    ]


def test_an_empty_report_can_be_read_too():
    """No failures are told as none, and where nothing has ended there is no rate of success."""
    assert "failed    none" in str(Stats())
    assert "%" not in str(Stats())


def test_events_of_many_threads_are_all_counted():
    """The recorder is thread-safe."""
    recorder, begin = Recorder(), threading.Barrier(4)

    def work():
        begin.wait(20)
        for _ in range(500):
            recorder.record(sent(), 1.0)
            recorder.record(succeeded(Usage(1, 1)), 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    stats = recorder.snapshot(waiting=0, in_flight=0, now=1.0)
    assert (stats.sent, stats.succeeded, stats.input_tokens) == (2000, 2000, 2000)

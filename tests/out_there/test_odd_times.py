"""Times that make no sense at first sight: epochs, the past, days. How a long pause is probed."""

from __future__ import annotations

from email.utils import formatdate

import anthropic
import pytest

from claude_throttle import LanePaused, LaneResumed, RetryScheduled
from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.feedback import FAULT, OVERLOAD, RATE, Feedback
from claude_throttle.core.pacing.backoff import retry_wait
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.testing import Reply
from claude_throttle.transport.verdicts import classify
from tests.support.calls import LANE, ask, echo
from tests.support.shared_pacers import refusal, two
from tests.support.waiting import move_until_done, wait_until

WALL = 1795262400.0
ONE = Cost(1.0, 0.0, 0.0)
MINUTE = 60.0


def wait_of(status=429, **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return classify(status, fields, b"{}", WALL).feedback.retry_after


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (f"{WALL + 20:.0f}", 20.0),
        (f"{WALL + 20.5}", 20.5),
        (f"{(WALL + 20) * 1000:.0f}", 20.0),
        (formatdate(WALL + 20, usegmt=True), 20.0),
        (formatdate(WALL + 20), 20.0),  # "-0000"
        ("20", 20.0),
        ("0.25", 0.25),
        ("999999", 999999.0),
        ("999999999", 999999999.0),
    ],
)
def test_an_instant_is_counted_from_now_a_number_of_seconds_is_one(status, text, seconds):
    assert wait_of(status, retry_after=text) == pytest.approx(seconds)
    assert wait_of(status, retry_after_ms=text if len(text) == 13 else "", retry_after=text) == (
        pytest.approx(seconds)
    )


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    "text",
    [
        *("0", "0.0", "-1", "-30", "nan", "NaN", "inf", "-inf", "soon", "", " ", "1e999", "None"),
        *(f"{WALL - 60:.0f}", f"{WALL:.0f}", f"{(WALL - 60) * 1000:.0f}", "1000000000"),
        *(formatdate(WALL - 60, usegmt=True), "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_what_is_over_or_no_time_leaves_our_own_backoff(status, text):
    verdict = classify(status, {"retry-after": text}, b"", WALL)
    assert verdict.retry
    assert not verdict.pauses_lane
    assert 0.25 <= retry_wait(verdict.feedback, 1) <= 0.5
    assert 4.0 <= retry_wait(verdict.feedback, 9) <= 8.0


@pytest.mark.parametrize("named", [901.0, 3600.0, 999999.0, 1e12])
def test_one_call_s_own_wait_is_cut_to_a_minute_two_four_eight_and_fifteen(named):
    waits = [retry_wait(Feedback(FAULT, named), number) for number in range(1, 8)]
    assert waits == pytest.approx([60, 120, 240, 480, 900, 900, 900], abs=0.11)
    assert retry_wait(Feedback(FAULT, 900.0), 1) == pytest.approx(900, abs=0.11)


# -- the pause of a lane ---------------------------------------------------------------------------


def pacer():
    return Pacer({}, jitter=lambda seconds: 0.0, lane="sonnet")


def fail(lane, now, named, cause=RATE):
    dispatch = lane.take(ONE, now)
    return lane.refused(Feedback(cause, named, status=429), dispatch, ONE, named or 0.5, 0, now)


def probes(lane, count, named, cause=RATE):
    """Instants of the tries, each refused with what is left of *named*."""
    fail(lane, 0.0, named, cause)
    at = []
    for _ in range(count):
        at.append(lane.ready_at(ONE, at[-1] if at else 0.0))
        fail(lane, at[-1], max(1000.0, named - at[-1]), cause)
    return at


@pytest.mark.parametrize("named", [86_000.0, 999999.0, 1e15])
@pytest.mark.parametrize("cause", [RATE, OVERLOAD])
def test_a_long_pause_is_probed_by_one_call_whatever_was_named(named, cause):
    gaps = [1, 2, 4, 8, 15, 15, 15]
    at = probes(pacer(), 7, named, cause)
    assert [(b - a) / MINUTE for a, b in zip([0.0, *at], at)] == pytest.approx(gaps)


def test_only_one_call_leaves_as_a_probe_until_it_is_answered():
    lane = pacer()
    fail(lane, 0.0, 3600.0)
    probe = lane.take(ONE, 60.0)
    assert probe.resumes
    assert lane.ready_at(ONE, 60.0) == 180.0
    lane.answered(Feedback(), probe, NO_COST, 61.0)
    assert lane.ready_at(ONE, 61.0) <= 62.0


def test_an_answer_to_a_call_of_before_ends_no_pause():
    lane = pacer()
    older = lane.take(ONE, 0.0)
    fail(lane, 1.0, 3600.0)
    lane.answered(Feedback(), older, NO_COST, 2.0)
    assert lane.ready_at(ONE, 2.0) == 61.0


def test_a_probe_that_is_told_a_shorter_wait_waits_for_that():
    lane = pacer()
    fail(lane, 0.0, 999999.0)
    fail(lane, 60.0, 20.0)
    assert lane.ready_at(ONE, 60.0) == 80.0
    assert lane.take(ONE, 80.0).resumes
    assert lane.ready_at(ONE, 80.0) <= 82.0


def test_a_probe_that_is_told_nothing_leaves_the_pause_as_it_was():
    lane = pacer()
    fail(lane, 0.0, 3600.0)
    fail(lane, 60.0, None)
    assert lane.ready_at(ONE, 61.0) == 180.0


def test_a_probe_without_an_answer_is_followed_by_the_next():
    lane = pacer()
    fail(lane, 0.0, 3600.0)
    lane.lost(lane.take(ONE, 60.0).at + 1)
    assert lane.ready_at(ONE, 62.0) == 180.0


def test_no_probe_is_later_than_the_end_that_was_named():
    lane = pacer()
    fail(lane, 0.0, 1000.0)
    at = [0.0]
    while at[-1] < 1000.0:
        at.append(lane.ready_at(ONE, at[-1]))
        lane.take(ONE, at[-1])
    assert at == [0.0, 60.0, 180.0, 420.0, 900.0, 1000.0]
    assert lane.ready_at(ONE, 1000.0) <= 1001.0


def test_after_a_long_pause_a_short_one_is_a_short_one():
    lane = pacer()
    fail(lane, 0.0, 1000.0)
    probe = lane.take(ONE, 60.0)
    lane.take(ONE, 1000.0)
    fail(lane, 1010.0, 30.0)
    lane.answered(Feedback(), probe, NO_COST, 1011.0)
    assert lane.ready_at(ONE, 1012.0) == 1040.0


def test_a_quarter_of_an_hour_is_waited_out():
    lane = pacer()
    _, (paused,) = fail(lane, 0.0, 900.0)
    assert lane.ready_at(ONE, 1.0) == 900.0
    assert paused == LanePaused("sonnet", 429, 900.0, None)


def test_the_event_says_how_long_and_when_it_is_probed():
    lane = pacer()
    _, (paused,) = fail(lane, 0.0, 3600.0)
    delay, (again,) = fail(lane, 60.0, 3540.0)
    assert paused == LanePaused("sonnet", 429, 3600.0, 60.0)
    assert again == LanePaused("sonnet", 429, 3540.0, 120.0)
    # The probe that failed is not the call's fault: none of its retries is used up.
    assert (delay.seconds, delay.alone, delay.free) == (120.0, False, True)


def test_the_others_of_a_store_learn_the_time_until_the_probe_only():
    clock, one, two_ = two(rpm=6000)
    one.leave()
    dispatch = one.pacer.take(ONE, clock.monotonic())
    one.pacer.refused(refusal(7200.0), dispatch, ONE, 7200.0, 0, clock.monotonic())
    one.exchange()
    began = clock.monotonic()
    two_.exchange()
    assert two_.leaves_at() - began == pytest.approx(60.0, abs=1.0)


def test_a_call_waits_through_an_absurd_pause_and_is_answered_after_a_minute(
    fake, throttle, manual
):
    server = fake(clock=manual)
    server.script(Reply(429, {"retry-after": "999999"}, "rate_limit_error"))
    events = []
    throttler = throttle(server, clock=manual, on_event=events.append)
    futures = [throttler.submit(**ask("0"))]
    wait_until(lambda: throttler.stats().retried)
    futures += [throttler.submit(**ask(str(n))) for n in range(1, 4)]
    state = throttler.limits()[LANE]
    assert state.paused_seconds > 80_000
    assert 50 <= state.probe_seconds <= 63
    manual.wait_for_sleepers(1)
    manual.advance(59.0)
    assert len(server.arrivals) == 1
    move_until_done(manual, futures, 2.0)
    assert [echo(future.result()) for future in futures] == ["0", "1", "2", "3"]
    assert manual.monotonic() < 1_000 + 90
    (paused,) = (event for event in events if isinstance(event, LanePaused))
    assert (paused.seconds > 80_000, 60 <= paused.probe_in_seconds <= 63) == (True, True)
    assert [event for event in events if isinstance(event, LaneResumed)]


def test_probes_use_up_nobody_s_retries(fake, throttle, manual):
    server = fake(clock=manual)
    server.script(*[Reply(429, {"retry-after": "7200"}, "rate_limit_error")] * 6)
    throttler = throttle(server, max_retries=1, clock=manual)
    future = throttler.submit(**ask())
    move_until_done(manual, [future], 60.0)
    assert echo(future.result()) == "hello"
    assert len(server.arrivals) == 7


@pytest.mark.parametrize("ahead", [5.0, 5000.0])
def test_an_epoch_is_waited_for_and_no_longer(fake, throttle, manual, ahead):
    server = fake(clock=manual)
    server.script(Reply(503, {"retry-after": f"{manual.wall() + ahead:.0f}"}, "api_error"))
    events = []
    throttler = throttle(server, clock=manual, on_event=events.append)
    future = throttler.submit(**ask())
    move_until_done(manual, [future], 10.0)
    assert echo(future.result()) == "hello"
    (retried,) = (event for event in events if isinstance(event, RetryScheduled))
    assert min(ahead, 60.0) <= retried.wait_seconds <= min(ahead, 60.0) + 0.2


def test_a_wait_beyond_the_timeout_fails_at_once_with_the_api_s_error(fake, throttle):
    server = fake()
    server.script(Reply(429, {"retry-after": "999999"}, "rate_limit_error"))
    error = throttle(server).submit(**ask(timeout=30)).exception(10)
    assert isinstance(error, anthropic.RateLimitError)

"""Who is turned away is counted by reason; the log has one line for it, and few for a call."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from collections import Counter

import anthropic
import pytest
import requests

from claude_throttle import (
    AccountSuspended,
    CallFailed,
    CallSent,
    CallSucceeded,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpen,
    CircuitOpened,
    Closed,
    ConcurrencyChanged,
    ConnectionLimitReached,
    DeadlineExceeded,
    IterationBooked,
    LanePaused,
    LaneResumed,
    LimitLearned,
    PermitClosed,
    PermitGranted,
    QueueFull,
    QuotaTooSmall,
    RetryScheduled,
    StoreLost,
    StoreReturned,
    Suspended,
    SuspensionEnded,
    ThrottleError,
    Usage,
)
from claude_throttle.contrib import status
from claude_throttle.metrics.event_bus import EventBus, line_of
from claude_throttle.metrics.recorder import Recorder, Stats
from claude_throttle.testing import OWN_SPEND_LIMIT, ManualClock, Reply
from tests.support.calls import HELLO, KEY, MODEL, ask
from tests.support.needs import needs
from tests.support.waiting import wait_until


def submit(throttler, server, **options):
    throttler.submit(**ask(**options))


def stream(throttler, server, **options):
    throttler.stream(**ask(**options))


def read_map(throttler, server, **options):
    list(throttler.map([ask(**options)]))


def permit(throttler, server, **options):
    throttler.permit(model=MODEL, input_tokens=9, **options)


def sdk(throttler, server, options):
    return anthropic.Anthropic(
        api_key=KEY,
        base_url=server.url,
        middleware=[throttler.middleware(**options)],
        http_client=anthropic.DefaultHttpxClient(verify=False),  # to read no certificates
    )


@needs("middleware")
def middleware(throttler, server, **options):
    with sdk(throttler, server, options) as client:
        client.messages.create(**HELLO)


@needs("middleware")
def count(throttler, server, **options):
    with sdk(throttler, server, options) as client:
        client.messages.count_tokens(model=MODEL, messages=HELLO["messages"])


def session(throttler, server, **options):
    with requests.Session() as opened:
        opened.mount(server.url, throttler.adapter(**options))
        opened.post(f"{server.url}/v1/messages", json=HELLO, headers={"x-api-key": KEY})


def suspend(throttler, server):
    server.script(OWN_SPEND_LIMIT)
    assert throttler.submit(**ask()).exception(10)


def open_circuit(throttler, server):
    server.script(*[Reply(500)] * 5)
    for _ in range(5):
        assert throttler.submit(**ask()).exception(10)


def fill(throttler, server):
    throttler.pause()
    throttler.submit(**ask())


def pause(throttler, server):
    throttler.pause()


def close(throttler, server):
    throttler.call(**ask())
    throttler.close()


OURS = [submit, stream, read_map]
OTHERS = [permit, middleware, session]
SOON = {"timeout": 0.01}

#: Why, what brings it about, settings, at which doors, with what.
TURNED_AWAY = [
    (AccountSuspended, suspend, {}, [*OURS, *OTHERS, count], {}),
    (QueueFull, fill, {"max_queue": 1}, [submit, stream], {}),
    (DeadlineExceeded, fill, {"max_queue": 1}, [submit, read_map], {"block": True, **SOON}),
    (DeadlineExceeded, pause, {}, [*OTHERS, count], SOON),
    (CircuitOpen, open_circuit, {"max_retries": 0}, OURS + OTHERS, SOON),
    (Closed, close, {}, [*OURS, *OTHERS, count], {}),
    (QuotaTooSmall, None, {"rpm": None, "itpm": 2}, [*OURS, middleware, session], {}),
]
CASES = [
    pytest.param(why, bring, settings, door, options, id=f"{why.__name__}-{door.__name__}")
    for why, bring, settings, doors, options in TURNED_AWAY
    for door in doors
]


def options_for(door, options):
    """submit(block=) is map()'s own."""
    return {k: v for k, v in options.items() if (door, k) != (read_map, "block")}


@pytest.mark.parametrize(("why", "bring", "settings", "door", "options"), CASES)
def test_who_is_turned_away_is_counted_by_reason(
    fake, throttle, caplog, why, bring, settings, door, options
):
    server = fake()
    throttler = throttle(server, **settings)
    if bring is not None:
        bring(throttler, server)
    before = throttler.stats()
    with caplog.at_level(logging.INFO, "claude_throttle"):
        for _ in range(2):
            with pytest.raises(why):
                door(throttler, server, **options_for(door, options))
    stats = throttler.stats()
    assert stats.turned_away == {why.__name__: 2}
    assert (stats.submitted, stats.permits) == (before.submitted, before.permits)
    assert dict(stats.failed) == dict(before.failed), "it was never accepted, so it did not fail"
    counted = sum((Counter(one.turned_away) for one in throttler.history()), Counter())
    assert counted == {why.__name__: 2}
    (page,) = status.data({"default": throttler})["throttlers"]
    assert page["stats"]["turned_away"] == {why.__name__: 2}
    lines = [one for one in caplog.records if "turned away" in one.getMessage()]
    assert [(one.levelname, why.__name__ in one.getMessage()) for one in lines] == [
        ("INFO", True)
    ] * 2


def test_ten_by_a_suspension_and_seven_by_a_full_queue_add_up(fake, throttle):
    server = fake()
    throttler = throttle(server, max_queue=1)
    suspend(throttler, server)
    for _ in range(10):
        with pytest.raises(AccountSuspended):
            submit(throttler, server)
    throttler.resume()
    fill(throttler, server)
    for _ in range(7):
        with pytest.raises(QueueFull):
            submit(throttler, server)
    stats = throttler.stats()
    assert stats.turned_away == {"AccountSuspended": 10, "QueueFull": 7}
    assert "turned away  10 AccountSuspended, 7 QueueFull" in str(stats)
    throttler.resume()


def test_what_was_accepted_and_ends_unsent_is_a_failure_and_no_more(fake, throttle):
    throttler = throttle(fake())
    throttler.pause()
    future = throttler.submit(**ask(timeout=0.01))
    assert isinstance(future.exception(10), DeadlineExceeded)
    stats = throttler.stats()
    assert (dict(stats.failed), dict(stats.turned_away)) == ({"DeadlineExceeded": 1}, {})


def test_a_permit_that_waited_in_vain_for_an_account_is_turned_away(fake, throttle):
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask())
    throttler.pause()
    ended = []

    def wait_for_it():
        with contextlib.suppress(ThrottleError):
            throttler.permit(model=MODEL)
        ended.append(throttler.stats().turned_away)

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    wait_until(lambda: throttler.stats().waiting)
    throttler.close(timeout=0, cancel_pending=True)
    thread.join(20)
    assert ended == [{"Closed": 1}]


def test_nobody_turned_away_adds_no_line_to_the_report():
    assert "turned away" not in str(Stats())


def test_an_interval_of_the_history_counts_no_further_and_pickles():
    recorder = Recorder()
    recorder.turned_away("QueueFull", 1.0)
    (before,) = recorder.history(1.0)
    recorder.turned_away("QueueFull", 1.0)
    assert pickle.loads(pickle.dumps(before)).turned_away == {"QueueFull": 1}
    recorder.turned_away("Closed", 25.0)
    assert [one.turned_away for one in recorder.history(25.0)] == [
        {"QueueFull": 2},
        {},
        {"Closed": 1},
    ]


# -- the log ---------------------------------------------------------------------------------------

LEVELS = [
    (CallSent(7, MODEL, 1, 0.0123456), "DEBUG"),
    (CallSucceeded(7, MODEL, 1, 1.23456789, Usage(1, 2), "req_1"), "DEBUG"),
    (CallFailed(7, MODEL, 0, "CancelledError", None), "DEBUG"),
    (IterationBooked("claude-opus-5", "opus-5", Usage(1, 2)), "DEBUG"),
    (PermitGranted(7, "opus-5", 0.1), "DEBUG"),
    (PermitClosed(7, "opus-5", 0.1, 200, False, None), "DEBUG"),
    (PermitClosed(7, "opus-5", 0.1, 429, True, None), "INFO"),
    (PermitClosed(7, "opus-5", 0.1, None, True, None), "INFO"),
    (CallFailed(7, MODEL, 1, "RateLimitError", 429), "INFO"),
    (CallFailed(7, MODEL, 0, "DeadlineExceeded", None), "INFO"),
    (RetryScheduled(7, MODEL, 1, 429, "rate limit", 0.5), "INFO"),
    (LanePaused("opus-5", 429, 1.5), "INFO"),
    (LaneResumed("opus-5"), "INFO"),
    (LimitLearned("opus-5", "requests", 50.0, 0.0), "INFO"),
    (ConcurrencyChanged(3.0, 4.0), "INFO"),
    (ConnectionLimitReached(512), "INFO"),
    (CircuitHalfOpened("opus-5"), "INFO"),
    (CircuitClosed("opus-5"), "INFO"),
    (SuspensionEnded(""), "INFO"),
    (StoreReturned("redis://host", 3), "INFO"),
    (CircuitOpened("opus-5", 2.0), "WARNING"),
    (Suspended("", "spend limit", None), "WARNING"),
    (StoreLost("redis://host", "it is gone", 3), "WARNING"),
]


@pytest.mark.parametrize(
    ("event", "level"), LEVELS, ids=lambda it: it if isinstance(it, str) else type(it).__name__
)
def test_a_call_is_a_line_of_debug_and_a_change_or_a_refusal_is_more(event, level, caplog):
    bus = EventBus(Recorder(), [], ManualClock())
    with caplog.at_level(logging.DEBUG, "claude_throttle"):
        bus.observe(event, None)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        (level, line_of(event))
    ]


def test_an_answered_call_leaves_no_line_where_info_is_shown(fake, throttle, caplog):
    throttler = throttle(fake())
    throttler.call(**ask())  # what is learned by the first answer is said
    with caplog.at_level(logging.INFO, "claude_throttle"):
        throttler.call(**ask())
        with throttler.permit(model=MODEL) as permit:
            permit.settle(status=200, headers={})
    assert [one.getMessage() for one in caplog.records] == []


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            CallSent(7, MODEL, 1, 0.012345678),
            f"CallSent(number=7, model='{MODEL}', attempt=1, waited_seconds=0.012)",
        ),
        (
            LimitLearned("opus-5", "requests", 4e5, 1e12),
            "LimitLearned(lane='opus-5', kind='requests', limit=400000.0, before=1000000000000.0)",
        ),
        (
            LanePaused("opus-5", None, -1e-9),
            "LanePaused(lane='opus-5', status=None, seconds=0.0, probe_in_seconds=None)",
        ),
        (
            StoreLost("redis://host", "a\x1b[2J\nb" + "x" * 500, 3),
            "StoreLost(store='redis://host', reason='a\\x1b[2J\\nb" + "x" * 193 + "', members=3)",
        ),
        (ConcurrencyChanged(float("inf"), 4.0), "ConcurrencyChanged(limit=inf, before=4.0)"),
    ],
    ids=["thousandths", "large numbers", "no -0", "control characters", "infinity"],
)
def test_a_line_has_rounded_numbers_and_short_clean_texts(event, line):
    assert line_of(event) == line


def test_no_line_of_a_refusal_holds_a_key_or_a_prompt(fake, throttle, caplog):
    server = fake()
    throttler = throttle(server, max_queue=1)
    with caplog.at_level(logging.DEBUG, "claude_throttle"):
        suspend(throttler, server)
        with pytest.raises(AccountSuspended):
            throttler.submit(**ask("my secret prompt"))
        throttler.resume()
        fill(throttler, server)
        with pytest.raises(QueueFull):
            throttler.submit(**ask("my secret prompt"))
    throttler.resume()
    assert "turned away" in caplog.text
    assert KEY not in caplog.text
    assert "secret" not in caplog.text

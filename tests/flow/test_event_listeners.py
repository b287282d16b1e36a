"""Listeners that raise, call back, close, or take their time."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait

import pytest

from claude_throttle import (
    CallQueued,
    CallSucceeded,
    CircuitOpened,
    LimitLearned,
    RetryScheduled,
    Suspended,
)
from tests.support.a_day import EVERY_EVENT, a_day, keen
from tests.support.calls import ask, echo
from tests.support.waiting import wait_until

# -- listeners that misbehave ----------------------------------------------------------------------


def test_a_listener_that_raises_is_logged_and_forgotten(fake, throttle, caplog):
    """At every single event; the day is like any other."""

    def listen(event):
        raise ValueError(f"no {type(event).__name__}")

    server = fake(rpm=6000)
    throttler = keen(throttle, server, on_event=listen)
    with caplog.at_level(logging.ERROR, "claude_throttle"):
        futures = a_day(server, throttler)
    errors = [future.exception(10) for future in futures]
    assert [error is None for error in errors] == [True] * 4 + [False] * 2 + [True]
    complaints = {str(record.exc_info[1]) for record in caplog.records}
    assert complaints == {f"no {kind.__name__}" for kind in EVERY_EVENT}
    assert throttler.limits().in_flight == 0


def test_a_listener_may_use_the_throttler(fake, throttle):
    """submit(), limits(), stats(), permit() from within, once for each kind of event."""
    seen, failures = set(), {}

    def listen(event):
        kind = type(event)
        if kind in seen:
            return
        seen.add(kind)
        try:
            throttler.limits()
            throttler.stats()
            throttler.estimate_wait(**ask())
            throttler.submit(**ask("own", model="claude-haiku-4-5")).result(20)
            with throttler.permit(model="claude-opus-5", timeout=10):
                pass
        except BaseException as error:
            failures[kind] = type(error).__name__

    server = fake(rpm=6000)
    throttler = keen(throttle, server, on_event=listen)
    day = threading.Thread(target=a_day, args=(server, throttler), daemon=True)
    day.start()
    day.join(60)
    assert not day.is_alive()
    assert seen == set(EVERY_EVENT)
    assert failures == {Suspended: "AccountSuspended"}


#: The first are cut off, whatever they are; the others are given time.
ENDINGS = [
    *[(kind, {"timeout": 0, "cancel_pending": True}) for kind in EVERY_EVENT],
    *[(kind, {}) for kind in (CallQueued, LimitLearned, RetryScheduled, CircuitOpened, Suspended)],
]


@pytest.mark.parametrize(
    ("kind", "how"), ENDINGS, ids=lambda it: getattr(it, "__name__", "cut" if it else "drain")
)
def test_a_listener_may_close_the_throttler(fake, throttle, kind, how):
    """From within any event: nobody hangs, and every future ends."""
    closed = []

    def listen(event):
        if type(event) is kind and not closed:
            closed.append(False)
            throttler.close(**how)
            closed.append(True)

    server = fake(rpm=6000)
    throttler = keen(throttle, server, on_event=listen)
    futures = []
    day = threading.Thread(target=lambda: futures.extend(a_day(server, throttler)), daemon=True)
    day.start()
    day.join(30)
    assert not day.is_alive()
    wait_until(lambda: closed == [False, True])
    assert not wait(futures, 10).not_done


def test_a_slow_listener_holds_up_nobody_else(fake, throttle):
    """It holds its own sender; others leave and come back meanwhile."""
    go_on = threading.Event()

    def listen(event):
        if isinstance(event, CallSucceeded) and event.number == 1:
            go_on.wait(30)

    throttler = throttle(fake(), on_event=listen, max_concurrency=2)
    slow = throttler.submit(**ask("slow"))
    for n in range(5):
        assert echo(throttler.submit(**ask(str(n))).result(10)) == str(n)
    assert not slow.done()
    go_on.set()
    assert echo(slow.result(10)) == "slow"

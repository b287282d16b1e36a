"""Events reach every listener, in the context of the thread that submitted the call."""

from __future__ import annotations

import contextvars
import logging
from types import SimpleNamespace

from claude_throttle import CircuitClosed, CircuitOpened
from claude_throttle.metrics.event_bus import EventBus
from claude_throttle.metrics.recorder import Recorder
from claude_throttle.testing import ManualClock

WHO = contextvars.ContextVar("who", default="nobody")


def test_every_listener_is_called_in_the_submitters_context(caplog):
    """One that raises is logged, and keeps no event from the next."""
    seen = []

    def failing(event):
        raise ValueError("no events, please")

    bus = EventBus(
        Recorder(), [failing, lambda event: seen.append((event, WHO.get()))], ManualClock()
    )
    WHO.set("the submitter")
    call = SimpleNamespace(context=bus.context())
    WHO.set("another")
    with caplog.at_level(logging.ERROR, "claude_throttle"):
        bus.observe(CircuitOpened("sonnet-5", 2.0), call)
        bus.observe(CircuitClosed("sonnet-5"), None)
    assert seen == [
        (CircuitOpened("sonnet-5", 2.0), "the submitter"),
        (CircuitClosed("sonnet-5"), "nobody"),
    ]
    assert len(caplog.records) == 2


def test_without_listeners_no_context_is_copied():
    """A copy for each call would cost, and nothing would read it."""
    assert EventBus(Recorder(), [], ManualClock()).context() is None

"""When a run gives a server up, and what it says of outages."""

from __future__ import annotations

import pytest

from claude_throttle import (
    CallFailed,
    CallSucceeded,
    CircuitClosed,
    CircuitOpened,
    Event,
    RetryScheduled,
    Usage,
)
from claude_throttle.cli.outage_watch import GIVE_UP_SECONDS, OutageWatch
from claude_throttle.core.threads.clock import SYSTEM_CLOCK

LOST = RetryScheduled(1, "m", 1, None, "no connection", 0.5)
OPENED = CircuitOpened("m", 0.5)
ANSWER = CallSucceeded(1, "m", 1, 0.1, Usage(), None)


def long_after(*events: Event) -> str | None:
    """What is thought of a server after these, and a long time of nothing."""
    reach = OutageWatch()
    for event in events:
        reach(event)
    return reach.give_up_reason(SYSTEM_CLOCK.monotonic() + GIVE_UP_SECONDS)


def test_a_server_that_never_answered_is_given_up() -> None:
    """With what became of the last attempt as the reason."""
    assert "(no connection)" in str(long_after(LOST, OPENED))
    failed = CallFailed(1, "m", 1, "APIConnectionError", None)
    assert "(APIConnectionError)" in str(long_after(failed, OPENED))


@pytest.mark.parametrize(
    "events",
    [
        [],
        [LOST],
        [ANSWER, LOST, OPENED],
        [LOST._replace(status=529, reason="overloaded"), LOST, OPENED],
        [CallFailed(1, "m", 1, "BadRequestError", 400), LOST, OPENED],
        [LOST, OPENED, CircuitClosed("m")],
    ],
    ids=["silence", "few", "answered", "busy", "refused", "back"],
)
def test_any_other_is_waited_for(events: list[Event]) -> None:
    """Whoever has answered once, however unkindly, is there; an outage has an end."""
    assert long_after(*events) is None


def test_it_is_not_given_up_at_once() -> None:
    """A server may be starting just now."""
    reach = OutageWatch()
    reach(OPENED)
    assert reach.give_up_reason(SYSTEM_CLOCK.monotonic()) is None


def test_an_outage_and_its_end_are_told() -> None:
    """Once each, however many calls fail."""
    said: list[str] = []
    reach = OutageWatch()
    reach.say = said.append
    for event in (LOST, LOST, OPENED, LOST, LOST, CircuitClosed("m"), ANSWER):
        reach(event)
    outage, end = said
    assert outage.startswith("m: the server keeps failing (no connection)")
    assert end == "m: the server answers again"

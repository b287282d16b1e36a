"""Messages of our own refusals: who, how many, how long, and what to do."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.errors import (
    AccountSuspended,
    Closed,
    DeadlineExceeded,
    Forked,
    QueueFull,
    ThrottleError,
)

if TYPE_CHECKING:
    from claude_throttle.account.suspension import Suspension


def no_place(call: Call, backlog: Backlog, seconds: float, waited: bool) -> ThrottleError:
    """The queue is full; one more call would wait *seconds*. *waited*: it did, in vain."""
    paused = math.isinf(seconds)
    wait = "until resume()" if paused else f"about {seconds:,.1f} s"
    one = backlog.calls == 1
    text = (
        f"{backlog.calls:,} call{'s' * (not one)} to {call.model} {'is' if one else 'are'} already "
    )
    text += f"waiting (max_queue={backlog.maxsize:,}); one more would wait {wait}; "
    after = None if paused else seconds / (backlog.calls + 1)
    if waited:
        text += f"no place came free in {call.timeout:g} s"
        return DeadlineExceeded(text, retry_after=after)
    return QueueFull(text + "wait, submit(block=True), or raise max_queue", retry_after=after)


def suspended(why: Suspension, lane: str, now: float) -> AccountSuspended:
    """Nothing is sent, since the API refuses it. *lane* is "" for the whole account."""
    seconds = why.seconds_until_probe(now)
    return AccountSuspended(
        _suspended_text(why, lane, f"{seconds:,.0f}"),
        reason=why.reason,
        until=why.until,
        lane=lane,
        retry_after=seconds,
    )


@functools.lru_cache(maxsize=2)  # a hundred thousand calls may be rejected in one second
def _suspended_text(why: Suspension, lane: str, seconds: str) -> str:
    whom = f"this account calls to {lane}" if lane else "this account"
    until = f", until {why.until}" if why.until else ""
    return (
        f"the API refuses {whom} ({why.reason}{until}): {why.message!r}; nothing is sent; "
        f"one call is tried in {seconds} s, or after resume()"
    )


def closed(call: Call) -> Closed:
    """The throttler was closed after the call had left."""
    attempts = call.attempt  # read once: it is let go of when the call ends
    sent = attempts is not None and attempts.on_the_wire
    where = "was on the wire; it may be billed" if sent else "waited for another try"
    return Closed(f"the throttler was closed while call {call.number} {where}", sent=sent)


def forked(call: Call) -> Forked:
    """A forked child has only a copy of the call's future."""
    return Forked(f"call {call.number} ({call.model}) belongs to the parent process")

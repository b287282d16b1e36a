"""Why a ticket had not left when its time was up, and how long another would wait."""

from __future__ import annotations

import math

from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.ticket import NOTHING, Ticket, WaitedFor


def waited_for(
    ticket: Ticket, pacer: Pacer, limiter: ConcurrencyLimiter, backlog: Backlog, now: float
) -> WaitedFor:
    """What holds up *ticket* now. Requires the lane's mutex."""
    # By the quotas, wherever they are kept: a shared store names only its own instant.
    ready_at, constraint = Pacer.decide(pacer, ticket.cost, now)
    if constraint == "pause()":
        return WaitedFor("; pause() holds everything back until resume()")
    if constraint in _HELD_UP:
        status = pacer.pause.status
        whose = f"the API answered {status}" if status else "another process was refused"
        said = _HELD_UP[constraint].format(whose)
        return WaitedFor(f"; it waited {said}, {_about(ready_at - now)}", ready_at - now)
    queued = backlog.load
    seconds = Pacer.leaves_at(pacer, queued, ticket.cost, now) - now
    others = round(queued.requests)
    ahead = f", behind {others:,} other{'s' * (others != 1)}" if others else ""
    known = seconds if 0.0 < seconds < math.inf else None
    if limiter.admissible_priority(now) < ticket.priority:
        places = f"all {limiter.in_use:,} places" if limiter.in_use > 1 else "the only place"
        return WaitedFor(f"; {places} in flight taken{ahead}", known)
    if constraint or known:
        quota = f"the quota of {constraint}" if constraint else "its turn"
        return WaitedFor(f"; it waited for {quota}{ahead}, {_about(seconds)}", known)
    return NOTHING


_HELD_UP = {
    "pause": "for the end of its lane's pause ({})",
    "circuit": "for the next try of an API that keeps failing",
    "growth limit": "because the API limits how fast usage may grow",
    "unknown limit": "for the first answer that shows the limits",
}


def _about(seconds: float) -> str:
    return f"for another {seconds:,.1f} s" if seconds < 10 else f"for another {seconds:,.0f} s"

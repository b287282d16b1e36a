"""The one place that reaches into a Throttler and a FakeClaude for tests.

What is private may change with any commit; then this file changes with it, and no test does.
"""

from __future__ import annotations

from tests.support.calls import MODEL


def requests_out(throttlers, servers):
    """How many requests are out, how many a server holds back, and how many ever came."""
    engines = (engine for throttler in throttlers for engine in throttler._begun())
    connections = (one for server in servers for one in list(server._connections))
    return (
        sum(engine.limiter.in_use for engine in engines),
        sum(connection._plan is not None for connection in connections),
        sum(len(server.arrivals) for server in servers),
    )


def slots_in_use(throttler):
    """How many places of its concurrency limit are taken."""
    return throttler._process().limiter.in_use


def pacer_of(throttler, model=MODEL):
    """The pacer of the lane that calls of *model* go through."""
    return throttler._process().model_group(model).pacer


def lane_of(throttler, model=MODEL):
    """The lane that calls of *model* go through."""
    return throttler._process().model_group(model).lane


def note_departures(throttler, noted=lambda cost, now: now, model=MODEL):
    """What is *noted* of each call the worker lets leave, the instant if nothing else."""
    pacer = pacer_of(throttler, model)
    departures, take = [], pacer.take

    def noting(cost, now, answers=True):
        departures.append(noted(cost, now))
        return take(cost, now, answers)

    pacer.take = noting
    return departures

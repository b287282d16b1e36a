"""The one place that reaches into a Throttler and a FakeClaude for tests.

What is private may change with any commit; then this file changes with it, and no test does.
"""

from __future__ import annotations

from tests.support.calls import MODEL


def requests_out(throttlers, servers):
    """How many requests are out, how many a server holds back, and how many ever came."""
    engines = (engine for throttler in throttlers for engine in throttler._begun())
    connections = (one for server in servers for one in connections_to(server))
    return (
        sum(engine.account.limiter.in_use for engine in engines),
        sum(connection.is_answering for connection in connections),
        sum(len(server.arrivals) for server in servers),
    )


def engine_of(throttler):
    """All that the throttler has in this process; made if it is not there yet."""
    return throttler._engine()


def model_group_of(throttler, model=MODEL):
    """The models that share *model*'s limits: their lane and their estimator."""
    return engine_of(throttler).account.model_group(model)


def lane_of(throttler, model=MODEL):
    """The lane that calls of *model* go through."""
    return model_group_of(throttler, model).lane


def pacer_of(throttler, model=MODEL):
    """The pacer of that lane."""
    return model_group_of(throttler, model).pacer


def endpoint_lane_of(throttler, endpoint):
    """The lane of requests that are no messages: to ``count_tokens``, or about ``batches``."""
    return engine_of(throttler).account.admission.endpoint_lanes[endpoint]


def slots_in_use(throttler):
    """How many slots of its concurrency limit are taken."""
    return engine_of(throttler).account.limiter.in_use


def locks_of(throttler):
    """Every lock that a call, a sender or a listener may meet."""
    engine = engine_of(throttler)
    return [
        *(lane.mutex for lane in engine.account.lanes()),
        engine.account.limiter._lock,
        engine.thread_pool._lock,
        engine.account.suspensions._lock,
        engine.account.model_groups._lock,
    ]


def answers_awaited(throttler, model=MODEL):
    """How many requests of *model* the pacer believes to be out."""
    return pacer_of(throttler, model).latency._in_flight


def transport_of(throttler):
    """What sends its calls."""
    return engine_of(throttler).account.transport


def adapter_of(throttler):
    """The adapter of ``requests`` that sends its calls."""
    return transport_of(throttler)._adapter


def connection_pools_of(throttler):
    """Its pools of connections, one for each address."""
    return list(adapter_of(throttler).poolmanager.pools._container.values())


def connections_to(server):
    """The connections that a FakeClaude has, answering or kept alive."""
    return list(server._connections)


def note_departures(throttler, noted=lambda cost, now: now, model=MODEL):
    """What is *noted* of each call the worker lets leave, the instant if nothing else."""
    pacer = pacer_of(throttler, model)
    departures, take = [], pacer.take

    def noting(cost, now, answers=True):
        departures.append(noted(cost, now))
        return take(cost, now, answers)

    pacer.take = noting
    return departures

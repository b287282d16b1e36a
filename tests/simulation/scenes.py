"""Scenes for the simulation: the real pacer, permits and estimates against a modelled server."""

from __future__ import annotations

import math
import random

from claude_throttle.core.domain.feedback import CONCURRENCY, RAMP, RATE
from claude_throttle.core.estimation.estimator import Estimator
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import AUTO, Pacer
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.simulation import Simulation

MODEL = "claude-sonnet-5"

#: What answers 429.
LIMITED = (RATE, CONCURRENCY, RAMP)


def loopback(chance):
    """Seconds one way: a fifth of a millisecond."""
    return 0.0002


def internet(chance):
    """Seconds one way: 40 ± 20 ms."""
    return max(0.005, chance.gauss(0.04, 0.02))


NETWORKS = {"loopback": loopback, "internet": internet}


def spread_over(seconds):
    """A network that delays each way by up to so many seconds, evenly drawn."""
    return lambda chance: 0.0002 + seconds * chance.random()


class Learning:
    """The real estimator, asked as a lane's room asks it."""

    def __init__(self):
        self._real = Estimator()

    def __call__(self, request, stretch):
        cost = self._real.cost(MODEL, _guess(request), request.max_tokens)
        output = min(float(request.max_tokens), cost.output_tokens * stretch)
        return cost._replace(output_tokens=output)

    def learn(self, request):
        self._real.learn(
            MODEL,
            _guess(request),
            request.input_tokens,
            request.max_tokens,
            request.output_tokens,
        )


def _guess(request):
    return request.input_tokens if request.guess is None else request.guess


def simulate(
    limits, requests, *, network=loopback, seed=0, told=None, burst=None, changes=(), **server
):
    """Run a scene to its end. *changes*: (instant, function of the simulation)."""
    # The pause's jitter draws from the module's own generator.
    random.seed(seed)
    pacer = Pacer(told or {}, burst or (1.0 if told else AUTO))
    limiter = ConcurrencyLimiter(probing=not told)
    server = SimulatedServer(limits, seed=seed, **server)
    simulation = Simulation(
        pacer, limiter, Learning(), server, _timed(requests), one_way=network, seed=seed
    )
    simulation.changes += [(at, lambda what=what: what(simulation)) for at, what in changes]
    return simulation.run()


def _timed(requests):
    return [(0.0, r) if isinstance(r, SimulatedRequest) else r for r in requests]


def limits_become(**limits):
    """A change: other limits are in force."""
    return lambda simulation: simulation.server.reshape(SimulatedLimits(**limits), simulation.now)


def outage(feedback):
    """A change: everything is refused; None ends it."""

    def begin(simulation):
        simulation.server.outage = feedback

    return begin


def between(chance, least, most):
    """A whole number, evenly spread over the orders of magnitude."""
    return round(least * (most / least) ** chance.random())


# -- what became of it -----------------------------------------------------------------------------


def arrivals(simulation):
    """Instants of what was let in."""
    return [seen.at for seen in simulation.server.log if not seen.cause]


def refusals(simulation, causes=LIMITED, since=-math.inf):
    """How many met one of *causes*: a 429, unless said otherwise."""
    return sum(seen.cause in causes and seen.at >= since for seen in simulation.server.log)


def seconds(simulation):
    """From the first that was let in to the last."""
    came = arrivals(simulation)
    return came[-1] - came[0]


def unanswered(simulation):
    """Calls that failed, or whose end never came."""
    return [call.number for call in simulation.calls if call.failed or call.done_at is None]


def pace(simulation, begin, end):
    """Requests let in a second, between two instants."""
    return sum(begin <= at < end for at in arrivals(simulation)) / (end - begin)

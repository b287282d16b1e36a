"""What the properties of the simulation are tried on."""

from __future__ import annotations

import random

from hypothesis import Phase, settings
from hypothesis import strategies as st

from claude_throttle.simulation.simulated_server import SimulatedRequest
from tests.simulation.scenes import NETWORKS

#: How properties are tried in the thorough run. Not shrunk: a smaller scene is another one.
SCENES = settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate])

networks = st.sampled_from(sorted(NETWORKS))
stamps = st.sampled_from(["admission", "answer"])
seeds = st.integers(0, 10_000)
#: Spread over orders of magnitude.
rates = st.floats(2.0, 3.5).map(lambda power: round(10**power))
latencies = st.floats(-1.3, 0.5).map(lambda power: 10**power)


def calls(count, seconds, seed, **more):
    """*count* calls that take *seconds*, give or take a third."""
    chance = random.Random(seed)
    return [
        SimulatedRequest(latency=seconds * chance.uniform(0.7, 1.3), **more) for _ in range(count)
    ]


def second_half(simulation, units, rate):
    """Share of the quota that was used from the middle of the run on."""
    came = [(seen.at, units(seen.request)) for seen in simulation.server.log if not seen.cause]
    middle = (came[0][0] + came[-1][0]) / 2
    late = [(at, size) for at, size in came if at >= middle]
    return sum(size for _, size in late[:-1]) / (rate * (late[-1][0] - late[0][0]))

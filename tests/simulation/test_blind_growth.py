"""A limit guessed from refusals that name none: soon left behind if it was wrong, kept if not."""

from __future__ import annotations

import gc

import pytest

from claude_throttle.core.domain.feedback import RATE, Feedback
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import (
    SeenRequest,
    SimulatedRequest,
    SimulatedServer,
)
from tests.simulation import scenes

ONE = SimulatedRequest(input_tokens=10, output_tokens=10, max_tokens=20, latency=0.5)

SILENT = Feedback(RATE, None, {}, None, status=429)


class Gateway(SimulatedServer):
    """Shows no limit and names none; refuses the first few of all, whatever the limit."""

    first = 0

    def rate_limits(self, now):
        return {}

    def arrive(self, request, now):
        if len(self.log) < self.first:
            self.log.append(SeenRequest(now, request, RATE))
            return now, lambda _: SILENT
        answer = super().arrive(request, now)
        return (now, lambda _: SILENT) if self.log[-1].cause else answer


@pytest.fixture
def run(monkeypatch):
    def simulate(limits, calls, first=0):
        monkeypatch.setattr(Gateway, "first", first)
        monkeypatch.setattr(scenes, "SimulatedServer", Gateway)
        return scenes.simulate(limits, [ONE] * calls)

    yield simulate
    gc.collect()


@pytest.mark.parametrize("refused", [3, 6, 12])
def test_refusals_of_the_first_seconds_do_not_hold_the_lane_for_minutes(run, refused):
    """A gateway had nothing to send it to for a moment; it has no limit of its own."""
    ran = run(SimulatedLimits(), 400, first=refused)
    assert scenes.refusals(ran) == refused
    assert scenes.seconds(ran) < 90  # four minutes and more, as slowly as a tested guess grows


@pytest.mark.parametrize(("rpm", "burst", "most"), [(120, 10, 14), (30, 5, 13), (120, 1, 13)])
def test_a_real_limit_is_met_as_seldom_as_before(run, rpm, burst, most):
    """Four minutes; about three refusals in each are what it costs to find out without headers."""
    ran = run(SimulatedLimits(rpm=rpm, burst=burst), rpm * 4)
    assert scenes.refusals(ran) <= most
    assert scenes.unanswered(ran) == []

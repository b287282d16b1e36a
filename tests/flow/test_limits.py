"""``limits()``: what is known of each lane, where it came from, and what is in force."""

from __future__ import annotations

import pytest

from claude_throttle import Quota
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Feedback, RateLimit
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import AUTO, Pacer
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.simulation import Simulation
from claude_throttle.testing import Stall
from tests.support.calls import ask
from tests.support.inside import pacer_of
from tests.support.waiting import wait_until

LANE = "sonnet-5"


def rows(throttler, lane=LANE):
    return {(quota.kind, quota.per): quota for quota in throttler.limits()[lane].quotas}


def test_before_the_first_call_there_is_nothing(fake, throttle):
    """No lane, no thread, no request."""
    server = fake()
    limits = throttle(server, rpm=None).limits()
    assert dict(limits) == {}
    assert str(limits).startswith("in flight: 0")
    assert server.arrivals == []


def test_every_told_quota_has_a_row(fake, throttle):
    """Minutes and days, requests and tokens; nothing of it is learned."""
    throttler = throttle(fake(), rpm=60, rpd=1000, itpm=30_000, otpm=8000, tpm=35_000, tpd=1e6)
    throttler.call(**ask())
    told = {place: (row.told, row.in_force, row.learned) for place, row in rows(throttler).items()}
    assert told == {
        ("requests", 60.0): (60, 60, None),
        ("requests", 86_400.0): (1000, 1000, None),
        ("input_tokens", 60.0): (30_000, 30_000, None),
        ("output_tokens", 60.0): (8000, 8000, None),
        ("tokens", 60.0): (35_000, 35_000, None),
        ("tokens", 86_400.0): (1e6, 1e6, None),
    }
    assert {row.source for row in rows(throttler).values()} == {"told"}


def test_what_has_left_is_missing_in_what_remains(fake, throttle, manual):
    """And comes back with time, up to the burst."""
    throttler = throttle(fake(clock=manual), rpm=60, burst=5, clock=manual)
    for n in range(3):
        throttler.submit(**ask(str(n))).result(10)
    row = rows(throttler)["requests", 60.0]
    assert (row.remaining, row.burst) == (pytest.approx(2.0, abs=0.01), 5)
    manual.advance(1.0)
    assert rows(throttler)["requests", 60.0].remaining == pytest.approx(3.0, abs=0.01)
    manual.advance(60.0)
    assert rows(throttler)["requests", 60.0].remaining == pytest.approx(5.0)


def test_waiting_and_in_flight_are_counted(fake, throttle):
    """By lane, and in flight over all."""
    server = fake()
    server.script(Stall(), Stall())
    throttler = throttle(server, max_concurrency=2)
    futures = [throttler.submit(**ask(str(n))) for n in range(5)]
    wait_until(lambda: len(server.arrivals) == 2)
    limits = throttler.limits()
    assert (limits[LANE].waiting, limits[LANE].in_flight) == (3, 2)
    assert (limits.in_flight, limits.max_concurrency) == (2, 2)
    server.release_stalled()
    for future in futures:
        future.result(10)
    wait_until(lambda: throttler.limits().in_flight == 0)


def test_it_prints_as_a_table(fake, throttle):
    """Told, learned, in force, and from where: for a person."""
    throttler = throttle(fake(rpm=1200, itpm=450_000), rpm=600, tpd=1e6)
    throttler.call(**ask())
    text = str(throttler.limits())
    (requests,) = [line for line in text.splitlines() if "requests a minute" in line]
    assert requests.split()[-6:-3] == ["600", "1,200", "600"]
    assert requests.endswith("told")
    (tokens,) = [line for line in text.splitlines() if "input tokens a minute" in line]
    assert "450,000" in tokens
    assert tokens.endswith("headers")
    (days,) = [line for line in text.splitlines() if "tokens a day" in line]
    assert "1,000,000" in days


def test_it_is_a_picture_and_changes_no_more(fake, throttle):
    """Rows are frozen; a later answer makes another picture."""
    server = fake(rpm=1200)
    throttler = throttle(server, rpm=None)
    throttler.call(**ask())
    before = throttler.limits()
    server.limits(rpm=600)
    throttler.call(**ask())
    assert before[LANE].quotas[0].learned == 1200
    for thing, name in ((before[LANE], "waiting"), (before[LANE].quotas[0], "learned")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 7)


def test_reconfigure_shows_at_once(fake, throttle):
    """A quota that is told while running is a ceiling from then on; None takes it away again."""
    throttler = throttle(fake(rpm=1200), rpm=600)
    throttler.call(**ask())
    throttler.reconfigure(rpm=300)
    assert rows(throttler)["requests", 60.0].in_force == 300
    throttler.reconfigure(rpm=None)
    row = rows(throttler)["requests", 60.0]
    assert (row.told, row.in_force, row.source) == (None, 1200, "headers")


def test_it_can_be_asked_after_the_end(fake, throttle):
    """What was learned is still there for the report."""
    throttler = throttle(fake(rpm=1200), rpm=None)
    throttler.call(**ask())
    throttler.close()
    assert rows(throttler)["requests", 60.0].learned == 1200


def test_quotas_of_any_period_are_shown_as_they_were_told(fake, throttle):
    """Quota(10, per=1.0): ten a second."""
    throttler = throttle(fake(), rpm=Quota(10, per=1.0))
    throttler.call(**ask())
    row = rows(throttler)["requests", 1.0]
    assert (row.told, row.in_force, row.source) == (10, 10, "told")
    assert "requests a 1 s" in str(throttler.limits())


# -- headroom --------------------------------------------------------------------------------------


def told_nothing(**settings):
    return Pacer({}, AUTO, jitter=lambda seconds: 0.0, **settings)


def leaves_until(pacer, cost, end, reading):
    """Let calls leave as soon as they may, one answer each, until *end*; return the instants."""
    now, left = 0.0, []
    while now < end:
        dispatch = pacer.take(cost, now)
        left.append(now)
        pacer.settle(cost, cost, now)
        pacer.answered(
            Feedback(rate_limits={"requests": reading(now, len(left))}),
            dispatch,
            Cost(0, 0, 0),
            now,
        )
        now = max(now, pacer.ready_at(cost, now))
    return left


@pytest.mark.parametrize("headroom", [0.25, 0.5])
def test_headroom_leaves_a_share_of_a_learned_limit_to_others(headroom):
    """Ten minutes at 600 a minute, nothing told: that share of the requests is never sent."""
    burst = 10.0

    def remaining(now, sent):  # a server whose bucket of ten is as full as we leave it
        return RateLimit(600.0, max(0.0, min(burst, burst + 10.0 * now - sent)))

    whole = leaves_until(told_nothing(), Cost(1, 0, 0), 600, remaining)
    share = leaves_until(told_nothing(headroom=headroom), Cost(1, 0, 0), 600, remaining)
    assert len(whole) >= 0.95 * 6000
    assert 0.95 * (1 - headroom) * 6000 <= len(share) <= (1 - headroom) * 6000 + 2 * burst


class Known:
    """Estimates that are right."""

    def __call__(self, request, stretch):
        return Cost(1.0, request.input_tokens, request.output_tokens)

    def learn(self, request):
        pass


def test_headroom_holds_against_a_server_in_virtual_time():
    """1,200 a minute learned, half left: 600 calls take about a minute instead of half of one."""
    server = SimulatedServer(SimulatedLimits(rpm=1200, burst=20))
    requests = [(0.0, SimulatedRequest())] * 600
    limiter = ConcurrencyLimiter(probing=True)
    simulation = Simulation(told_nothing(headroom=0.5), limiter, Known(), server, requests).run()
    ended = [call.done_at for call in simulation.calls]
    assert None not in ended
    assert 0.9 * 60 <= max(ended) <= 1.15 * 60


def test_headroom_of_what_is_told_is_taken_off_once(fake, throttle, manual):
    """Half of 120 told, where the server allows 120, too: 60, not 30."""
    throttler = throttle(fake(clock=manual, rpm=120), rpm=120, headroom=0.5, clock=manual)
    throttler.submit(**ask()).result(10)
    pacer = pacer_of(throttler)
    now = manual.monotonic()
    assert pacer.ready_at(Cost(1, 10, 10), now) - now == pytest.approx(1.0, abs=0.01)

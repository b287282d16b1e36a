"""What makes a server hard to learn: headers that promise too much, and others who spend, too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.simulation.others import MOST_AT_ONCE
from claude_throttle.simulation.quotas import ModelQuotas, SimulatedLimits
from claude_throttle.testing import FakeClaude, ManualClock, worst_excess
from claude_throttle.testing.replies import rate_limit_headers
from tests.support.fake_http import ask

gaps = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=40)
rates = st.integers(1, 3000)


def instants(gaps):
    now = 0.0
    for gap in gaps:
        now += gap
        yield now


def remaining(quotas, now):
    return int(
        rate_limit_headers(quotas.standings(now), 0.0)["anthropic-ratelimit-requests-remaining"]
    )


def test_the_promise_is_told_and_the_burst_enforced():
    """960 promised, 16 let in at once; the headers still speak of 944, with the 429 as well."""
    quotas = ModelQuotas(SimulatedLimits(rpm=960, burst=16, promised_burst=960), 0.0)
    assert [quotas.admit(1, 0.0) is None for _ in range(20)] == [True] * 16 + [False] * 4
    assert remaining(quotas, 0.0) == 944
    assert quotas.admit(1, 0.0) == ("requests", 960, 1)


@given(gaps, rates, st.integers(1, 20))
def test_a_promise_changes_nothing_about_who_is_let_in(gaps, rpm, burst):
    """The larger bucket is shown and never asked."""
    honest = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst), 0.0)
    lying = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst, promised_burst=10 * rpm), 0.0)
    for now in instants(gaps):
        assert lying.admit(1, now) == honest.admit(1, now)


@given(gaps, rates, st.integers(1, 20))
def test_what_is_shown_is_a_bucket_of_the_promised_size(gaps, rpm, burst):
    """Less each request that was let in, plus the refill: as an honest server of that size."""
    lying = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst, promised_burst=rpm + 50), 0.0)
    honest = ModelQuotas(SimulatedLimits(rpm=rpm, burst=rpm + 50), 0.0)
    for now in instants(gaps):
        if lying.admit(1, now) is None:
            assert honest.admit(1, now) is None
        assert lying.standings(now) == honest.standings(now)


def test_a_promise_ends_when_the_server_is_told():
    """From then on the headers tell what is enforced."""
    with FakeClaude(rpm=60, burst=5, promised_burst=60, clock=ManualClock()) as server:
        before = ask(server).headers["anthropic-ratelimit-requests-remaining"]
        server.limits(promised_burst=None)
        after = ask(server).headers["anthropic-ratelimit-requests-remaining"]
    assert (before, after) == ("59", "3")


@pytest.mark.parametrize(
    ("taken", "told"), [(0, 10_000), (499, 10_000), (501, 9_000), (9_499, 1_000), (9_501, 0)]
)
def test_tokens_are_told_to_the_nearest_thousand_and_requests_exactly(taken, told):
    """As the documentation says: near zero the header knows nothing."""
    quotas = ModelQuotas(SimulatedLimits(rpm=1499, itpm=10_000), 0.0)
    quotas.admit(taken, 0.0)
    headers = rate_limit_headers(quotas.standings(0.0), 0.0)
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == str(told)
    assert headers["anthropic-ratelimit-requests-remaining"] == "1498"


def test_others_take_one_at_even_intervals():
    """30 a minute: one each two seconds, the first after two."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, burst=60, others_rpm=30), 0.0)
    assert [(quotas.standings(now)[0].remaining, quotas.others_taken) for now in (1.9, 2, 5)] == [
        (60, 0),
        (59, 1),
        (60, 2),
    ]


def test_others_are_let_in_only_if_there_is_one():
    """More of them than the quota: they get what it holds, and nothing is owed."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, burst=1, others_rpm=600), 0.0)
    assert quotas.standings(600.0)[0].remaining < 1
    assert 599 <= quotas.others_taken <= 601


def test_who_keeps_to_what_others_leave_meets_no_refusal():
    """60 a minute, others at 30: a client at 30 is never refused, and at more it is."""
    limits = SimulatedLimits(rpm=60, burst=2, others_rpm=30)
    modest, greedy = ModelQuotas(limits, 0.0), ModelQuotas(limits, 0.0)
    assert all(modest.admit(1, 2.0 * turn + 0.5) is None for turn in range(300))
    assert modest.others_taken == 299
    let_in = sum(greedy.admit(1, 0.5 * turn) is None for turn in range(1200))
    assert let_in + greedy.others_taken <= 602
    assert greedy.others_taken >= 290


@given(gaps, rates, st.integers(1, 6000), st.integers(1, 20))
def test_with_others_the_quota_holds_as_well(gaps, rpm, others_rpm, burst):
    """Ours and theirs together fit it from the start to any look; ours fit every window."""
    quotas = ModelQuotas(SimulatedLimits(rpm=rpm, burst=burst, others_rpm=others_rpm), 0.0)
    let_in = []
    for now in instants(gaps):
        let_in += [now] * (quotas.admit(1, now) is None)
        assert len(let_in) + quotas.others_taken <= burst + now * rpm / 60 + 1e-3
    assert worst_excess(let_in, [1] * len(let_in), rpm / 60, burst, 0) <= 1e-3


@given(gaps, rates, st.integers(1, 600))
def test_looking_changes_nothing(gaps, rpm, others_rpm):
    """Others are made up for at each look; whether one looked in between does not matter."""
    limits = SimulatedLimits(rpm=rpm, burst=3, others_rpm=others_rpm, promised_burst=30)
    watched, alone = ModelQuotas(limits, 0.0), ModelQuotas(limits, 0.0)
    before = 0.0
    for now in instants(gaps):
        for part in (0.25, 0.5, 0.75):
            watched.standings(before + part * (now - before))
        assert watched.admit(1, now) == alone.admit(1, now)
        assert watched.others_taken == alone.others_taken
        before = now


def test_a_clock_moved_by_years_does_not_hang_the_server():
    """Who asks ten times a second would have asked 3 billion times in ten years."""
    quotas = ModelQuotas(SimulatedLimits(rpm=60, burst=1, others_rpm=600), 0.0)
    assert quotas.standings(3e8)[0].remaining < 1
    assert 0 < quotas.others_taken <= MOST_AT_ONCE


def test_others_come_and_go_while_the_server_runs():
    """Told by limits(); how many were let in can be asked at any time."""
    clock = ManualClock()
    with FakeClaude(rpm=60, clock=clock) as server:
        ask(server)
        clock.advance(60)
        assert server.others_taken == 0
        server.limits(others_rpm=30)
        clock.advance(60)
        assert server.others_taken == 30
        server.limits(others_rpm=None)
        clock.advance(60)
        assert server.others_taken == 30


def test_models_may_share_a_bucket():
    """Those mapped to one name spend from it together; the others have their own."""
    shared = {"opus-a": "opus", "opus-b": "opus"}
    with FakeClaude(rpm=1, shared_models=shared) as server:
        names = ("opus-a", "opus-b", "sonnet", "opus-a", "sonnet")
        statuses = [ask(server, model=name).status_code for name in names]
    assert statuses == [200, 429, 200, 429, 429]


def test_output_is_charged_to_the_shared_bucket():
    """What one model produces, the other waits for."""
    shared = {"opus-a": "opus", "opus-b": "opus"}
    with FakeClaude(otpm=20, shared_models=shared, clock=ManualClock()) as server:
        statuses = [ask(server, model=name).status_code for name in ("opus-a", "opus-b", "other")]
    assert statuses == [200, 429, 200]

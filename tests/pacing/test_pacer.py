"""All quotas of a lane together: what it lets leave when, by hand-made timelines."""

from __future__ import annotations

import math

import pytest

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.gcra import SLACK_SECONDS
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.errors import QuotaTooSmall

ONE = Cost(1.0, 0.0, 0.0)


def tokens(entering=0.0, leaving=0.0):
    return Cost(1.0, entering, leaving)


def pacer(burst=1.0, jitter=lambda seconds: 0.0, **amounts):
    quotas = {k: v if isinstance(v, Quota) else Quota(v) for k, v in amounts.items()}
    return Pacer(quotas, burst, jitter=jitter)


def leave(pacer, cost, now):
    """Let one leave as early as it may; returns when."""
    at = pacer.ready_at(cost, now)
    pacer.take(cost, at)
    return at


def test_a_call_leaves_at_the_latest_instant_of_all_quotas():
    """Requests would let it go after 1 s; its input tokens only after 30."""
    lane = pacer(rpm=60, itpm=Quota(60, burst=1))
    lane.take(tokens(30), 100.0)
    assert lane.ready_at(ONE, 100.0) == pytest.approx(101.0)
    assert lane.ready_at(tokens(1), 100.0) == pytest.approx(130.0)


def test_looking_changes_nothing():
    """Ask as often as you like."""
    lane = pacer(rpm=60, tpm=600)
    lane.take(tokens(5, 5), 0.0)
    assert len({lane.ready_at(tokens(3, 4), 0.0) for _ in range(10)}) == 1
    assert len({lane.leaves_at(tokens(30, 40), ONE, 0.0) for _ in range(10)}) == 1


@pytest.mark.parametrize(
    ("name", "taken", "asked"),
    [
        ("rpm", ONE, ONE),
        ("itpm", tokens(entering=10), tokens(entering=1)),
        ("otpm", tokens(leaving=10), tokens(leaving=1)),
        ("tpm", tokens(leaving=10), tokens(entering=1)),
        ("rpd", ONE, ONE),
        ("tpd", tokens(entering=10), tokens(leaving=1)),
    ],
)
def test_each_quota_counts_its_own_part_of_a_cost(name, taken, asked):
    """tpm and tpd count both kinds of tokens."""
    lane = pacer(**{name: Quota(1, per=60.0, burst=1)})
    lane.take(taken, 0.0)
    assert lane.ready_at(asked, 1.0) > 1.0
    # A retry whose tokens are still booked asks for none, and waits for none.
    assert name in ("rpm", "rpd") or lane.ready_at(ONE, 1.0) == 1.0


def test_a_daily_quota_may_be_spent_whole():
    """Nobody wants 1,000 requests a day to leave 86 s apart; after that, one per 86.4 s."""
    lane = pacer(rpd=Quota(1000, per=86_400.0))
    assert {leave(lane, ONE, 50.0) for _ in range(1000)} == {50.0}
    assert lane.ready_at(ONE, 50.0) == pytest.approx(50.0 + 86.4, abs=0.01)


def test_an_hour_is_not_yet_a_long_period():
    """Quota(60, per=3600) is one a minute, strictly spaced; per=3601 is a bucket."""
    spaced, bucket = pacer(rpm=Quota(60, per=3600.0)), pacer(rpm=Quota(60, per=3601.0))
    for lane in (spaced, bucket):
        lane.take(ONE, 0.0)
    assert spaced.ready_at(ONE, 0.0) == pytest.approx(60.0, abs=0.01)
    assert bucket.ready_at(ONE, 0.0) == 0.0


@pytest.mark.parametrize(
    ("name", "expected"), [("itpm", 1.0), ("otpm", 1.5), ("tpm", 1.0)], ids=str
)
def test_tokens_may_leave_a_few_seconds_worth_at_once(name, expected):
    """Else every overestimate would be time lost for good; output lengths scatter most."""
    lane = pacer(**{name: 6000})
    small = tokens(1, 1)._replace(**{"output_tokens": 0.0} if name == "tpm" else {})
    at_once = 0
    while lane.ready_at(small, 9.0) == 9.0:
        lane.take(small, 9.0)
        at_once += 1
    assert at_once == pytest.approx(100 * expected, abs=1)


def test_a_burst_of_requests_gives_tokens_the_same_span():
    """11 requests at one a second span 10 s: 10 s worth of tokens go along."""
    lane = pacer(burst=11, rpm=60, itpm=6000)
    assert [leave(lane, tokens(1000 / 11), 0.0) for _ in range(11)] == [0.0] * 11
    assert lane.ready_at(tokens(1000 / 11), 0.0) > 0.5


def test_a_quota_brings_its_own_burst():
    """A burst told with the quota wins over the lane's."""
    lane = pacer(burst=1, rpm=Quota(60, burst=3))
    assert [leave(lane, ONE, 0.0) for _ in range(3)] == [0.0] * 3
    assert lane.ready_at(ONE, 0.0) == pytest.approx(1.0, abs=2 * SLACK_SECONDS)


def test_a_token_burst_never_exceeds_the_period():
    """Not even with a huge burst of requests."""
    lane = pacer(burst=1000, rpm=60, itpm=600)
    lane.take(tokens(600), 0.0)
    assert lane.ready_at(tokens(600), 0.0) == pytest.approx(60.0, abs=0.01)


def test_settle_tells_whether_somebody_may_leave_earlier():
    """Only tokens given back wake the worker."""
    lane = pacer(itpm=60)
    lane.take(tokens(10), 0.0)
    assert min(lane.settle(tokens(10), tokens(4), 0.0)) < 0
    assert min(lane.settle(tokens(4), tokens(4), 0.0)) == 0
    assert min(lane.settle(tokens(4), tokens(9), 0.0)) == 0


def test_a_call_with_more_input_than_a_period_holds_is_refused_with_the_figures():
    """It could never leave; the message says which quota, how much, and what to do."""
    lane = pacer(rpm=50, itpm=30_000)
    lane.configured.require_fit(tokens(30_000, 1e9), "claude-x")
    with pytest.raises(QuotaTooSmall) as caught:
        lane.configured.require_fit(tokens(30_001), "claude-x")
    for words in ("claude-x", "30,001 input tokens", "itpm=30,000", "raise itpm"):
        assert words in str(caught.value)


def test_only_input_is_asked_whether_it_fits():
    """Nobody knows yet how many tokens will be generated."""
    lane = pacer(tpm=1000, otpm=10)
    lane.configured.require_fit(tokens(900, 5000), "claude-x")
    with pytest.raises(QuotaTooSmall, match="tpm=1,000"):
        lane.configured.require_fit(tokens(1001), "claude-x")


def test_hold_and_pause_both_hold():
    """The caller's pause() and the server's retry-after: the later one counts."""
    lane = pacer(rpm=60)
    lane.pause_for(10.0, 0.0)
    lane.held_until = math.inf
    assert lane.ready_at(ONE, 5.0) == lane.leaves_at(ONE, ONE, 5.0) == math.inf
    lane.held_until = -math.inf
    assert lane.ready_at(ONE, 5.0) == lane.leaves_at(Cost(0, 0, 0), ONE, 5.0) == 10.0
    assert lane.ready_at(ONE, 11.0) == 11.0


def test_jitter_is_drawn_once_per_pause():
    """Ten refusals within one pause are one pause; the next pause draws anew."""
    drawn = []
    lane = pacer(rpm=60, jitter=lambda seconds: drawn.append(seconds) or 0.5)
    remaining = [lane.pause_for(10.0, float(now)) for now in range(5)]
    assert (drawn, remaining) == ([10.0], [10.5] * 5)
    lane.pause_for(3.0, 20.0)
    assert (drawn, lane.pause.until) == ([10.0, 3.0], 23.5)


def test_a_shorter_pause_changes_nothing():
    """And what remains is told."""
    lane = pacer(rpm=60)
    lane.pause_for(60.0, 0.0)
    assert lane.pause_for(1.0, 10.0) == 50.0


def test_without_a_quota_everything_may_leave():
    """A pacer with nothing told lets all go, but still pauses."""
    lane = pacer()
    assert lane.ready_at(tokens(1e9, 1e9), 3.0) == lane.leaves_at(ONE, ONE, 3.0) == 3.0
    lane.pause_for(5.0, 3.0)
    assert lane.ready_at(ONE, 3.0) == 8.0


# -- reconfigure -----------------------------------------------------------------------------------


def test_a_new_rate_keeps_the_level():
    """Half a unit short stays half a unit short, at the new pace."""
    lane = pacer(rpm=60)
    lane.take(ONE, 0.0)
    lane.set_quotas({"rpm": Quota(6)}, 1.0, 0.5)
    assert lane.ready_at(ONE, 0.5) == pytest.approx(5.5, abs=1e-4)


def test_a_quota_that_goes_is_forgotten_and_one_that_comes_is_full():
    """Another name is another account."""
    lane = pacer(rpm=60)
    lane.take(ONE, 0.0)
    lane.set_quotas({"itpm": Quota(6000)}, 1.0, 0.0)
    assert lane.ready_at(tokens(50), 0.0) == 0.0
    lane.take(tokens(100), 0.0)
    assert lane.ready_at(tokens(50), 0.0) == pytest.approx(0.5, abs=0.01)


def test_a_new_burst_leaves_the_level_where_it_is():
    """A bucket that held one unit after a long rest does not hold twenty because it grew."""
    lane = pacer(rpm=60)
    lane.take(ONE, 0.0)
    lane.set_quotas({"rpm": Quota(60)}, 20.0, 3600.0)
    assert leave(lane, ONE, 3600.0) == 3600.0
    assert lane.ready_at(ONE, 3600.0) > 3600.5


def test_a_quota_added_while_calls_are_out_is_not_credited_with_what_it_never_booked():
    """What left before it was told was not taken from it, so nothing of that comes back."""
    lane = pacer(rpm=Quota(6000, burst=100))
    lane.take(tokens(leaving=6000), 0.0)
    lane.set_quotas({"otpm": Quota(600, burst=10)}, 1.0, 0.5)
    lane.take(tokens(leaving=10), 1.0)
    lane.settle(tokens(leaving=6000), tokens(leaving=1), 0.0)
    assert lane.ready_at(tokens(leaving=10), 1.0) > 1.5

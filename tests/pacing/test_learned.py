"""A quota nobody told: what headers and refusals teach it, by hand-made timelines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import NO_COST
from claude_throttle.core.domain.feedback import Dispatch, RateLimit
from claude_throttle.core.pacing.learned_quotas import TOKEN_ROUNDING, UPWARD_SHARE, LearnedQuota
from claude_throttle.core.pacing.traffic import LatencyEstimator, Traffic


class Lane:
    """One learned quota, and stamps of what left."""

    def __init__(self, kind="requests", **more):
        self.traffic = Traffic()
        self.quota = LearnedQuota(kind, self.traffic, **more)
        self.latency = LatencyEstimator()
        self.number = 0

    def take(self, now, units=1.0):
        """Something leaves; returns its stamp."""
        recent = self.traffic.note_leave(self.cost(units), now)
        if self.quota.known:
            self.quota.take(units, now)
        self.number += 1
        self.latency.start_request(now)
        taken, produced = self.traffic.taken, self.traffic.produced
        return Dispatch(now, self.number, taken, recent, produced.output_tokens)

    def cost(self, units):
        return NO_COST._replace(**{self.quota.kind: units})

    def settle(self, held, actual):
        """What left as *held* units was in truth *actual*."""
        self.traffic.note_end(self.cost(held), self.cost(actual), self.cost(actual - held))
        if self.quota.known:
            self.quota.correct(actual - held)

    def of(self, cost):
        """Its units of the kind in question."""
        return getattr(cost, self.quota.kind)

    def hear(self, dispatch, now, limit, remaining):
        """Its answer comes; True if the limit is another now."""
        self.latency.end(now, now - dispatch.at)
        return self.quota.apply_rate_limit(RateLimit(limit, remaining), dispatch, now, self.latency)

    def ask(self, sent, answered, limit, remaining, units=1.0):
        """One call out and back."""
        return self.hear(self.take(sent, units), answered, limit, remaining)

    def at_once(self, now, most=10_000):
        """How many single units may leave at *now*."""
        count = 0
        while count < most and self.ready_at(1.0, now) <= now:
            self.take(now)
            count += 1
        return count

    def ready_at(self, units, now):
        return self.quota.ready_at(units, now, self.latency.mean(now))


def known(kind="requests", limit=600.0, remaining=20.0, units=1.0, **more):
    """A lane that has heard one header, at instant 0."""
    lane = Lane(kind, **more)
    lane.ask(-0.1, 0.0, limit, remaining, units)
    return lane


# -- the first header ------------------------------------------------------------------------------


def test_before_the_first_header_everything_may_leave():
    """Permits bound what is not known yet."""
    lane = Lane()
    assert lane.at_once(0.0, most=50) == 50
    assert not lane.quota.known


def test_the_first_header_sets_limit_burst_and_level():
    """600 a minute with 20 left: ten a second, twenty at once."""
    lane = known(limit=600.0, remaining=20.0)
    quota = lane.quota
    assert (quota.limit, quota.rate, quota.burst, quota.source) == (600.0, 10.0, 20.0, "headers")
    assert quota.level(0.0) == 20.0
    assert quota.known


def test_what_left_after_the_call_is_not_there_any_more():
    """Five more are out that the header may not have seen."""
    lane = Lane()
    first = lane.take(0.0)
    for _ in range(5):
        lane.take(0.01)
    lane.hear(first, 0.2, 600.0, 20.0)
    assert lane.quota.level(0.2) == 15.0


def test_a_first_header_that_shows_nothing_left_leaves_a_burst_of_one():
    """And a debt for what is out."""
    lane = Lane()
    first = lane.take(0.0)
    lane.take(0.01)
    lane.hear(first, 0.2, 600.0, 0.0)
    assert (lane.quota.burst, lane.quota.level(0.2)) == (1.0, pytest.approx(-1.0))


def test_told_bursts_bound_what_is_learned():
    """Who tells a burst of two gets two, whatever the server shows."""
    lane = known(remaining=500.0, most_burst=2.0)
    lane.ask(10.0, 10.1, 600.0, 599.0)
    assert lane.quota.burst == 2.0


def test_tokens_are_rounded_by_half_a_thousand_to_the_safe_side():
    """ "12,000 left" may be 11,500."""
    lane = known("input_tokens", 60_000.0, 12_000.0, units=100.0)
    assert lane.quota.burst == 12_000.0 - TOKEN_ROUNDING
    assert lane.quota.level(0.0) == 11_500.0


@pytest.mark.parametrize("limit", [0.0, -5.0])
def test_a_limit_that_is_none_is_no_limit(limit):
    """Garbage changes nothing, at the beginning or later."""
    fresh, lane = Lane(), known()
    assert fresh.ask(0.0, 0.1, limit, 5.0) is False
    assert not fresh.quota.known
    assert lane.ask(1.0, 1.1, limit, 5.0) is False
    assert (lane.quota.limit, lane.quota.burst) == (600.0, 20.0)


def test_a_starting_value_holds_until_the_first_header():
    """One at a time at the tier's pace; then what the server says, burst and all."""
    lane = Lane()
    lane.quota.start_with(60.0, "tier start", 0.0)
    assert (lane.quota.known, lane.quota.source, lane.at_once(0.0)) == (True, "tier start", 1)
    lane.ask(1.0, 1.1, 600.0, 20.0)
    assert (lane.quota.limit, lane.quota.source, lane.quota.burst) == (600.0, "headers", 20.0)
    lane.quota.start_with(60.0, "tier start", 2.0)
    assert lane.quota.limit == 600.0


# -- later headers ---------------------------------------------------------------------------------


def test_a_late_older_answer_never_overrides_a_newer_one():
    """The first call's answer takes 30 s; by then a later one has told another limit."""
    lane = Lane()
    slow, fast = lane.take(0.0), lane.take(1.0)
    assert lane.hear(fast, 1.2, 1200.0, 40.0)
    assert lane.hear(slow, 30.0, 600.0, 1.0) is False
    assert (lane.quota.limit, lane.quota.burst) == (1200.0, 40.0)


@pytest.mark.parametrize(("before", "after"), [(600.0, 300.0), (600.0, 1200.0)])
def test_a_limit_changes_within_one_call(before, after):
    """Halved or doubled: the pace is the new one at the next call."""
    lane = known(limit=before, remaining=1.0)
    assert lane.ask(1.0, 1.1, after, 1.0) is True
    assert lane.ask(2.0, 2.1, after, 1.0) is False
    now, instants = 2.1, []
    for _ in range(10):
        now = max(now, lane.ready_at(1.0, now))
        lane.take(now)
        instants.append(now)
    assert (instants[-1] - instants[-5]) / 4 == pytest.approx(60 / after)


def test_a_halved_limit_halves_the_burst():
    """A bucket of half the pace is hardly deeper; if it is, headers will show it."""
    lane = known(limit=600.0, remaining=600.0)
    lane.ask(0.1, 0.2, 300.0, 300.0)
    assert lane.quota.burst == 300.0


def test_a_doubled_limit_brings_no_more_than_was_there():
    """A higher pace is no full bucket."""
    lane = known(limit=600.0, remaining=20.0)
    for _ in range(20):
        last = lane.take(0.0)
    lane.hear(last, 0.1, 1200.0, 0.0)
    assert lane.quota.level(0.1) <= 1.0


@pytest.mark.parametrize("stamped_at_answer", [True, False])
def test_the_truth_is_within_the_bounds_wherever_the_header_was_stamped(stamped_at_answer):
    """A server that nobody else uses: no header makes our account differ from its bucket."""
    lane = known(limit=600.0, remaining=20.0)
    level, at, flying = 20.0, 0.0, []
    for turn in range(200):
        now = turn * 0.1
        level, at = min(20.0, level + (now - at) * 10.0), now
        if flying and flying[0][0] <= now:
            _, dispatch, then = flying.pop(0)
            lane.hear(dispatch, now, 600.0, math.floor(level if stamped_at_answer else then))
        if lane.ready_at(1.0, now) <= now:
            level -= 1.0
            flying.append((now + 1.05, lane.take(now), level))
        # Whole requests are told: up to one less than there is, and hardly more for that.
        assert level - 2.0 <= lane.quota.level(now) <= level + 1.01
    assert lane.quota.others.value(now) < 1.0


def test_others_spending_pulls_the_level_down_at_once():
    """We know of 20 left, the server of 5: somebody else is spending."""
    lane = known(limit=600.0, remaining=20.0)
    lane.ask(0.0, 0.1, 600.0, 5.0)
    assert lane.quota.level(0.1) <= 6.0
    assert lane.quota.others.value(0.1) > 0.0


def test_others_pace_widens_the_guard_and_is_forgotten():
    """What is on the way to us they may take meanwhile; half a minute later nobody does."""
    lane = known(limit=600.0, remaining=40.0)
    before = lane.quota.guard(0.1, 0.5)
    lane.ask(0.0, 0.1, 600.0, 5.0)
    assert lane.quota.guard(0.1, 0.5) > before
    assert lane.quota.guard(40.0, 0.5) == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("remaining", [10.0, 19.0], ids=["at the answer", "at admission"])
def test_never_below_what_is_in_flight_explains(remaining):
    """The header saw our own ten that left after the call, or none of them: both are our own."""
    lane = known(limit=600.0, remaining=20.0)
    first = lane.take(0.0)
    for _ in range(10):
        lane.take(0.01)
    level = lane.quota.level(0.1)
    lane.hear(first, 0.1, 600.0, remaining)
    assert lane.quota.level(0.1) == pytest.approx(level, abs=1e-9)
    assert lane.quota.others.value(0.1) == 0.0


def test_upwards_it_goes_a_share_of_the_way():
    """Somebody stopped spending: the room comes back in steps, not in one leap."""
    lane = known(limit=60.0, remaining=40.0)
    for _ in range(39):
        lane.take(0.0)
    last = lane.take(0.0)
    level = lane.quota.level(0.1)
    lane.hear(last, 0.1, 60.0, 30.0)
    # 39 left so shortly before that the header may have missed them.
    assert lane.quota.level(0.1) == pytest.approx(level)
    lonely = lane.take(10.0)
    level = lane.quota.level(11.0)
    lane.hear(lonely, 11.0, 60.0, 38.0)
    assert lane.quota.level(11.0) == pytest.approx(level + UPWARD_SHARE * (38.0 - level), abs=0.01)


def test_a_fuller_bucket_than_ours_makes_the_burst_grow():
    """First 20 were left; after a rest the header shows 300: so much may be saved up."""
    lane = known(limit=600.0, remaining=20.0)
    lane.ask(60.0, 60.1, 600.0, 300.0)
    assert lane.quota.burst == pytest.approx(300.0, abs=2.0)


def test_what_left_a_blink_ago_is_in_no_header_yet():
    """Waves: twenty answers of one instant, stamped at the answer, before our new calls arrive.

    Each lets one more leave; the next answer, of the same instant, has not seen it.
    """
    lane = known(limit=6000.0, remaining=27.0)
    wave = [lane.take(10.0 + n / 100) for n in range(20)]
    for dispatch in wave:
        lane.hear(dispatch, 20.0, 6000.0, 27.0)
        lane.take(20.0)
    assert lane.quota.level(20.0) == pytest.approx(7.0, abs=1.0)


def test_output_in_flight_is_still_to_come():
    """Counted as it is produced: ten long answers are out that the header knows nothing of."""
    lane = known("output_tokens", 60_000.0, 20_000.0, units=1000.0)
    lane.settle(1000.0, 1000.0)
    out = [lane.take(0.0, 1000.0) for _ in range(10)]
    level = lane.quota.level(0.5)
    lane.hear(out[0], 0.5, 60_000.0, 20_000.0)
    assert lane.quota.level(0.5) <= level + TOKEN_ROUNDING
    assert lane.of(lane.traffic.pending) == 10_000.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 5.0),
            st.sampled_from(["ask", "take", "refuse"]),
            st.sampled_from([0.0, 50.0, 600.0, 4000.0]),
            st.floats(0.0, 5000.0),
        ),
        max_size=60,
    ),
    st.sampled_from(["requests", "input_tokens", "output_tokens"]),
)
def test_whatever_the_server_says_its_figures_stay_sound(steps, kind):
    """Any limits and remainders, in any order: finite, and something may leave one day."""
    lane, now, out = Lane(kind), 0.0, []
    for gap, step, limit, remaining in steps:
        now += gap
        out.append(lane.take(now, 10.0))
        if step == "ask":
            lane.hear(out.pop(), now + 0.1, limit, remaining)
            lane.settle(10.0, 12.0)
        elif step == "refuse":
            lane.quota.lower_burst(RateLimit(limit, remaining), out.pop(), 10.0, len(out))
            lane.settle(10.0, 0.0)
        quota = lane.quota
        assert quota.burst >= 1.0
        assert lane.of(lane.traffic.pending) >= 0.0
        assert quota.level(now) <= quota.burst
        assert math.isfinite(lane.ready_at(10.0, now))
        if quota.known:
            # At most: what is owed, a full bucket, a guard of a quarter, a margin.
            owed = max(0.0, -quota.level(now))
            most = (owed + 2.0 * quota.burst + 10.0) / quota.rate + quota.margin
            assert lane.ready_at(10.0, now) <= now + most + 1e-6


# -- guard and margin ------------------------------------------------------------------------------


def test_two_calls_worth_stay_in_the_bucket():
    """Our account is late by what is on the way."""
    lane = known(limit=600.0, remaining=20.0)
    assert lane.at_once(0.0) in (17, 18)  # the last is a matter of the last digit of a float


def test_output_keeps_four_calls_worth():
    """It is counted while it is produced, and scatters most."""
    lane = known("output_tokens", 600_000.0, 100_500.0, units=1000.0)
    lane.settle(1000.0, 1000.0)
    assert lane.ready_at(1000.0, 0.0) <= 0.0
    assert lane.quota.guard(0.0, 0.0) == pytest.approx(4000.0)


@pytest.mark.parametrize(("remaining", "guard"), [(3.0, 0.0), (4.0, 1.0), (8.0, 2.0), (400.0, 2.0)])
def test_a_guard_takes_at_most_a_quarter(remaining, guard):
    """And where the burst is smaller than four calls there is no room for one."""
    assert known(limit=600.0, remaining=remaining).quota.guard(0.0, 0.1) == guard


def test_a_call_larger_than_the_burst_goes_when_the_bucket_is_full():
    """It can never be saved up whole."""
    lane = known("input_tokens", 60_000.0, 5_500.0, units=100.0)
    assert lane.ready_at(50_000.0, 0.0) == 0.0
    lane.take(0.0, 1000.0)
    assert lane.ready_at(50_000.0, 0.0) == pytest.approx(1.0)


# -- refused ---------------------------------------------------------------------------------------


def refusal(lane, now, remaining, units=1.0, in_flight=0):
    lane.quota.lower_burst(RateLimit(600.0, remaining), lane.take(now, units), units, in_flight)


def test_a_refusal_that_shows_room_halves_what_may_leave_at_once():
    """The server enforces less than it shows: eight of sixteen; it is not trusted again."""
    lane = known(remaining=480.0)
    refusal(lane, 1.0, remaining=400.0, in_flight=15)
    assert (lane.quota.burst, lane.quota.trusted) == (8.0, False)
    lane.ask(10.0, 10.1, 600.0, 480.0)
    assert lane.quota.burst == 8.0
    before = lane.quota.level(10.1)
    assert before <= 8.0


def test_it_halves_again_until_it_fits_and_never_below_one():
    """One wave after the other."""
    lane, bursts = known(remaining=480.0), []
    for wave in range(1, 7):
        refusal(lane, float(wave), remaining=400.0, in_flight=31)
        bursts.append(lane.quota.burst)
    assert bursts == [16.0, 8.0, 4.0, 2.0, 1.0, 1.0]


def test_a_wave_halves_it_once():
    """Ten that left before the first refusal was heard of say one thing."""
    lane = known(remaining=480.0)
    wave = [lane.take(1.0 + n / 1000) for n in range(10)]
    for dispatch in reversed(wave):
        lane.quota.lower_burst(RateLimit(600.0, 400.0), dispatch, 1.0, 15)
    assert lane.quota.burst == 8.0


def test_a_refusal_that_shows_no_room_adds_distance_only_where_the_burst_is_small():
    """There the spacing was too tight; where the burst is large the guard will do."""
    small, large = known(remaining=1.0), known(remaining=20.0)
    for lane in (small, large):
        refusal(lane, 1.0, remaining=0.0)
    assert (small.quota.margin, large.quota.margin) == (pytest.approx(0.002), 0.0)
    assert small.quota.trusted
    assert large.quota.trusted
    assert (small.quota.burst, large.quota.burst) == (1.0, 20.0)


def test_the_distance_grows_to_a_tenth_of_an_interval():
    """Two hundredths a time, at least 2 ms; then no more."""
    lane, margins = known(limit=60.0, remaining=1.0), []
    for wave in range(1, 8):
        refusal(lane, float(wave), remaining=0.0)
        margins.append(lane.quota.margin)
    assert margins == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])


def test_the_margin_is_distance_not_pace_saved_up():
    """With a burst of one, calls leave an interval and a margin apart."""
    lane = known(limit=60.0, remaining=1.0)
    refusal(lane, 1.0, remaining=0.0)
    lane.take(10.0)
    assert lane.ready_at(1.0, 10.0) == pytest.approx(11.0 + lane.quota.margin)


def test_a_refusal_before_any_header_changes_nothing():
    """There is nothing to correct yet."""
    lane = Lane()
    lane.quota.lower_burst(RateLimit(600.0, 400.0), lane.take(0.0), 1.0, 3)
    assert (lane.quota.trusted, lane.quota.known) == (True, False)


def test_a_rounded_remainder_is_no_promise():
    """ "1,000 left" may be 500: a refused call of 600 says nothing about the burst."""
    lane = known("input_tokens", 60_000.0, 20_000.0, units=600.0)
    refusal(lane, 1.0, remaining=1000.0, units=600.0)
    assert lane.quota.trusted
    refusal(lane, 2.0, remaining=2000.0, units=600.0)
    assert not lane.quota.trusted


# -- pauses and settlements ------------------------------------------------------------------------


def test_a_pause_is_not_saved_up_for():
    """At its end one may leave, the rest at their pace."""
    lane = known(limit=600.0, remaining=1.0)
    lane.quota.hold_until(30.0, 1.0)
    assert lane.quota.level(30.0) == pytest.approx(1.0)
    wide = known(limit=600.0, remaining=20.0)
    wide.quota.hold_until(30.0, 1.0)
    assert wide.quota.level(30.0) == pytest.approx(1.0)


def test_a_pause_gives_nothing_either():
    """Who is in debt stays in debt."""
    lane = known(limit=60.0, remaining=1.0)
    for _ in range(10):
        lane.take(0.0)
    level = lane.quota.level(2.0)
    lane.quota.hold_until(2.0, 1.0)
    assert lane.quota.level(2.0) == pytest.approx(level)
    assert level < 0


@given(st.floats(1.0, 5000.0), st.floats(0.0, 5000.0))
def test_settling_is_as_if_the_truth_had_been_taken(estimate, truth):
    """In either direction, a settled estimate leaves no trace in the level."""
    guessed, sure = (known("input_tokens", 60_000.0, 20_000.0, units=1.0) for _ in range(2))
    guessed.take(0.0, estimate)
    guessed.settle(estimate, truth)
    sure.take(0.0, truth)
    assert guessed.quota.level(0.0) == pytest.approx(sure.quota.level(0.0), abs=1e-6)
    assert guessed.of(guessed.traffic.taken) == pytest.approx(sure.of(sure.traffic.taken))


def test_an_estimate_far_too_high_comes_back_whole():
    """What a refused call had booked is there for the next."""
    lane = known("input_tokens", 60_000.0, 20_000.0, units=1.0)
    level = lane.quota.level(0.0)
    lane.take(0.0, 15_000.0)
    lane.settle(15_000.0, 0.0)
    assert lane.quota.level(0.0) == pytest.approx(level)
    assert lane.of(lane.traffic.pending) == 1.0

"""A lane that learns: told and learned quotas, pause, circuit, ramp and budget together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.events import (
    CircuitClosed,
    CircuitOpened,
    LanePaused,
    LimitLearned,
)
from claude_throttle.core.domain.feedback import (
    ACCOUNT,
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    Feedback,
    RampLimit,
    RateLimit,
)
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.pacer import AUTO, LEARNED_KINDS, Pacer

ONE = Cost(1.0, 0.0, 0.0)
CALL = Cost(1.0, 100.0, 50.0)


def pacer(burst=AUTO, jitter=lambda seconds: 0.0, **more):
    told = {k: Quota(more.pop(k)) for k in ("rpm", "itpm", "otpm", "tpm") if k in more}
    return Pacer(told, burst, lane="sonnet", jitter=jitter, **more)


def headers(**rate_limits):
    """``headers(requests=(600, 20))``."""
    return Feedback(rate_limits={kind: RateLimit(*pair) for kind, pair in rate_limits.items()})


def ask(lane, feedback, sent, answered, cost=ONE, actual=None):
    """One call, out and back; returns the events."""
    dispatch = lane.take(cost, sent)
    actual = actual or cost
    lane.settle(cost, actual, sent)
    change = Cost(*(after - before for before, after in zip(cost, actual)))
    return lane.answered(feedback, dispatch, change, answered)


def fail(lane, feedback, now, wait=0.2, cost=ONE, in_flight=0):
    """One call, refused; returns its delay and the events."""
    return lane.refused(feedback, lane.take(cost, now), cost, wait, in_flight, now)


def instants(lane, count, now, cost=ONE):
    """When the next *count* leave, each as early as it may."""
    left = []
    for _ in range(count):
        now = lane.ready_at(cost, now)
        lane.take(cost, now)
        left.append(now)
    return left


# -- told and learned ------------------------------------------------------------------------------


def test_a_learned_limit_is_an_event_once():
    """The same again is none; another is."""
    lane = pacer()
    assert ask(lane, headers(requests=(600.0, 20.0)), 0.0, 0.1) == [
        LimitLearned("sonnet", "requests", 600.0, 0.0)
    ]
    assert ask(lane, headers(requests=(600.0, 19.0)), 1.0, 1.1) == []
    assert ask(lane, headers(requests=(300.0, 19.0)), 2.0, 2.1) == [
        LimitLearned("sonnet", "requests", 300.0, 600.0)
    ]


def test_absent_headers_change_nothing():
    """Some accounts have none at all: nothing is learned, nothing breaks, everything may leave."""
    lane = pacer()
    for second in range(20):
        assert ask(lane, Feedback(), float(second), second + 0.5, CALL) == []
    assert not any(learned.known for learned in lane.learned.values())
    assert lane.ready_at(CALL, 30.0) == 30.0


def test_some_headers_teach_some_quotas():
    """A server that tells only of requests."""
    lane = pacer()
    ask(lane, headers(requests=(60.0, 1.0)), 0.0, 0.1, CALL)
    assert [kind for kind in LEARNED_KINDS if lane.learned[kind].known] == ["requests"]


@pytest.mark.parametrize(
    ("kind", "cost"),
    [("requests", ONE), ("input_tokens", CALL), ("output_tokens", CALL)],
)
def test_each_learned_quota_holds_up_a_call(kind, cost):
    """Whichever is empty: the call leaves at the latest instant of all."""
    lane = pacer()
    told = {"requests": (6e4, 1e3), "input_tokens": (6e6, 1e5), "output_tokens": (6e6, 1e5)}
    told[kind] = (60.0, 0.0)
    ask(lane, headers(**told), 0.0, 0.1, CALL)
    assert lane.ready_at(cost, 0.2) > 0.5


def test_told_stays_a_ceiling_over_a_higher_learned_limit():
    """The API would allow 6,000; the caller wants 60."""
    lane = pacer(burst=1.0, rpm=60)
    ask(lane, headers(requests=(6000.0, 6000.0)), 0.0, 0.1)
    left = instants(lane, 5, 10.0)
    assert left == pytest.approx([10.0, 11.0, 12.0, 13.0, 14.0], abs=0.01)


def test_a_lower_learned_limit_holds_below_what_was_told():
    """The caller hopes for 6,000; the API allows 60."""
    lane = pacer(burst=1.0, rpm=6000)
    ask(lane, headers(requests=(60.0, 0.0)), 0.0, 0.1)
    left = instants(lane, 4, 10.0)
    assert [b - a for a, b in zip(left, left[1:])] == pytest.approx([1.0, 1.0, 1.0], abs=0.01)


@given(st.lists(st.tuples(st.floats(1.0, 1e4), st.floats(0.0, 1e4)), min_size=1, max_size=20))
def test_headers_move_only_what_was_learned(seen):
    """Whatever they say, a told quota with a burst of its own stands where it stood."""
    lane, untaught = (Pacer({"rpm": Quota(60, burst=3)}, 1.0) for _ in range(2))
    for turn, (limit, remaining) in enumerate(seen):
        now = turn * 0.3
        ask(lane, headers(requests=(limit, remaining)), now, now + 0.1)
        untaught.take(ONE, now)
    before, after = next(iter(untaught.configured)), next(iter(lane.configured))
    assert (after.empty_at, after.burst, after.rate) == (
        before.empty_at,
        before.burst,
        before.rate,
    )


def test_auto_with_a_told_rate_follows_the_learned_burst():
    """Strict spacing until the headers show what may leave at once."""
    lane = pacer(burst=AUTO, rpm=600)
    assert instants(lane, 2, 0.0) == pytest.approx([0.0, 0.1], abs=0.01)
    ask(lane, headers(requests=(600.0, 20.0)), 1.0, 1.1)
    left = instants(lane, 12, 30.0)
    assert left[11] == 30.0
    assert next(iter(lane.configured)).burst == 20.0


def test_a_fixed_burst_bounds_what_is_learned():
    """burst=1 is strict spacing, whatever the headers show."""
    lane = pacer(burst=1.0, rpm=600)
    ask(lane, headers(requests=(600.0, 600.0)), 0.0, 0.1)
    assert lane.learned["requests"].burst == 1.0
    assert instants(lane, 3, 10.0) == pytest.approx([10.0, 10.1, 10.2], abs=0.01)


def test_a_tiers_starting_values_are_replaced_by_headers():
    """A table says 1,000; the first answer says 50."""
    lane = pacer()
    lane.start_with({"requests": 1000.0, "input_tokens": 2e6}, "tier start", 0.0)
    assert lane.learned["requests"].source == "tier start"
    ask(lane, headers(requests=(50.0, 49.0)), 0.0, 0.1)
    assert lane.learned["requests"].source == "headers"
    assert lane.learned["requests"].limit == 50.0
    assert lane.learned["input_tokens"].source == "tier start"


def test_headroom_leaves_a_share_of_what_was_learned():
    """A quarter of 600 is left to others: 450 leave in a minute."""
    lane = pacer(headroom=0.25)
    ask(lane, headers(requests=(600.0, 1.0)), 0.0, 0.1)
    left = instants(lane, 101, 10.0)
    assert left[100] - left[0] == pytest.approx(100 * 60 / 450, rel=0.02)


def test_combined_waits():
    """Pause, hold, told, learned, ramp: the latest counts, whichever it is."""
    lane = pacer(burst=1.0, rpm=60)
    ask(lane, headers(requests=(30.0, 0.0)), 0.0, 0.1)
    learned = lane.ready_at(ONE, 0.2)
    assert learned == pytest.approx(2.1, abs=0.1)
    lane.pause_for(5.0, 0.2)
    assert lane.ready_at(ONE, 0.2) == pytest.approx(5.2)
    lane.held_until = 9.0
    assert lane.ready_at(ONE, 0.2) == 9.0
    lane.held_until = -math.inf
    for number in range(5):
        fail(lane, Feedback(OVERLOAD), 6.0 + number)
    assert lane.ready_at(ONE, 10.0) >= 10.5


# -- refused ---------------------------------------------------------------------------------------


def test_a_rate_limit_pauses_the_lane():
    """To retry-after; the call queues at once, at its own place."""
    lane = pacer()
    ask(lane, headers(requests=(600.0, 20.0)), 0.0, 0.1)
    delay, events = fail(lane, Feedback(RATE, 7.0, status=429), 1.0, wait=7.0)
    assert (delay.alone, delay.seconds, delay.free) == (False, 7.0, False)
    assert events == [LanePaused("sonnet", 429, 7.0)]
    # With one request there is, and the guard's two still to come.
    assert 8.0 <= lane.ready_at(ONE, 2.0) <= 8.21


def test_the_first_call_after_a_pause_says_so():
    """Once."""
    lane = pacer()
    fail(lane, Feedback(RATE, 7.0), 1.0, wait=7.0)
    assert [lane.take(ONE, 8.0).resumes for _ in range(2)] == [True, False]


def test_after_a_pause_calls_come_back_one_by_one():
    """A burst of twenty was known: at the end of the pause one leaves, the rest at their pace."""
    lane = pacer()
    ask(lane, headers(requests=(600.0, 20.0)), 0.0, 0.1)
    fail(lane, Feedback(RATE, 30.0), 1.0, wait=30.0)
    left = instants(lane, 10, 2.0)
    assert left[0] >= 31.0
    assert left[9] - left[0] >= 0.85


def test_a_refusal_about_input_tokens_teaches_input_tokens():
    """It names its kind; the requests are trusted as before."""
    lane = pacer()
    ask(lane, headers(requests=(600.0, 20.0), input_tokens=(6e4, 3e4)), 0.0, 0.1, CALL)
    told = headers(requests=(600.0, 20.0), input_tokens=(6e4, 3e4)).rate_limits
    fail(lane, Feedback(RATE, 1.0, told, "input_tokens"), 1.0, cost=CALL)
    trusted = {kind: lane.learned[kind].trusted for kind in LEARNED_KINDS}
    assert trusted == {"requests": True, "input_tokens": False, "output_tokens": True}


def test_a_refusal_that_names_nothing_is_about_the_scarcest():
    """For a call of 100 tokens 200 left is less than 20 requests are for one."""
    lane = pacer()
    told = headers(requests=(600.0, 3.0), input_tokens=(6e4, 3e4))
    ask(lane, told, 0.0, 0.1, CALL)
    scarce = headers(requests=(600.0, 0.0), input_tokens=(6e4, 3e4)).rate_limits
    fail(lane, Feedback(RATE, 1.0, scarce), 1.0, cost=CALL)
    assert lane.learned["requests"].margin > 0.0
    assert lane.learned["input_tokens"].trusted


@pytest.mark.parametrize("cause", [CONCURRENCY, FAULT, ACCOUNT, OVERLOAD])
def test_other_refusals_delay_their_own_call_alone(cause):
    """Nothing is paused; somebody else may leave at once."""
    lane = pacer()
    delay, events = fail(lane, Feedback(cause), 1.0, wait=0.3)
    assert (delay.alone, delay.seconds, delay.free) == (True, pytest.approx(0.3), False)
    assert events == []
    assert lane.ready_at(ONE, 1.0) == 1.0


def test_an_overload_that_names_its_time_pauses_the_lane():
    """529 with retry-after."""
    lane = pacer()
    delay, _ = fail(lane, Feedback(OVERLOAD, 4.0), 1.0, wait=4.0)
    assert (delay.alone, lane.ready_at(ONE, 1.0)) == (False, 5.0)


def test_a_concurrency_refusal_with_a_time_delays_that_call_alone():
    """It never pauses the lane."""
    lane = pacer()
    delay, _ = fail(lane, Feedback(CONCURRENCY, 4.0), 1.0, wait=4.0)
    assert (delay.alone, lane.ready_at(ONE, 1.0)) == (True, 1.0)


def test_five_failures_in_a_row_open_the_circuit_and_an_answer_closes_it():
    """Meanwhile retries are free, and leave as probes."""
    lane = pacer()
    outcomes = [fail(lane, Feedback(FAULT), float(second)) for second in range(5)]
    assert [events for _, events in outcomes] == [[]] * 4 + [[CircuitOpened("sonnet", 0.5)]]
    assert [delay.free for delay, _ in outcomes] == [False] * 4 + [True]
    assert lane.opens_at() == lane.ready_at(ONE, 4.0) == 4.5
    probe = lane.take(ONE, 4.5)
    assert probe.probes
    assert lane.answered(Feedback(), probe, NO_COST, 4.6) == [CircuitClosed("sonnet")]
    assert lane.ready_at(ONE, 4.6) == 4.6


def test_rate_limits_open_no_circuit():
    """A server that refuses by its rules is well."""
    lane = pacer()
    for second in range(20):
        fail(lane, Feedback(RATE, 1.0), float(second))
    assert not lane.circuit.is_open


def test_a_final_refusal_asks_no_retry_of_the_budget():
    """It is not tried again, so nobody else shall wait for it."""
    lane = pacer(retry_share=0.0)
    for second in range(50):
        delay, _ = fail(lane, Feedback(FAULT if second % 2 else "", final=True), second * 1e-3)
        assert delay.seconds == 0.0
    assert fail(lane, Feedback(CONCURRENCY), 1.0, wait=0.2)[0].seconds == pytest.approx(0.2)


def test_more_retries_than_the_budget_has_wait_longer():
    """And none fails."""
    lane = pacer(retry_share=0.0)
    waits = [fail(lane, Feedback(CONCURRENCY), 0.0, wait=0.2)[0].seconds for _ in range(40)]
    assert waits[:10] == pytest.approx([0.2] * 10)
    assert waits[-1] == pytest.approx(0.2 + 30 / 3.0)


def test_a_ramp_limit_holds_growth_to_the_servers_step():
    """After the pause 60,000 tokens in the first minute, a second's worth at once."""
    lane = pacer()
    grown = RampLimit("input_tokens", 50_000.0, 60_000.0)
    delay, _ = fail(lane, Feedback(RAMP, 20.0, growth=grown), 0.0, wait=20.0, cost=CALL)
    assert (delay.alone, lane.ready_at(CALL, 0.0)) == (False, pytest.approx(20.0, abs=0.2))
    left = instants(lane, 1500, 20.0, CALL)
    assert sum(at < 80.0 for at in left) == pytest.approx(600, abs=15)
    assert sum(80.0 <= at < 140.0 for at in left) == pytest.approx(700, abs=15)


def test_a_ramp_limit_without_figures_grows_by_a_seventh_a_minute():
    """From what was used in the minute before."""
    lane = pacer()
    for tenth in range(600):
        lane.take(CALL, tenth / 10)
    fail(lane, Feedback(RAMP, 10.0), 60.0, wait=10.0, cost=CALL)
    used = lane.growth.limit / 1.15
    assert 0.5 * 60_000 < used < 60_000
    assert lane.growth.step == pytest.approx(0.15 * used)


def test_a_ramp_that_has_grown_past_the_limit_is_gone():
    """The learned limit binds then."""
    lane = pacer()
    ask(lane, headers(input_tokens=(60_000.0, 60_000.0)), 0.0, 0.1, CALL)
    fail(lane, Feedback(RAMP, 1.0, growth=RampLimit("input_tokens", 4e4, 5e4)), 1.0, 1.0, CALL)
    assert lane.ready_at(CALL, 10.0) >= 10.0
    assert lane.growth is not None
    lane.take(CALL, lane.ready_at(CALL, 200.0))
    lane.ready_at(CALL, 200.0)
    assert lane.growth is None


# -- settled ---------------------------------------------------------------------------------------


def test_an_own_wrong_estimate_is_not_taken_for_somebody_elses_spending():
    """Booked at 100, it took 5,000: the header says so, and nobody else is there."""
    lane = pacer()
    ask(lane, headers(input_tokens=(6e5, 1e5)), 0.0, 0.1, CALL)
    level = lane.learned["input_tokens"].level(0.1)
    wrong = Cost(1.0, 5000.0, 50.0)
    ask(lane, headers(input_tokens=(6e5, 95_000.0)), 0.1, 0.1, CALL, wrong)
    assert lane.learned["input_tokens"].others.value(0.1) == 0.0
    assert lane.learned["input_tokens"].level(0.1) == pytest.approx(level - 5000.0)


def test_nothing_stays_pending_when_all_have_ended():
    """Answered, refused, or lost."""
    lane = pacer()
    ask(lane, Feedback(), 0.0, 0.1, CALL, Cost(1.0, 70.0, 900.0))
    fail(lane, Feedback(RATE, 1.0), 1.0, cost=CALL)
    lane.settle(CALL, ONE, 1.0)
    assert lane.traffic.pending == NO_COST
    assert lane.traffic.produced.output_tokens == 900.0


def test_looking_ahead_counts_what_was_learned():
    """Behind a hundred waiting calls at ten a second: ten seconds."""
    lane = pacer()
    ask(lane, headers(requests=(600.0, 1.0)), 0.0, 0.1)
    at = lane.leaves_at(Cost(100.0, 0.0, 0.0), ONE, 5.0)
    assert at == pytest.approx(15.0, abs=0.2)

"""Told nothing, a throttler learns what it may do from the answers, and keeps to it."""

from __future__ import annotations

import json

import pytest

from claude_throttle import LimitLearned
from claude_throttle.testing import Reply, Stall
from tests.support.calls import LANE, MODEL, ask, echo
from tests.support.inside import note_departures
from tests.support.learning import LIMITS, answered, known, nothing_told
from tests.support.waiting import move_until_done, wait_until

ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "echo: hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 5},
}


def statuses(server):
    return [arrival.status for arrival in server.arrivals]


# -- the first answers -----------------------------------------------------------------------------


def test_the_first_answer_tells_all_three_limits(fake, throttle):
    """One call, and limits() knows them; nobody told anything."""
    throttler = nothing_told(throttle, fake(**LIMITS))
    throttler.call(**ask())
    rows = known(throttler)
    assert {kind: row.learned for kind, row in rows.items()} == {
        "requests": 1200,
        "input_tokens": 100_000,
        "output_tokens": 50_000,
    }
    for row in rows.values():
        assert (row.told, row.in_force, row.source, row.per) == (None, row.learned, "headers", 60)
        assert row.burst >= 1
        assert row.remaining <= row.burst


def test_a_wave_before_anything_is_known_is_not_refused(fake, throttle):
    """Fifty calls at once on a new throttler: the pace is found without running into a wall."""
    server = fake(**LIMITS)
    throttler = nothing_told(throttle, server)
    texts = [str(n) for n in range(50)]
    assert answered([throttler.submit(**ask(text)) for text in texts]) == texts
    assert statuses(server) == [200] * 50
    assert throttler.stats().retried == 0


def test_only_a_few_probes_leave_before_the_first_answer(fake, throttle, manual):
    """Two, then four after half a second of silence: a refusal may be slow on its way, too."""
    server = fake(clock=manual, **LIMITS)
    server.script(*[Stall()] * 4)
    throttler = nothing_told(throttle, server, clock=manual)
    futures = [throttler.submit(**ask(str(n))) for n in range(20)]
    seen = []
    for expected in (2, 4, 4, 4, 4):
        wait_until(lambda: len(server.arrivals) >= expected)  # noqa: B023
        manual.wait_for_sleepers(1)
        seen.append(len(server.arrivals))
        for _ in range(3):
            manual.advance(0.25)
            manual.wait_for_sleepers(1)
    assert seen == [2, 4, 4, 4, 4]
    server.release_stalled()
    move_until_done(manual, futures, 0.25)
    assert len(answered(futures)) == 20


def test_ten_are_in_flight_once_the_headers_came(fake, throttle):
    """One answer is enough to stop groping."""
    server = fake(**LIMITS)
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    server.script(*[Stall()] * 10)
    futures = [throttler.submit(**ask(str(n))) for n in range(10)]
    wait_until(lambda: len(server.arrivals) == 11)
    server.release_stalled()
    answered(futures)


# -- headers that are not there, or make no sense --------------------------------------------------


def test_a_server_without_such_headers_is_used_all_the_same(fake, throttle):
    """A gateway may strip them: everything is answered, limits() says that nothing is known."""
    server = fake()
    throttler = nothing_told(throttle, server)
    texts = [str(n) for n in range(40)]
    assert answered([throttler.submit(**ask(text)) for text in texts]) == texts
    assert throttler.limits()[LANE].quotas == ()
    assert "nothing is known yet" in str(throttler.limits())


@pytest.mark.parametrize(
    "nonsense", ["", "many", "-5", "nan", "inf", "1e400", "0", "1,200", "९" * 5000]
)
def test_headers_that_make_no_sense_change_nothing(fake, throttle, nonsense):
    """What was learned before stays; the call is answered."""
    server = fake(**LIMITS)
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    before = {kind: row.learned for kind, row in known(throttler).items()}
    names = [
        f"anthropic-ratelimit-{kind}-{what}"
        for kind in ("requests", "input-tokens", "output-tokens")
        for what in ("limit", "remaining", "reset")
    ]
    text = nonsense if nonsense.isascii() else "9" * 5000
    server.script(Reply(200, dict.fromkeys(names, text), body=json.dumps(ANSWER).encode()))
    assert echo(throttler.call(**ask())) == "hello"
    assert {kind: row.learned for kind, row in known(throttler).items()} == before
    assert echo(throttler.call(**ask("next"))) == "next"


def test_answers_without_headers_leave_what_was_learned(fake, throttle):
    """They say nothing, so nothing is unlearned."""
    server = fake(**LIMITS)
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    none = {
        f"anthropic-ratelimit-{kind}-{what}": None
        for kind in ("requests", "input-tokens", "output-tokens", "tokens")
        for what in ("limit", "remaining", "reset")
    }
    server.script(*[Reply(200, none, body=json.dumps(ANSWER).encode())] * 3)
    for _ in range(3):
        throttler.call(**ask())
    assert known(throttler)["requests"].learned == 1200


# -- told and learned ------------------------------------------------------------------------------


def test_a_told_limit_stays_a_ceiling(fake, throttle, manual):
    """The server would allow a hundred times as much; the caller's word holds."""
    throttler = throttle(fake(clock=manual, rpm=6000), rpm=60, clock=manual)
    departures = note_departures(throttler)
    move_until_done(manual, [throttler.submit(**ask(str(n))) for n in range(4)], 0.25)
    assert all(b - a >= 1.0 for a, b in zip(departures, departures[1:]))
    row = known(throttler)["requests"]
    assert (row.told, row.learned, row.in_force, row.source) == (60, 6000, 60, "told")


def test_a_learned_limit_below_the_told_one_holds(fake, throttle, manual):
    """Who told too much is corrected by the first answer: the smaller of both is in force."""
    server = fake(clock=manual, rpm=60, burst=1)
    throttler = throttle(server, rpm=6000, clock=manual)
    throttler.submit(**ask()).result(10)
    departures = note_departures(throttler)
    futures = [throttler.submit(**ask(str(n))) for n in range(4)]
    move_until_done(manual, futures, 0.25)
    assert all(b - a >= 1.0 for a, b in zip(departures, departures[1:]))
    assert statuses(server) == [200] * 5
    row = known(throttler)["requests"]
    assert (row.told, row.learned, row.in_force, row.source) == (6000, 60, 60, "headers")


def test_another_limit_is_taken_over_with_the_next_answer(fake, throttle):
    """Up or down, one call is enough, and an event says what it was before."""
    events = []
    server = fake(rpm=1200)
    throttler = nothing_told(throttle, server, on_event=events.append)
    throttler.call(**ask())
    for rpm in (300, 2400, 600):
        server.limits(rpm=rpm)
        throttler.call(**ask())
        assert known(throttler)["requests"].learned == rpm
    learned = [(e.before, e.limit) for e in events if isinstance(e, LimitLearned)]
    assert learned == [(0, 1200), (1200, 300), (300, 2400), (2400, 600)]


def test_a_lowered_limit_is_the_pace_from_the_next_answer_on(fake, throttle, manual):
    """From 100 a second to one a second, without a refusal."""
    server = fake(clock=manual, rpm=6000, burst=1)
    throttler = nothing_told(throttle, server, clock=manual)
    for _ in range(3):
        move_until_done(manual, [throttler.submit(**ask())], 0.05)
    manual.advance(1.0)  # nobody could know of the change with an empty bucket
    server.limits(rpm=60)
    move_until_done(manual, [throttler.submit(**ask("one"))], 0.05)
    departures = note_departures(throttler)
    move_until_done(manual, [throttler.submit(**ask(str(n))) for n in range(4)], 0.25)
    assert all(b - a >= 1.0 for a, b in zip(departures, departures[1:]))
    assert set(statuses(server)) == {200}


def test_a_tier_is_where_to_start_until_headers_come(fake, throttle):
    """limits() says from which table a figure is; the first answer replaces it."""
    server = fake(rpm=1234)
    throttler = nothing_told(throttle, server, tier="start")
    throttler.pause()
    future = throttler.submit(**ask())
    rows = known(throttler)
    assert set(rows) == {"requests", "input_tokens", "output_tokens"}
    assert {row.source for row in rows.values()} == {"tier start"}
    assert all(row.in_force > 0 and row.told is None for row in rows.values())
    throttler.resume()
    future.result(10)
    row = known(throttler)["requests"]
    assert (row.learned, row.source) == (1234, "headers")
    assert known(throttler)["input_tokens"].source == "tier start"

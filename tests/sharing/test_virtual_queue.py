"""Places in line that outlive the process that took them."""

from __future__ import annotations

import pickle

import pytest

from claude_throttle import ConfigurationError, LineTicket, Throttler
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.testing import ManualClock
from tests.support.calls import ask
from tests.support.inside import engine_of, pacer_of

SETTINGS = {"api_key": "sk-ant-none", "rpm": 60}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def crew(clock, tmp_path):
    """Makes throttlers that share a file."""
    made = []

    def make(**settings):
        settings = {"shared": f"sqlite:///{tmp_path}/quota.db", **SETTINGS, **settings}
        made.append(Throttler(clock=clock, **settings))
        return made[-1]

    yield make
    for throttler in made:
        throttler.close(timeout=0)


def test_each_stands_behind_the_one_before(crew):
    """Sixty a minute: a second each; the first may go at once."""
    one, two = crew(), crew()
    waits = [throttler.line_up(**ask())[1] for throttler in (one, two, two, one)]
    assert waits == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=0.01)


def test_it_is_found_again_by_another_process(crew, clock):
    """Once time has gone by, the wait is shorter by as much."""
    one, two = crew(), crew()
    tickets = [one.line_up(**ask())[0] for _ in range(30)]
    clock.advance(10.0)
    ticket, seconds = two.line_up(pickle.loads(pickle.dumps(tickets[-1])), **ask())
    assert ticket == tickets[-1]
    assert seconds == pytest.approx(19.0, abs=0.01)
    clock.advance(60.0)
    assert two.line_up(ticket, **ask()) == (ticket, 0.0)


def test_the_largest_share_of_a_quota_counts(crew):
    """A call of half a minute's input stands in the way for half a minute."""
    throttler = crew(itpm=1_000)
    throttler.line_up(**ask("x" * 1_500, max_tokens=1))
    seconds = throttler.line_up(**ask(max_tokens=1))[1]
    again = throttler.line_up(**ask(max_tokens=1))[1] - seconds
    assert 1.0 <= again < 2.0
    throttler.line_up(**ask("x" * 1_500, max_tokens=1))
    assert throttler.line_up(**ask(max_tokens=1))[1] - seconds > 10.0


def test_lanes_have_lines_of_their_own(crew):
    """And a ticket of another lane is worth nothing."""
    throttler = crew()
    other = {**ask(), "model": "claude-opus-4-1"}
    for _ in range(20):
        throttler.line_up(**ask())
    ticket, seconds = throttler.line_up(**other)
    assert seconds == 0.0
    assert throttler.line_up(ticket, **ask())[1] == pytest.approx(20.0, abs=0.01)


def test_nobody_who_waits_is_behind_those_who_are_away(crew):
    """A thousand tickets take nothing from the quota."""
    throttler = crew()
    for _ in range(1_000):
        throttler.line_up(**ask())
    assert throttler.estimate_wait(**ask()) == 0.0


def test_a_line_that_moves_slowly_takes_all_with_it(crew, clock):
    """The first in line is sent away once more, and those behind it keep their distance."""
    throttler = crew()
    tickets = [throttler.line_up(**ask())[0] for _ in range(3)]
    pacer_of(throttler).pause_for(50.0, clock.monotonic())
    waits = [throttler.line_up(ticket, **ask())[1] for ticket in tickets]
    assert waits[0] >= 50.0
    assert waits == pytest.approx([waits[0] + n for n in range(3)], abs=0.01)


def test_it_asks_the_store_once_or_twice(crew, clock, monkeypatch):
    """The second time to move the line, by what the first answer said."""
    throttler = crew()
    process = engine_of(throttler)
    store, asked = process.account.coordinator.shared.store, []
    transact = store.transact

    def counted(*what):
        asked.append(what)
        return transact(*what)

    monkeypatch.setattr(store, "transact", counted)
    ticket, _ = throttler.line_up(**ask())
    throttler.line_up(ticket, **ask())
    assert len(asked) == 2
    process.account.model_group(ask()["model"]).pacer.pause_for(50.0, clock.monotonic())
    throttler.line_up(ticket, **ask())
    assert len(asked) == 4


def test_a_pause_by_hand_moves_nobody(crew):
    """It ends when somebody says so; until then it is no use to come."""
    throttler = crew()
    ticket, _ = throttler.line_up(**ask())
    throttler.pause()
    assert throttler.line_up(ticket, **ask()) == (ticket, float("inf"))
    throttler.resume()
    assert throttler.line_up(ticket, **ask()) == (ticket, 0.0)


def test_a_line_that_was_lost_begins_anew(crew):
    """A store restarted empty knows no tickets: each gets a place as it comes back."""
    throttler = crew()
    lost = [LineTicket("haiku-4-5", 500.0 + n) for n in range(3)]
    model = {**ask(), "model": "claude-haiku-4-5"}
    found = [throttler.line_up(ticket, **model) for ticket in lost]
    assert [seconds for _, seconds in found] == pytest.approx([0.0, 1.0, 2.0], abs=0.01)
    assert all(ticket.position < 5 for ticket, _ in found)


def test_without_a_store_that_answers_it_may_be_tried_at_once(crew, monkeypatch):
    """The call itself is paced all the same."""
    throttler = crew()

    def fail(*_):
        raise StoreFailed("it is gone")

    process = engine_of(throttler)
    monkeypatch.setattr(process.account.coordinator.shared.store, "transact", fail)
    ticket, seconds = throttler.line_up(**ask())
    assert seconds == 0.0
    assert process.account.coordinator.store_lost
    assert throttler.line_up(ticket, **ask()) == (ticket, 0.0)


def test_it_needs_a_store():
    """Says what to do."""
    with Throttler(**SETTINGS) as throttler, pytest.raises(ConfigurationError, match="shared="):
        throttler.line_up(**ask())

"""A limit on requests in flight that one process finds, and all keep to."""

from __future__ import annotations

import pytest

from claude_throttle.features.sharing.concurrency_share import (
    SETTLE_SECONDS,
    SharedConcurrencyLimit,
)
from claude_throttle.features.sharing.stores.contract import SECOND, ExchangeRequest, MemberClaim
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.testing import ManualClock


class Member:
    """One process: what it has in flight, and what it knows."""

    def __init__(self, clock, store, name):
        self.clock, self.store, self.name = clock, store, name
        self.shared_limit, self.in_use, self.waits = SharedConcurrencyLimit(), 0, False

    @property
    def found(self):
        return self.shared_limit.found and self.shared_limit.found.slots

    def exchange(self):
        limit = self.found or 0
        claim = MemberClaim(self.in_use, self.in_use + self.waits, float(limit), 15.0 * SECOND)
        request = ExchangeRequest(self.name, float("inf"), (), claim=claim)
        now = self.clock.monotonic() * SECOND
        request = self.shared_limit.add_to(request, now, self.in_use, self.waits)
        self.shared_limit.apply(request, self.store.transact("account", "", request))

    def refused(self):
        self.shared_limit.note_refusal(self.clock.monotonic() * SECOND)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock.monotonic)


@pytest.fixture
def crew(clock, store):
    """Three, who have been there for a while."""
    members = [Member(clock, store, name) for name in ("one", "two", "three")]
    for member in members:
        member.exchange()
    return members


def find(crew, in_use=4):
    """The first of them is refused while each has so many."""
    for member in crew:
        member.in_use = in_use
        member.exchange()
    crew[0].refused()
    for _ in range(2):
        for member in crew:
            member.exchange()


def test_it_is_what_all_had_in_flight(crew):
    find(crew)
    assert [member.found for member in crew] == [12, 12, 12]
    assert not crew[0].shared_limit.has_pending


def test_the_others_are_counted_first(crew):
    """What the store said before the refusal may be old."""
    one, two, _ = crew
    one.in_use, two.in_use = 2, 9
    two.exchange()
    one.refused()
    one.exchange()
    assert one.found is None
    one.exchange()
    assert one.found == 11


def test_who_comes_later_knows_it(crew, clock, store):
    find(crew)
    late = Member(clock, store, "late")
    late.exchange()
    assert late.found == 12


def test_who_counts_later_knows_better(crew, clock):
    """Refused calls were in flight, too, when the first one counted."""
    find(crew)
    clock.advance(SETTLE_SECONDS / 2)
    crew[1].in_use = 3
    crew[1].refused()
    crew[1].exchange()
    crew[1].exchange()
    assert crew[1].found == 11


def test_one_more_is_tried_by_whoever_waits_and_once_only(crew, clock):
    find(crew)
    crew[2].waits = crew[1].waits = True
    for _ in range(3):
        for member in crew:
            member.exchange()
    assert crew[2].found == 12
    clock.advance(1.0)
    for _ in range(3):
        for member in crew:
            member.exchange()
    assert {member.found for member in crew} == {13}


def test_nobody_tries_while_there_is_room(crew, clock):
    find(crew)
    crew[0].in_use = 1
    crew[0].exchange()
    crew[1].exchange()
    crew[1].waits = True
    clock.advance(5.0)
    crew[1].exchange()
    assert crew[1].found == 12


def test_a_refused_trial_makes_the_next_one_later(crew, clock):
    find(crew)
    crew[0].waits = True
    gaps = []
    for _ in range(4):
        while crew[0].found == 12:
            clock.advance(0.5)
            for member in crew:
                member.exchange()
        crew[0].refused()
        crew[0].exchange()
        crew[0].exchange()
        gaps.append(crew[0].shared_limit.found.gap)
    assert gaps == [2.0, 4.0, 8.0, 16.0]
    assert crew[0].found == 12


def test_a_limit_that_fell_is_followed(crew, clock):
    """A quarter of it at once, at most: what is in flight then proves little."""
    find(crew)
    seen = []
    for _ in range(8):
        clock.advance(SETTLE_SECONDS * 2)
        for member in crew:
            member.in_use = 1
            member.exchange()
        crew[0].refused()
        crew[0].exchange()
        crew[0].exchange()
        seen.append(crew[0].found)
    assert seen == [9, 6, 4, 3, 2, 1, 1, 1]


def test_an_empty_store_is_told_again(crew, clock):
    find(crew)
    empty = MemoryStore(clock.monotonic)
    for member in crew:
        member.store = empty
        member.exchange()
        member.exchange()
    late = Member(clock, empty, "late")
    late.exchange()
    assert late.found == 12


def test_a_store_whose_clock_was_set_back_blocks_no_trial(crew, clock):
    find(crew)
    crew[0].waits = True
    request = ExchangeRequest("one", float("inf"), ())
    long_ago = (clock.monotonic() - 3600.0) * SECOND
    assert crew[0].shared_limit.add_to(request, long_ago, 4, calls_wait=True).facts is not None

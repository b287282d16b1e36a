"""Who goes next: priorities strictly, but for ageing; tenants of one priority by fair shares."""

from __future__ import annotations

import math
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from claude_throttle import ConfigurationError, InvalidCall, Priority, Settings
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.testing import ManualClock
from tests.support.calls import MODEL, ask
from tests.support.inside import lane_of
from tests.support.thorough import only_thorough
from tests.support.waiting import move_until_done, wait_until

TENANTS = st.sampled_from([None, "a", "b", "c"])
PRIORITIES = st.sampled_from([Priority.INTERACTIVE, Priority.NORMAL, Priority.BATCH])
TOKENS = st.integers(0, 5000)


class Retry(Ticket):
    """Another turn, paid for already."""

    charges_tenant = False


class Calls:
    """A backlog, a clock, and tickets without any thread behind them."""

    def __init__(self, ageing=None):
        self.clock = ManualClock()
        self.backlog = Backlog(0, threading.RLock(), self.clock, ageing)
        self.made = 0

    def put(self, tenant=None, tokens=100, priority=Priority.NORMAL, parent_slot=None):
        self.made += 1
        cost = Cost(1.0, float(tokens), 0.0)
        ticket = Ticket(
            number=self.made, cost=cost, priority=priority, tenant=tenant, parent_slot=parent_slot
        )
        with self.backlog.mutex:
            self.backlog.put_locked(ticket)
        return ticket

    def put_again(self, ticket):
        """As a retry does: a new ticket in the call's own place."""
        retry = Retry(
            number=ticket.number, cost=ticket.cost, priority=ticket.priority, tenant=ticket.tenant
        )
        retry.tag = ticket.tag
        with self.backlog.mutex:
            self.backlog.put_again_locked(retry)
        return retry

    def head(self, up_to=math.inf):
        with self.backlog.mutex:
            return self.backlog.head_locked(self.clock.monotonic(), up_to)

    def leave(self, up_to=math.inf):
        head = self.head(up_to)
        with self.backlog.mutex:
            self.backlog.leave_locked(head, self.clock.monotonic())
        return head

    def others_leave(self, count):
        for _ in range(count):
            urgent = self.put(priority=Priority.INTERACTIVE - 1)
            assert self.leave() is urgent

    def cancel(self, ticket):
        with self.backlog.mutex:
            return self.backlog.take_locked(ticket)

    def leave_all(self):
        return [self.leave() for _ in range(len(self.backlog.waiting_locked()))]


# -- tenants -----------------------------------------------------------------------------------


def test_ten_thousand_calls_of_one_tenant_delay_anothers_by_one_place():
    """Before the first has left, and when half of them have."""
    calls = Calls()
    for _ in range(10_000):
        calls.put("many")
    calls.head()
    first = calls.put("one")
    assert first in [calls.leave(), calls.leave()]
    for _ in range(5_000):
        calls.leave()
    second = calls.put("another")
    assert second in [calls.leave(), calls.leave()]


def test_tenants_with_equal_calls_take_turns():
    """However many each has queued, and in whatever order they came."""
    calls = Calls()
    for tenant, count in (("a", 50), ("b", 20), ("c", 30)):
        for _ in range(count):
            calls.put(tenant)
    assert [calls.leave().tenant for _ in range(60)] == ["a", "b", "c"] * 20


def test_shares_are_counted_in_tokens():
    """Who sends calls ten times as large sends a tenth as many."""
    calls = Calls()
    for _ in range(300):
        calls.put("large", tokens=1000)
        calls.put("small", tokens=100)
    sent = Counter(calls.leave().tenant for _ in range(220))
    assert sent["small"] == pytest.approx(200, abs=10)


def test_calls_without_a_tenant_are_one_tenant():
    """They wait in the order they came, and share with the others as one."""
    calls = Calls()
    for _ in range(20):
        calls.put()
    for _ in range(5):
        calls.put("a")
    assert [calls.leave().tenant for _ in range(10)] == [None, "a"] * 5


@given(st.lists(TOKENS, min_size=20, max_size=60), st.lists(TOKENS, min_size=20, max_size=60))
@examples(max_examples=50, deadline=None)
def test_two_waiting_tenants_never_drift_apart(ours, theirs):
    """While both wait, what each has sent differs by at most their two largest calls."""
    calls = Calls()
    for tenant, sizes in (("a", ours), ("b", theirs)):
        for tokens in sizes:
            calls.put(tenant, tokens)
    left, sent = Counter(a=len(ours), b=len(theirs)), Counter()
    bound = max(1, *ours) + max(1, *theirs)
    while min(left.values()):
        ticket = calls.leave()
        left[ticket.tenant] -= 1
        sent[ticket.tenant] += max(1, ticket.cost.tokens)
        assert abs(sent["a"] - sent["b"]) <= bound


@given(st.lists(st.tuples(TENANTS, TOKENS, st.booleans()), max_size=80))
@examples(max_examples=100, deadline=None)
def test_one_tenants_calls_leave_in_the_order_they_came(steps):
    """Whoever else comes and whatever leaves in between."""
    calls, seen = Calls(), []
    for tenant, tokens, leaves in steps:
        calls.put(tenant, tokens)
        if leaves:
            seen.append(calls.leave())
    seen += calls.leave_all()
    assert len(seen) == len(steps)
    for tenant in {ticket.tenant for ticket in seen}:
        numbers = [ticket.number for ticket in seen if ticket.tenant == tenant]
        assert numbers == sorted(numbers)


def test_a_large_call_at_the_head_is_not_overtaken_by_small_ones():
    """Else ever new tenants would use up what accrues for it."""
    calls = Calls()
    calls.put("a")
    large = calls.put("a", tokens=50_000)
    calls.leave()
    assert calls.head() is large  # the worker waits for it
    for number in range(100):
        calls.put(f"new {number}", tokens=1)
        assert calls.head() is large


def test_a_retry_keeps_its_calls_place():
    """Before those who came later, even when nobody waited in the meantime."""
    calls = Calls()
    for tokens in (100, 5000, 100):
        calls.put("a", tokens)
    _, second, _ = calls.leave_all()
    calls.put("a")
    calls.put("b")
    retry = calls.put_again(second)
    assert calls.leave() is retry


def test_a_retry_is_not_charged_again():
    """It is its call's share that was refused, not another one."""
    calls = Calls()
    first = calls.put("a")
    calls.put("a")
    calls.put("b")
    calls.leave()
    calls.put_again(first)
    calls.put("b")
    assert [calls.leave().tenant for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_retry_leaves_its_tenants_account_alone():
    """Not counted out twice, its tenant would begin anew before its own waiting calls."""
    calls = Calls()
    first = calls.put("a")
    second, third = calls.put("a"), calls.put("a")
    assert calls.leave() is first
    for _ in range(2):
        retry = calls.put_again(first)
        assert calls.leave() is retry
    fourth = calls.put("a")
    assert calls.leave_all() == [second, third, fourth]


@pytest.mark.parametrize("order", [1, -1])
def test_cancelled_calls_are_not_held_against_their_tenant(order):
    """A thousand cancelled, from either end: the next is sent as if they had never been."""
    calls = Calls()
    for _ in range(50):
        calls.put("b")
    calls.head()
    for ticket in [calls.put("a") for _ in range(1000)][::order]:
        assert calls.cancel(ticket)
    single = calls.put("a")
    assert single in [calls.leave(), calls.leave()]


def test_the_last_call_cancelled_gives_its_share_back():
    """Though others of the tenant still wait."""
    calls = Calls()
    calls.put("a")
    huge = calls.put("a", tokens=1_000_000)
    for _ in range(50):
        calls.put("b")
    calls.cancel(huge)
    third = calls.put("a")
    assert third in [calls.leave() for _ in range(4)]


@pytest.mark.parametrize("regulars", [0, only_thorough(3)])
def test_tenants_who_have_gone_are_forgotten(regulars):
    """A name for each user of a web site must not stay for ever, nor while the queue never ends."""
    calls = Calls()
    for number in range(30_000):
        calls.put(f"user {number}")
        for regular in range(regulars):
            calls.put(f"regular {regular}")
        if number >= 10:
            calls.leave()
            if regulars:
                calls.leave()
    (rank,) = calls.backlog._shares._levels.values()
    assert len(rank.shares) < 25_000
    calls.leave_all()
    assert calls.backlog._shares._levels == {}


def test_a_tenant_is_forgotten_once_the_others_have_caught_up():
    """Long before there are many: here each of them sends two calls and goes."""
    calls = Calls()
    calls.put("stays")
    for number in range(2_000):
        for _ in range(2):
            calls.put(f"user {number}")
            calls.leave()
        calls.put("stays")
        calls.leave()
    (rank,) = calls.backlog._shares._levels.values()
    assert len(rank.shares) < 200


# -- priorities --------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        PRIORITIES, TENANTS, TOKENS, st.sampled_from(["put", "ride", "leave", "cancel", "again"])
    ),
    max_size=120,
)


@given(STEPS, st.sampled_from([None, 3.0]))
@examples(max_examples=200, deadline=None)
def test_nothing_is_lost_and_nothing_leaves_twice(steps, ageing):
    """Whatever comes, leaves, is cancelled or queues again, a second apart."""
    calls, waiting, left, seat = Calls(ageing), {}, [], ReentrantSlot()
    for priority, tenant, tokens, what in steps:
        calls.clock.advance(1.0)
        if what in ("put", "ride"):
            ticket = calls.put(tenant, tokens, priority, seat if what == "ride" else None)
            waiting[ticket] = None
        elif what == "again" and left:
            waiting[calls.put_again(left.pop())] = None
        elif waiting and what == "cancel":
            assert calls.cancel(waiting.popitem()[0])
        elif waiting and what == "leave":
            left.append(calls.leave())
            del waiting[left[-1]]
        assert set(calls.backlog.waiting_locked()) == set(waiting)
    assert set(calls.leave_all()) == set(waiting)
    assert calls.head() is None
    assert calls.backlog.load.tokens == 0


@given(st.lists(st.tuples(PRIORITIES, TENANTS, TOKENS, st.booleans()), max_size=80))
@examples(max_examples=100, deadline=None)
def test_without_ageing_the_more_urgent_always_leaves_first(steps):
    """However long the others have waited."""
    calls = Calls(ageing=None)
    for priority, tenant, tokens, leaves in steps:
        calls.put(tenant, tokens, priority)
        calls.clock.advance(1e6)
        if leaves:
            most_urgent = min(ticket.priority for ticket in calls.backlog.waiting_locked())
            assert calls.leave().priority == most_urgent


def test_a_priority_that_has_waited_for_so_long_goes_next_once():
    """One call of it in every thirty seconds, while more urgent ones never end."""
    calls = Calls(ageing=30.0)
    for _ in range(10):
        calls.put(priority=Priority.BATCH)
    at = []
    for second in range(100):
        calls.put(priority=Priority.INTERACTIVE)
        if calls.leave().priority == Priority.BATCH:
            at.append(second)
        calls.clock.advance(1.0)
    assert at == [30, 60, 90]


def test_the_time_is_counted_from_the_first_that_waits():
    """A rank that was empty begins anew: it is not old because nobody came for an hour."""
    calls = Calls(ageing=30.0)
    calls.put(priority=Priority.BATCH)
    calls.leave()
    calls.clock.advance(3600.0)
    calls.put(priority=Priority.BATCH)
    urgent = calls.put(priority=Priority.INTERACTIVE)
    calls.clock.advance(29.0)
    assert calls.head() is urgent
    calls.others_leave(10)
    assert calls.head() is urgent
    calls.clock.advance(1.0)
    assert calls.head().priority == Priority.BATCH


def test_time_alone_does_not_age():
    """Where calls leave a minute apart everything is old at once: ten others go first."""
    calls = Calls(ageing=30.0)
    calls.put(priority=Priority.BATCH)
    calls.put(priority=Priority.INTERACTIVE)
    calls.clock.advance(3600.0)
    calls.others_leave(9)
    assert calls.head().priority == Priority.INTERACTIVE
    calls.others_leave(1)
    assert calls.head().priority == Priority.BATCH


def test_of_two_that_are_overdue_the_one_that_waits_longest_goes():
    """Then the other, then the urgent ones again."""
    calls = Calls(ageing=30.0)
    for priority in (Priority.BATCH, Priority.NORMAL, Priority.INTERACTIVE):
        for _ in range(3):
            calls.put(priority=priority)
        calls.clock.advance(1.0)
    calls.others_leave(10)
    calls.clock.advance(29.0)
    calls.put(priority=Priority.INTERACTIVE)
    assert [calls.leave().priority for _ in range(3)] == [20, 10, 0]


def test_who_may_take_a_permit_is_a_matter_of_priority():
    """up_to: nobody, the urgent, all; and no ageing lets anybody through that may not."""
    calls = Calls(ageing=30.0)
    batch = calls.put(priority=Priority.BATCH)
    calls.others_leave(10)
    calls.clock.advance(60.0)
    assert calls.head(up_to=-math.inf) is None
    assert calls.head(up_to=Priority.INTERACTIVE) is None
    calls.put(priority=Priority.NORMAL)
    urgent = calls.put(priority=Priority.INTERACTIVE)
    assert calls.head(up_to=Priority.INTERACTIVE) is urgent
    assert calls.head(up_to=math.inf) is batch


def test_riders_need_no_permit():
    """They go when nobody else may, and in their order when all may."""
    calls = Calls()
    needing = calls.put(priority=Priority.NORMAL)
    rider = calls.put(priority=Priority.BATCH, parent_slot=ReentrantSlot())
    assert calls.head(up_to=-math.inf) is rider
    assert calls.head(up_to=Priority.INTERACTIVE) is rider
    assert calls.head(up_to=math.inf) is needing


def test_only_a_new_head_wakes_the_worker():
    """Ten thousand calls behind the first are no reason to look again."""
    calls = Calls(ageing=30.0)
    woken = []
    calls.backlog.not_empty.notify = lambda n=1: woken.append(calls.made)
    calls.put("a")
    calls.head()
    calls.put("a")
    calls.put("b")
    calls.put("a", priority=Priority.BATCH)
    calls.put("a", priority=Priority.INTERACTIVE)
    calls.put("b", priority=Priority.INTERACTIVE)
    assert woken == [1, 5]


@pytest.mark.parametrize("spread", [3, 20_000])
def test_a_long_queue_costs_no_more_for_each_than_a_short_one(spread, monkeypatch):
    """20,000 in and cancelled: few comparisons each, however many priorities there are."""
    compared = []

    class Tag(float):
        def __lt__(self, other):
            compared.append(1)
            return float.__lt__(self, other)

    calls = Calls(ageing=30.0)
    enter = calls.backlog._shares.assign_tag

    def entering(ticket):
        enter(ticket)
        ticket.tag = Tag(ticket.tag)

    monkeypatch.setattr(calls.backlog._shares, "assign_tag", entering)
    tickets = [
        calls.put(f"{n % 7}", priority=n * 7919 % spread, tokens=n % 97) for n in range(20_000)
    ]
    for ticket in tickets:
        assert calls.cancel(ticket)
        calls.head()
    assert len(calls.backlog._needing) == 0
    # Two of each sift and sweep; with a look at every ticket it would be thousands.
    assert len(compared) / 20_000 < 60


def test_priorities_come_and_go_without_a_trace():
    """One that is empty most of the time behind a busy one, and others used only once."""
    calls = Calls(ageing=30.0)
    calls.put(priority=-1)
    for number in range(5_000):
        calls.cancel(calls.put(priority=Priority.BATCH))
        calls.cancel(calls.put(priority=number))
    line = calls.backlog._needing
    assert max(map(len, (line._order, line._levels, line.since, line))) < 300


# -- the whole way -----------------------------------------------------------------------------


def sent(server):
    return [arrival.nonce for arrival in server.arrivals]


def test_a_single_call_is_sent_within_two_places(fake, throttle, manual):
    """One tenant has queued hundreds, another submits one."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, max_concurrency=1, clock=manual)
    throttler.pause()
    many = [throttler.submit(**ask(f"many {n}", tenant="many")) for n in range(300)]
    one = throttler.submit(**ask("one", tenant="one"))
    throttler.resume()
    move_until_done(manual, [one])
    assert "one" in sent(server)[:2]
    for future in many:
        future.cancel()


def test_batch_calls_are_sent_now_and_then_while_urgent_ones_never_end(fake, throttle, manual):
    """One a second, ageing=5: every eleventh is a batch call, since ten others go first."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, max_concurrency=1, ageing=5, clock=manual)
    throttler.pause()
    batch = [throttler.submit(**ask(f"b{n}", priority=Priority.BATCH)) for n in range(3)]
    urgent = [throttler.submit(**ask(f"u{n}", priority=Priority.INTERACTIVE)) for n in range(40)]
    throttler.resume()
    move_until_done(manual, batch)
    order = sent(server)
    places = [order.index(f"b{n}") for n in range(3)]
    assert places == [10, 21, 32]
    for future in urgent:
        future.cancel()


def test_a_permit_shares_like_a_call(fake, throttle, manual):
    """Its tenant's turn comes after one call of the tenant with many."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, clock=manual)
    throttler.pause()
    for n in range(50):
        throttler.submit(**ask(f"many {n}", tenant="many"))
    got = threading.Event()

    def take():
        with throttler.permit(model=MODEL, input_tokens=10, tenant="one"):
            got.set()

    thread = threading.Thread(target=take)
    thread.start()
    backlog = lane_of(throttler).backlog
    wait_until(lambda: len(backlog.waiting_locked()) == 51)
    throttler.resume()
    for _ in range(20):
        if got.wait(0.05):
            break
        manual.advance(1.0)
    assert got.is_set()
    assert len(server.arrivals) <= 4
    thread.join(10)


@pytest.mark.parametrize("tenant", [5, b"a", ["a"], "x" * 257])
def test_a_tenant_is_a_short_string(fake, throttle, tenant):
    """Refused before anything is queued, in calls as in permits; and never quoted."""
    throttler = throttle(fake())
    with pytest.raises(InvalidCall, match="tenant= ") as caught:
        throttler.submit(**ask(tenant=tenant))
    assert "xxx" not in str(caught.value)
    with pytest.raises(InvalidCall, match="tenant= "):
        throttler.permit(model=MODEL, tenant=tenant)


def test_a_tenant_is_not_sent(fake, throttle):
    """It is ours; and a misspelt one is met with a hint."""
    server = fake()
    throttler = throttle(server)
    throttler.call(**ask(tenant="x" * 256))
    assert throttler.estimate_wait(**ask(tenant="a")) >= 0
    with pytest.raises(InvalidCall, match="tenant="):
        throttler.submit(**ask(tennant="a"))


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "30", True])
def test_the_time_is_a_positive_number_of_seconds_or_none(value):
    """None is for ever; from the environment, too."""
    with pytest.raises(ConfigurationError, match="ageing must be a positive number of seconds"):
        Settings(ageing=value)
    assert Settings(ageing=None).ageing is None
    assert Settings.from_env(environ={"CLAUDE_THROTTLE_AGEING": "5"}).ageing == 5.0

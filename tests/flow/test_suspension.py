"""An account that is refused: nothing is sent any more but one probe now and then."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import anthropic
import pytest

from claude_throttle import (
    AccountSuspended,
    CallQueued,
    RetryScheduled,
    Suspended,
    SuspensionEnded,
)
from claude_throttle.core.domain.feedback import AccountRefusal
from claude_throttle.testing import Reply, SpendCap, Stall
from claude_throttle.testing.refusals import (
    BILLING_PROBLEM,
    CONTRACT_SPEND_LIMIT,
    CREDIT_TOO_LOW,
    KEY_REFUSED,
    LINKED_SPEND_LIMIT,
    NOT_PERMITTED,
    ORGANIZATION_ON_HOLD,
    OWN_SPEND_LIMIT,
    WORKSPACE_SPEND_LIMIT,
)
from tests.support.calls import LANE, MODEL, ask, echo
from tests.support.inside import engine_of, lane_of
from tests.support.suspensions import refuse_one
from tests.support.waiting import wait_until

OTHER_MODEL = "claude-haiku-4-5"

#: Answer, what it means, the SDK's own exception for the call that met it, the date it names.
REFUSALS = [
    (SpendCap(), "spend limit", anthropic.RateLimitError, "2026-09-01 at 00:00 UTC"),
    (CREDIT_TOO_LOW, "spend limit", anthropic.BadRequestError, None),
    (OWN_SPEND_LIMIT, "spend limit", anthropic.BadRequestError, "2026-12-01 at 00:00 UTC"),
    (WORKSPACE_SPEND_LIMIT, "spend limit", anthropic.BadRequestError, "2026-12-01 at 00:00 UTC"),
    (CONTRACT_SPEND_LIMIT, "spend limit", anthropic.RateLimitError, None),
    (LINKED_SPEND_LIMIT, "spend limit", anthropic.APIStatusError, None),
    (ORGANIZATION_ON_HOLD, "spend limit", anthropic.BadRequestError, None),
    (BILLING_PROBLEM, "billing", anthropic.APIStatusError, None),
    (KEY_REFUSED, "key refused", anthropic.AuthenticationError, None),
]


# -- all that waits is told ------------------------------------------------------------------------


@pytest.mark.parametrize(("refusal", "reason", "error", "until"), REFUSALS)
def test_a_refused_account_ends_what_waits_and_refuses_what_is_new(
    fake, throttle, refusal, reason, error, until
):
    """The refused call has the SDK's error; all others AccountSuspended, with cause and date."""
    events = []
    server = fake()
    server.outage(reply=refusal)
    throttler = throttle(server, max_concurrency=1, on_event=events.append)
    throttler.pause()
    first, *queued = [throttler.submit(**ask(str(n))) for n in range(20)]
    elsewhere = throttler.submit(**ask("elsewhere", model=OTHER_MODEL, priority=50))
    throttler.resume()
    errors = [future.exception(10) for future in (first, elsewhere, *queued)]
    assert 1 <= sum(isinstance(met, error) for met in errors) <= 2  # each lane had its own first
    for told in errors:
        if isinstance(told, error):
            continue
        assert type(told) is AccountSuspended
        assert (told.reason, told.until) == (reason, until)
        assert reason in str(told)
        assert until is None or until in str(told)
        assert 0 < told.retry_after <= 60
    for attempt in (
        lambda: throttler.submit(**ask()),
        lambda: throttler.submit(**ask(model="claude-opus-5")),
        lambda: throttler.permit(model=MODEL),
        lambda: throttler.call(**ask()),
        lambda: next(throttler.map([ask()])),
    ):
        with pytest.raises(AccountSuspended, match=reason):
            attempt()
    assert len(server.arrivals) <= 2  # one for each lane, at most
    assert [e for e in events if isinstance(e, Suspended)] == [Suspended("", reason, until)]
    assert not [e for e in events if isinstance(e, RetryScheduled)]


def test_a_403_suspends_its_own_lane_only(fake, throttle):
    """A key may be refused one model; the others go on."""
    events = []
    server = fake()
    throttler = throttle(server, on_event=events.append)
    error = refuse_one(server, throttler, NOT_PERMITTED)
    assert isinstance(error, anthropic.PermissionDeniedError)
    with pytest.raises(AccountSuspended, match="not permitted"):
        throttler.submit(**ask())
    assert echo(throttler.call(**ask("other", model=OTHER_MODEL))) == "other"
    with pytest.raises(AccountSuspended):  # the other lane's answer says nothing of this one
        throttler.submit(**ask())
    limits = throttler.limits()
    assert (limits[LANE].suspended, limits["haiku-4-5"].suspended) == ("not permitted", None)
    assert [e for e in events if isinstance(e, Suspended)] == [
        Suspended(LANE, "not permitted", None)
    ]


def test_a_waiting_permit_and_a_waiting_retry_end_with_it(fake, throttle):
    """Whatever waits for a send: a call between two attempts, and who sends himself."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(Reply(500, {"retry-after": "600"}, "api_error"))
    resting = throttler.submit(**ask("resting"))
    wait_until(lambda: throttler.stats().retried)
    server.script(Stall())
    out = throttler.submit(**ask("out"))
    wait_until(lambda: len(server.arrivals) == 2)
    with ThreadPoolExecutor() as pool:
        permit = pool.submit(throttler.permit, model=MODEL)
        lane = lane_of(throttler)
        wait_until(lambda: lane.backlog.waiting_locked())
        refusal = AccountRefusal("spend limit", "no money", None)
        engine_of(throttler).account.suspensions.suspend_lane(lane.name, refusal, None)
        assert isinstance(permit.exception(10), AccountSuspended)
    assert isinstance(resting.exception(10), AccountSuspended)
    server.release_stalled()
    assert echo(out.result(10)) == "out"
    assert [arrival.nonce for arrival in server.arrivals] == ["resting", "out"]


# -- those in flight -------------------------------------------------------------------------------


def test_calls_in_flight_keep_their_own_answers(fake, throttle):
    """They were let in before: a good answer is a good answer."""
    server = fake(spend_cap_after=4)
    server.script(*[Stall()] * 3)
    throttler = throttle(server, max_concurrency=4)
    throttler.pause()
    futures = [throttler.submit(**ask(str(n))) for n in range(30)]
    throttler.resume()
    wait_until(lambda: throttler.limits()[LANE].suspended)
    server.release_stalled()
    assert not wait(futures, 10).not_done
    assert [echo(future.result()) for future in futures[:4]] == ["0", "1", "2", "3"]
    errors = [future.exception() for future in futures[4:]]
    met = [error for error in errors if isinstance(error, anthropic.RateLimitError)]
    told = [error for error in errors if isinstance(error, AccountSuspended)]
    assert 1 <= len(met) <= 4
    assert len(met) + len(told) == 26
    assert len(server.arrivals) == 4 + len(met)


def test_a_good_answer_to_an_older_call_does_not_end_it(fake, throttle):
    """It was let in before the money ran out, and says nothing of now: only a probe's does."""
    events = []
    server = fake()
    server.script(Stall(), SpendCap())
    throttler = throttle(server, on_event=events.append)
    older = throttler.submit(**ask("older"))
    wait_until(lambda: server.arrivals)
    assert isinstance(throttler.submit(**ask("cap")).exception(10), anthropic.RateLimitError)
    server.outage(reply=SpendCap())
    server.release_stalled()
    assert echo(older.result(10)) == "older"
    with pytest.raises(AccountSuspended):
        throttler.submit(**ask("new"))
    assert not [event for event in events if isinstance(event, SuspensionEnded)]
    assert len(server.arrivals) == 2


def test_a_call_in_flight_that_is_refused_later_is_not_tried_again(fake, throttle):
    """A retry is a send, and nothing is sent: it ends with AccountSuspended."""
    server = fake()
    server.script(Reply(500, {}, "api_error", latency=0.3), SpendCap())
    throttler = throttle(server)
    slow = throttler.submit(**ask("slow"))
    wait_until(lambda: server.arrivals)
    throttler.submit(**ask("cap")).exception(10)
    assert isinstance(slow.exception(10), (AccountSuspended, anthropic.InternalServerError))
    assert len(server.arrivals) == 2


def test_nobody_slips_in_while_the_account_is_being_refused(fake, throttle):
    """A call that was checked a moment before the refusal is not sent a moment after it."""
    suspended = threading.Event()

    def listen(event):
        if isinstance(event, Suspended):
            suspended.set()
        if isinstance(event, CallQueued) and event.number == 2:
            throttler.submit(**ask("cap"))  # number 3: no deadlock, this one has its place
            assert suspended.wait(10)

    server = fake()
    throttler = throttle(server, on_event=listen)
    throttler.call(**ask("first"))
    server.outage(reply=SpendCap())
    try:
        late = throttler.submit(**ask("late")).exception(10)
    except AccountSuspended as error:
        late = error
    assert isinstance(late, AccountSuspended)
    assert [arrival.nonce for arrival in server.arrivals] == ["first", "cap"]


def test_who_waits_for_a_place_in_the_queue_is_told(fake, throttle):
    """submit(block=True): the place that comes free is of no use to anybody."""
    server = fake()
    throttler = throttle(server, max_queue=1, max_concurrency=1)
    throttler.call(**ask("first"))
    server.outage(reply=SpendCap())
    throttler.pause()
    throttler.submit(**ask("cap"))
    with ThreadPoolExecutor(4) as pool:
        blocked = [pool.submit(throttler.call, **ask(f"b{n}", block=True)) for n in range(4)]
        backlog = lane_of(throttler).backlog
        wait_until(lambda: len(backlog.not_full._waiters) == 4)
        throttler.resume()
        errors = [future.exception(20) for future in blocked]
    assert [type(error) for error in errors] == [AccountSuspended] * 4
    assert [arrival.nonce for arrival in server.arrivals] == ["first", "cap"]

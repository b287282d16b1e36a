"""How a suspension ends, and what may be done until then."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import anthropic
import pytest

from claude_throttle import (
    AccountSuspended,
    Closed,
    Suspended,
    SuspensionEnded,
)
from claude_throttle.testing import Ok, Reply, SpendCap, Stall
from claude_throttle.testing.refusals import (
    CREDIT_TOO_LOW,
    KEY_REFUSED,
    NOT_PERMITTED,
)
from tests.support.calls import KEY, LANE, ask, echo
from tests.support.suspensions import refuse_one
from tests.support.waiting import wait_until

# -- how it ends -----------------------------------------------------------------------------------


def test_a_probe_goes_through_after_a_minute_and_ends_it(fake, throttle, manual):
    """One call, then all: somebody has paid."""
    events = []
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual, on_event=events.append)
    refuse_one(server, throttler, SpendCap())
    manual.advance(59.9)
    with pytest.raises(AccountSuspended) as caught:
        throttler.submit(**ask())
    assert 0 < caught.value.retry_after < 1
    manual.advance(0.2)
    server.script(Stall())
    probe = throttler.submit(**ask("probe"))
    wait_until(lambda: len(server.arrivals) == 2)
    with pytest.raises(AccountSuspended):  # one at a time
        throttler.submit(**ask("second"))
    server.release_stalled()
    assert echo(probe.result(10)) == "probe"
    wait_until(lambda: throttler.limits()[LANE].suspended is None)
    for n in range(3):
        throttler.submit(**ask(str(n))).result(10)
    assert [e for e in events if isinstance(e, SuspensionEnded)] == [SuspensionEnded("")]


def test_a_refused_probe_doubles_the_wait(fake, throttle, manual):
    """A minute, two, four ... a quarter of an hour; one request each."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual)
    refuse_one(server, throttler, CREDIT_TOO_LOW)
    server.outage(reply=CREDIT_TOO_LOW)
    for minutes in (1, 2, 4, 8, 15, 15):
        manual.advance(minutes * 60 - 1.0)
        with pytest.raises(AccountSuspended):
            throttler.submit(**ask())
        manual.advance(1.1)
        probe = throttler.submit(**ask("probe"))
        assert isinstance(probe.exception(10), anthropic.BadRequestError)
    assert len(server.arrivals) == 7
    server.outage(False)
    manual.advance(15 * 60 + 1.0)
    assert echo(throttler.submit(**ask()).result(10)) == "hello"


def test_of_two_who_submit_when_a_probe_is_due_one_is_let_through(fake, throttle, manual):
    """However many threads there are."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual)
    refuse_one(server, throttler, SpendCap())
    manual.advance(61.0)
    server.script(*[Stall()] * 8)
    begin = threading.Barrier(8)

    def submit():
        begin.wait(20)
        return throttler.submit(**ask())

    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(submit) for _ in range(8)]
        errors = [attempt.exception(20) for attempt in tries]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, AccountSuspended) for error in errors) == 7
    server.release_stalled()


def test_resume_ends_it_by_hand(fake, throttle):
    """Whoever paid need not wait for the probe."""
    events = []
    server = fake()
    throttler = throttle(server, on_event=events.append)
    refuse_one(server, throttler, KEY_REFUSED)
    throttler.resume()
    assert echo(throttler.call(**ask())) == "hello"
    server.script(*[NOT_PERMITTED] * 2)  # what has just worked is refused three times
    refuse_one(server, throttler, NOT_PERMITTED)
    throttler.resume()
    assert echo(throttler.call(**ask())) == "hello"
    ended = [event for event in events if isinstance(event, SuspensionEnded)]
    assert ended == [SuspensionEnded(""), SuspensionEnded(LANE)]


def test_an_account_that_is_refused_again_is_suspended_again(fake, throttle):
    """resume() is a wish: the next refusal is news, and the first minute begins anew."""
    events = []
    server = fake()
    throttler = throttle(server, on_event=events.append)
    refuse_one(server, throttler, SpendCap())
    throttler.resume()
    refuse_one(server, throttler, SpendCap())
    with pytest.raises(AccountSuspended) as caught:
        throttler.submit(**ask())
    assert 50 < caught.value.retry_after <= 60
    assert len([event for event in events if isinstance(event, Suspended)]) == 2


# -- meanwhile -------------------------------------------------------------------------------------


def test_looking_works_meanwhile(fake, throttle):
    """limits(), stats(), estimate_wait(): no request, no exception."""
    server = fake(rpm=600)
    throttler = throttle(server, rpm=None)
    refuse_one(server, throttler, SpendCap())
    assert throttler.limits()[LANE].suspended == "spend limit"
    assert "suspended: spend limit" in str(throttler.limits())
    assert throttler.stats().in_flight == 0
    assert throttler.estimate_wait(**ask()) >= 0.0
    assert len(server.arrivals) == 1


def test_two_threads_that_go_on_submitting_are_both_told(fake, throttle):
    """Nobody hangs, nothing is lost: each future ends, each submit raises or has one."""
    server = fake(spend_cap_after=20)
    throttler = throttle(server, max_concurrency=4)
    futures = []

    def work(name):
        for n in range(300):
            try:
                futures.append(throttler.submit(**ask(f"{name} {n}")))
            except AccountSuspended:
                return n
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(work, name) for name in "ab"]
        assert not wait(ends, 20).not_done
    assert not wait(futures, 10).not_done
    errors = [future.exception() for future in futures]
    assert errors.count(None) == 20
    kinds = (anthropic.RateLimitError, AccountSuspended)
    assert all(error is None or isinstance(error, kinds) for error in errors)
    refused = [arrival for arrival in server.arrivals if arrival.status == 429]
    assert 1 <= len(refused) <= 5  # what was in flight; a moment may let one more out


def test_a_suspended_throttler_closes_at_once(fake, throttle):
    """Nothing waits, so there is nothing to wait for; afterwards it is Closed that is said."""
    server = fake()
    throttler = throttle(server)
    refuse_one(server, throttler, SpendCap())
    closer = threading.Thread(target=throttler.close, daemon=True)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()
    with pytest.raises(Closed):
        throttler.submit(**ask())
    assert len(server.arrivals) == 1


def test_a_done_callback_may_submit_and_is_told(fake, throttle):
    """Where a program chains calls, the chain ends instead of hanging."""
    told = []

    def again(future):
        try:
            throttler.submit(**ask("again"))
        except AccountSuspended as error:
            told.append(error)

    server = fake()
    server.outage(reply=SpendCap())
    throttler = throttle(server, max_concurrency=1)
    throttler.pause()
    futures = [throttler.submit(**ask(str(n))) for n in range(5)]
    for future in futures[1:]:
        future.add_done_callback(again)
    throttler.resume()
    assert not wait(futures, 10).not_done
    wait_until(lambda: len(told) == 4)
    assert len(server.arrivals) == 1


def test_what_it_says_travels_and_holds_no_key(fake, throttle):
    """It pickles whole; a key that a gateway quotes is not passed on."""
    server = fake()
    throttler = throttle(server)
    quoted = f"Incorrect API key provided: {KEY}. Received API Key = {KEY}"
    refuse_one(server, throttler, Reply(401, {}, "authentication_error", quoted))
    with pytest.raises(AccountSuspended) as caught:
        throttler.submit(**ask("my secret prompt"))
    error = caught.value
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is AccountSuspended
    assert (str(back), back.reason, back.until) == (str(error), error.reason, error.until)
    assert back.retry_after == error.retry_after
    shown = (repr(error), str(error), repr(vars(error)), pickle.dumps(error).decode("latin-1"))
    for text in shown:
        assert KEY not in text
        assert "secret prompt" not in text


def test_a_single_good_answer_after_other_faults_does_not_suspend(fake, throttle):
    """A 400 or 404 of one call is that call's own affair."""
    server = fake()
    server.script(Reply(400, {}, None, "messages: text is too long"), Reply(404), Reply(413), Ok())
    throttler = throttle(server)
    for _ in range(3):
        with pytest.raises(anthropic.APIStatusError):
            throttler.call(**ask())
    assert echo(throttler.call(**ask())) == "hello"
    assert throttler.limits()[LANE].suspended is None

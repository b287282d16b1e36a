"""What broke when the limits came to be learned (review of 2026-11-21)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import TimeoutError as NotInTime
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from claude_throttle import AccountSuspended, DeadlineExceeded, QuotaTooSmall, Throttler
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import RAMP, RATE, Feedback, RampLimit, RateLimit
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.configured_quotas import ConfiguredQuotas
from claude_throttle.core.pacing.pacer import AUTO, Pacer
from claude_throttle.testing import Reply, Stall
from claude_throttle.transport import http
from tests.support.calls import MODEL, ask
from tests.support.inside import lane_of
from tests.support.waiting import comes_true, wait_until

KEY_REFUSED = Reply(401)
CALL = Cost(1.0, 10.0, 10.0)
NO_CHANGE = Cost(0.0, 0.0, 0.0)


class _Poisonable(BaseHTTPRequestHandler):
    """Answers 500 to whatever holds the word "poison", well to all else."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"]))
        good = b"poison" not in asked
        usage = {"input_tokens": 1, "output_tokens": 1}
        answer = {"type": "message", "content": [], "usage": usage} if good else {}
        body = json.dumps(answer).encode()
        self.send_response(200 if good else 500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def poisonable(manual):
    """A throttler, on a clock moved by hand, of a server that cannot stand one call."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Poisonable) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        throttler = Throttler(api_key="k", base_url=url, clock=manual, rpm=1e6, burst=1000)
        yield throttler
        throttler.close(timeout=0, cancel_pending=True)
        server.shutdown()
        thread.join()


def move(clock, until, steps):
    """Move time on second by second until *until* holds; whether it came to hold."""
    for _ in range(steps):
        if comes_true(until, 0.05):
            return True
        clock.advance(1.0)
    return comes_true(until, 1.0)


def open_circuit(throttler, server):
    """Five calls in a row fail."""
    server.script(*[Reply(529)] * 5)
    wait([throttler.submit(**ask()) for _ in range(5)], 10)
    assert throttler.limits()[lane_of(throttler).name].circuit == "open"


# -- the circuit ----------------------------------------------------------------------------------


def test_a_call_no_server_can_stand_does_not_hold_up_its_lane(poisonable, manual):
    """A server that answers everybody but one call is found to be there: others probe, too."""
    poisonable.submit(**ask("poison"))
    lane = lane_of(poisonable)
    assert move(manual, lambda: lane.pacer.circuit.is_open, 60)
    others = [poisonable.submit(**ask()) for _ in range(3)]
    assert move(manual, lambda: all(other.done() for other in others), 60)


def test_a_call_that_fails_as_every_probe_ends(poisonable, manual):
    """``max_retries`` bounds the re-sends of a call: waiting is free, failing again is not."""
    future = poisonable.submit(**ask("poison"))
    assert move(manual, future.done, 120)


def test_a_probe_that_nobody_answers_does_not_close_the_circuit(fake, throttle, monkeypatch):
    """A read that times out says nothing about whether the server is back."""
    monkeypatch.setattr(http, "READ_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(http, "SECONDS_PER_TOKEN", 0.0)
    server = fake()
    throttler = throttle(server, max_retries=0)
    open_circuit(throttler, server)
    server.script(Stall())
    with pytest.raises(Exception, match="no answer in time"):
        throttler.call(**ask())
    assert lane_of(throttler).pacer.circuit.is_open


def test_an_open_circuit_does_not_look_through_the_queue_at_every_failure(fake, throttle):
    """Hundreds in flight fail together; the queue may be long, and the lane's mutex is held."""
    server = fake()
    server.outage(reply=Reply(529, latency=0.5))
    throttler = throttle(server, max_retries=0, max_concurrency=50)
    backlog, looks = lane_of(throttler).backlog, []
    waiting = backlog.waiting_locked
    backlog.waiting_locked = lambda: looks.append(1) or waiting()
    futures = [throttler.submit(**ask()) for _ in range(80)]
    wait(futures[:40], 10)
    assert len(looks) <= 10


def test_an_empty_retry_budget_fails_no_call(fake, throttle):
    """Forty conflicts at once, then all is well: there is time for a retry each."""
    server = fake()
    server.script(*[Reply(409)] * 40)
    throttler = throttle(server)
    futures = [throttler.submit(**ask(timeout=5)) for _ in range(40)]
    failed = [error for future in futures if (error := future.exception(10))]
    assert not failed


# -- learned quotas -------------------------------------------------------------------------------


def test_a_limit_that_was_learned_too_low_can_be_unlearned(fake, throttle, manual):
    """The limit is raised, and all calls are larger than it was: one must go to find out."""
    server = fake(rpm=1000, itpm=100, clock=manual)
    throttler = throttle(server, clock=manual, rpm=None)
    throttler.call(**ask())
    server.limits(itpm=1_000_000)
    large = throttler.submit(**ask("x" * 4000))
    assert move(manual, large.done, 120)
    assert large.result()


def test_a_starting_point_refuses_no_call():
    """A tier is a guess: the API has said nothing yet, and its first answer may allow more."""
    pacer = Pacer({}, AUTO)
    pacer.start_with({"input_tokens": 1000.0}, "tier start", 0.0)
    pacer.configured.require_fit(Cost(1.0, 5000.0, 10.0), MODEL)


def learn(pacer, limit, now=0.0, remaining=None):
    """One call, and an answer that tells the limit of requests."""
    dispatch = pacer.take(CALL, now)
    pacer.settle(CALL, CALL, now)
    left = limit if remaining is None else remaining
    feedback = Feedback(rate_limits={"requests": RateLimit(limit, left)}, status=200)
    pacer.answered(feedback, dispatch, NO_CHANGE, now + 0.1)


def leaves_at_once(pacer, now):
    """How many leave in one instant."""
    count = 0
    while count < 10_000 and pacer.ready_at(CALL, now) <= now:
        pacer.take(CALL, now)
        count += 1
    return count


def test_a_learned_burst_never_exceeds_what_was_told():
    """``rpm=60, burst="auto"``: whatever the server shows, a minute's worth is the most."""
    pacer = Pacer({"rpm": Quota(60)}, AUTO)
    learn(pacer, 4000.0)
    assert leaves_at_once(pacer, 3600.0) <= 60


def test_headroom_that_is_taken_back_leaves_nothing_behind():
    """reconfigure(headroom=0): the whole learned limit may be used again."""
    pacer = Pacer({}, AUTO, headroom=0.5)
    learn(pacer, 600.0)
    pacer.set_quotas({}, AUTO, 1.0, headroom=0.0)
    assert leaves_at_once(pacer, 300.0) > 500


def test_ctrl_c_while_headroom_is_taken_off_costs_it_for_no_longer_than_one_answer(monkeypatch):
    """Once it came between the making of the ceiling and its being in force, which never came."""
    pacer, make = Pacer({}, AUTO, headroom=0.5), ConfiguredQuotas.leave_headroom

    def interrupted(*arguments):
        make(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(ConfiguredQuotas, "leave_headroom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(pacer, 600.0)
    monkeypatch.setattr(ConfiguredQuotas, "leave_headroom", make)
    learn(pacer, 600.0)
    assert leaves_at_once(pacer, 3600.0) <= 300


def test_a_burst_told_while_running_holds_for_what_is_learned():
    """reconfigure(burst=1) with no rate told: strictly spaced from then on."""
    pacer = Pacer({}, AUTO)
    learn(pacer, 600.0)
    pacer.set_quotas({}, 1.0, 1.0)
    assert leaves_at_once(pacer, 300.0) == 1


# -- concurrency ----------------------------------------------------------------------------------


def borrow_all(limiter, now, priority=Priority.NORMAL, most=1000):
    """All that may be had at *now*."""
    held = []
    while len(held) < most and limiter.admissible_priority(now) >= priority:
        slot = limiter.try_acquire(priority, now)
        if slot is None:
            break
        held.append(slot)
    return held


def seconds_of_demand(limiter, seconds, at=0.0):
    """As many as may be in flight, again and again, each answered within half a second."""
    for step in range(int(seconds * 2)):
        for place in borrow_all(limiter, at + step / 2):
            limiter.answered()
            place.release()
        held = borrow_all(limiter, at + step / 2)
        limiter.admissible_priority(at + step / 2)
        for place in held:
            place.release()


def test_a_share_kept_for_interactive_does_not_stop_the_search_for_the_limit():
    """Others wait for permits all the time, and nothing complains: the limit grows."""
    limiter = ConcurrencyLimiter(probing=True, interactive_share=0.2)
    limiter.headers_came()
    seconds_of_demand(limiter, 20)
    assert limiter.limit > 20


def test_after_an_outage_the_limit_that_was_known_is_soon_back():
    """Full pace within ten seconds, also where a concurrency limit had been met before."""
    limiter = ConcurrencyLimiter()
    held = borrow_all(limiter, 0.0, most=101)
    limiter.refused(0.0)
    for place in held:
        place.release()
    limiter.ramp()
    seconds_of_demand(limiter, 10, at=1.0)
    assert limiter.limit >= 90


def test_what_a_told_limit_held_back_is_no_evidence():
    """Four in flight, as told, and no complaint: nobody knows that a thousand would be let in."""
    limiter = ConcurrencyLimiter(4, probing=True)
    limiter.headers_came()
    seconds_of_demand(limiter, 60)
    limiter.set_told(None)
    assert limiter.limit <= 100


# -- count_tokens="api" ---------------------------------------------------------------------------


def test_a_deadline_ends_the_wait_for_a_count():
    """The endpoint accepts and says nothing; the call was given half a second for everything."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        throttler = Throttler(api_key="k", base_url=url, count_tokens="api")
        future = throttler.submit(**ask(timeout=0.5))
        try:
            assert isinstance(future.exception(5), DeadlineExceeded)
        finally:
            throttler.close(timeout=0, cancel_pending=True)


def test_nothing_is_counted_while_paused(fake, throttle):
    """pause() lets nothing leave, counts neither."""
    server = fake()
    throttler = throttle(server, count_tokens="api")
    throttler.pause()
    throttler.submit(**ask())
    assert not comes_true(lambda: server.other_arrivals, 0.5)


# -- a suspended account --------------------------------------------------------------------------


def suspended(server, throttler):
    """The key is refused."""
    server.script(KEY_REFUSED)
    assert throttler.submit(**ask()).exception(10)


def test_resume_in_the_midst_of_a_refusal_locks_nobody_out(fake, throttle, monkeypatch):
    """A lane that is shut when the suspension has just been ended must not stay shut for ever."""
    server = fake()
    throttler, shut = throttle(server), Lane.shut

    def late(lane, why):
        monkeypatch.setattr(Lane, "shut", shut)
        throttler.resume()
        shut(lane, why)

    monkeypatch.setattr(Lane, "shut", late)
    suspended(server, throttler)
    throttler.resume()
    assert throttler.call(**ask())


@pytest.mark.parametrize("reason", ["suspended", "hopeless"])
def test_a_callback_of_a_refused_call_may_wait_for_the_one_that_was_answered(
    fake, throttle, reason
):
    """Those that waited are ended by other threads than the one that has yet to end its own."""
    server = fake()
    # Five leave at once, the sixth has to wait for two seconds.
    throttler = throttle(server, rpm=30, burst=5, max_retries=0)
    answer = Reply(401, latency=0.5) if reason == "suspended" else Reply(529, latency=0.5)
    server.outage(reply=answer)
    sent = [throttler.submit(**ask()) for _ in range(5)]
    wait_until(lambda: len(server.arrivals) == 5)
    # Its time ends before the first probe, half a second after the circuit has opened.
    timeout = None if reason == "suspended" else 0.8
    waiting, seen = throttler.submit(**ask(timeout=timeout)), []

    def on_done(_future):
        for future in sent:
            try:
                seen.append(future.exception(2))
            except NotInTime as error:
                seen.append(error)

    waiting.add_done_callback(on_done)
    assert comes_true(lambda: len(seen) == 5, 20)
    assert not any(isinstance(error, NotInTime) for error in seen)


def test_a_call_that_is_refused_at_the_door_is_no_probe(fake, throttle, manual):
    """The minute is over; one too large to leave is refused; the next is the probe."""
    server = fake()
    throttler = throttle(server, clock=manual, rpm=1e6, itpm=1000, burst=1000)
    suspended(server, throttler)
    manual.advance(61.0)
    with pytest.raises(QuotaTooSmall):
        throttler.submit(**ask("x" * 40_000))
    assert throttler.call(**ask())


def test_a_permit_is_no_probe(fake, throttle, manual):
    """Nobody tells how its request ended: it must not use up the turn of a call that would."""
    server = fake()
    throttler = throttle(server, clock=manual)
    suspended(server, throttler)
    manual.advance(61.0)
    with contextlib.suppress(AccountSuspended):
        throttler.permit(model=MODEL).close()
    assert throttler.call(**ask())


def test_a_call_with_a_key_of_its_own_is_not_refused_for_ours(fake, throttle):
    """The suspension is of another account than the one it goes to."""
    server = fake(api_keys=["theirs"])
    throttler = throttle(server)
    assert throttler.submit(**ask()).exception(10)
    assert throttler.call(**ask(extra_headers={"x-api-key": "theirs"}))


def test_an_answer_to_another_key_does_not_end_a_suspension(fake, throttle, manual):
    """It says nothing about ours."""
    server = fake(api_keys=["theirs"])
    throttler = throttle(server, clock=manual)
    assert throttler.submit(**ask()).exception(10)
    manual.advance(61.0)
    throttler.call(**ask(extra_headers={"x-api-key": "theirs"}))
    assert throttler.limits()[lane_of(throttler).name].suspended == "key refused"


def test_close_tells_nobody_that_a_suspension_ended(fake):
    """The event says that a probe was answered, or resume() was called."""
    events = []
    server = fake()
    throttler = Throttler(api_key="k", base_url=server.url, on_event=events.append)
    suspended(server, throttler)
    throttler.close()
    assert not any(type(event).__name__ == "SuspensionEnded" for event in events)


# -- when the server lies -------------------------------------------------------------------------


def test_an_absurd_wait_is_cut_to_a_day():
    """``retry-after: 1e18`` must not hold a lane up for good."""
    pacer = Pacer({}, AUTO, jitter=lambda _: 0.0)
    assert pacer.pause_for(1e18, 0.0) == 86_400.0


def test_an_absurd_ramp_does_not_stop_what_went_through_lately():
    """ "Current limit is 1" of somebody who used thousands a minute: half of that goes on."""
    pacer = Pacer({}, AUTO, jitter=lambda _: 0.0)
    for second in range(60):
        dispatch = pacer.take(Cost(1.0, 1000.0, 1.0), float(second))
    feedback = Feedback(RAMP, 1.0, growth=RampLimit("input_tokens", 1.0, 2.0), status=429)
    pacer.refused(feedback, dispatch, CALL, 1.0, 1, 60.0)
    ready_at = pacer.ready_at(Cost(1.0, 1000.0, 1.0), 120.0)
    assert ready_at <= 125.0


def test_more_left_than_the_limit_is_no_bucket():
    """``remaining`` beyond ``limit``: a minute's worth is believed."""
    pacer = Pacer({}, AUTO)
    learn(pacer, 600.0, remaining=2.0**53)
    assert leaves_at_once(pacer, 3600.0) <= 600


def test_a_server_that_lied_once_is_believed_again_in_time():
    """One stray refusal that shows room must not keep the burst small for good."""
    pacer = Pacer({}, AUTO)
    learn(pacer, 600.0)
    dispatch = pacer.take(CALL, 1.0)
    room = {"requests": RateLimit(600.0, 500.0)}
    pacer.refused(Feedback(RATE, 1.0, room, "requests", status=429), dispatch, CALL, 1.0, 1, 1.1)
    learn(pacer, 600.0, now=300.0)
    assert pacer.learned["requests"].burst < 10
    learn(pacer, 600.0, now=1000.0)
    assert pacer.learned["requests"].burst > 500

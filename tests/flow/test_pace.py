"""Calls leave at the pace of their quotas, in their order, and come back to whoever asked."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import Quota
from claude_throttle.testing import worst_excess
from tests.support.calls import ask, echo
from tests.support.inside import note_departures
from tests.support.waiting import move_until_done


def admitted(server):
    return [arrival for arrival in server.arrivals if arrival.admitted]


def test_a_call_leaves_an_interval_after_the_one_before(fake, throttle, manual):
    """60 a minute leave 1 s apart, on the clock's own scale."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, clock=manual)
    futures = [throttler.submit(**ask(str(n))) for n in range(3)]
    for future in futures:
        future.result(10)
        manual.wait_for_sleepers(1)
        manual.advance(1.0)
    assert [a.at for a in server.arrivals] == [1000.0, 1001.0, 1002.0]


def test_no_window_holds_more_than_the_quota(fake, throttle):
    """200 calls from 8 threads at 3,000 a minute: judged window by window from the server's log."""
    server = fake()
    throttler = throttle(server, rpm=3000)

    def work(name):
        for n in range(25):
            assert echo(throttler.call(**ask(f"{name}-{n}"))) == f"{name}-{n}"

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    arrivals = admitted(server)
    assert len({a.nonce for a in arrivals}) == len(arrivals) == 200
    assert throttler.stats().succeeded == 200


def test_the_worker_lets_no_window_exceed_the_quota(fake, throttle):
    """Judged by the instants at which the worker let calls leave, each given 5 ms."""
    throttler = throttle(fake(), rpm=6000)
    instants = note_departures(throttler)
    for future in [throttler.submit(**ask()) for _ in range(200)]:
        future.result(30)
    assert worst_excess(instants, [1.0] * 200, 100.0, 1.0, tolerance_seconds=0.005) <= 0


def test_the_more_urgent_leaves_first(fake, throttle, manual):
    """Lower priority numbers first; equal ones in the order they came."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, clock=manual)
    throttler.pause()
    order = [("batch", 20), ("normal", 10), ("urgent", 0), ("urgent too", 0)]
    futures = [throttler.submit(**ask(text, priority=p)) for text, p in order]
    throttler.resume()
    move_until_done(manual, futures)
    assert [a.nonce for a in server.arrivals] == ["urgent", "urgent too", "normal", "batch"]


def test_an_urgent_call_takes_the_turn_a_patient_one_was_waiting_for(fake, throttle, manual):
    """The worker holds no reservation while it waits."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, clock=manual)
    throttler.submit(**ask("first")).result(10)
    patient = throttler.submit(**ask("patient"))
    manual.wait_for_sleepers(1)
    urgent = throttler.submit(**ask("urgent", priority=0))
    manual.wait_for_sleepers(1)
    manual.advance(1.0)
    urgent.result(10)
    assert not patient.done()
    manual.wait_for_sleepers(1)
    manual.advance(1.0)
    patient.result(10)


def test_models_do_not_hold_each_other_up(fake, throttle, manual):
    """Each model has a lane of its own."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=1, clock=manual)
    throttler.submit(**ask("a")).result(10)
    stuck = throttler.submit(**ask("b"))
    throttler.submit(**ask("c", model="claude-haiku-4-5")).result(10)
    assert not stuck.done()


def test_a_large_call_is_not_overtaken_on_the_quota_it_waits_for(fake, throttle, manual):
    """What has accrued for the head stays with it, however many small ones queue behind."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, itpm=Quota(600, burst=600), clock=manual)
    throttler.call(**ask("x" * 2000))  # leaves a debt
    # The worker's order, not that of arrival: two that leave in one instant race on the wire.
    costs = note_departures(throttler, lambda cost, now: cost.input_tokens)
    large = throttler.submit(**ask("y" * 1500))
    small = [throttler.submit(**ask("z")) for _ in range(5)]
    move_until_done(manual, [large, *small])
    assert len(costs) == 6
    assert costs[0] == max(costs) > 10 * max(costs[1:])


def test_usage_settles_the_estimate(fake, throttle, manual):
    """An overestimate comes back with the answer: the next call need not wait for it."""
    server = fake(clock=manual, output_tokens=1)
    throttler = throttle(server, rpm=None, otpm=Quota(600, burst=1), clock=manual)
    throttler.submit(**ask(max_tokens=1000)).result(10)  # booked as 500, was 1
    second = throttler.submit(**ask(max_tokens=1000))
    manual.advance(1.0)
    second.result(10)


def test_bursts_leave_at_once_and_then_the_pace_holds(fake, throttle, manual):
    """burst=3: three together, the fourth an interval later."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=60, burst=3, clock=manual)
    futures = [throttler.submit(**ask(str(n))) for n in range(4)]
    for future in futures[:3]:
        future.result(10)
    manual.wait_for_sleepers(1)
    assert not futures[3].done()
    manual.advance(1.0)
    futures[3].result(10)
    assert [a.at for a in server.arrivals] == [1000.0, 1000.0, 1000.0, 1001.0]


def test_concurrency_is_bounded_over_all_models(fake, throttle):
    """max_concurrency=2: never more than two on the wire, whatever the models."""
    server = fake(latency=0.02)
    throttler = throttle(server, max_concurrency=2)
    futures = [throttler.submit(**ask(model=f"claude-{n % 3}")) for n in range(30)]
    for future in futures:
        future.result(30)
    assert max(a.in_flight for a in server.arrivals) == 2


def test_reconfigure_changes_the_pace_of_what_waits(fake, throttle, manual):
    """A call waiting a minute for its turn leaves at once when the quota allows it."""
    throttler = throttle(fake(clock=manual), rpm=1, clock=manual)
    throttler.submit(**ask()).result(10)
    second = throttler.submit(**ask())
    manual.wait_for_sleepers(1)
    throttler.reconfigure(rpm=6000)
    manual.advance(1.0)
    second.result(10)


def test_pause_holds_everything_and_resume_lets_it_go(fake, throttle):
    """Also in lanes that did not exist yet."""
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    futures = [throttler.submit(**ask(model=m)) for m in ("a", "b")]
    assert server.arrivals == []
    throttler.resume()
    for future in futures:
        future.result(10)


@pytest.mark.parametrize("rpm", [0.5, 1.0])
def test_less_than_one_a_minute_is_a_quota_like_any_other(fake, throttle, manual, rpm):
    """rpm=0.5 lets one leave every two minutes."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=rpm, clock=manual)
    throttler.submit(**ask()).result(10)
    second = throttler.submit(**ask())
    manual.wait_for_sleepers(1)
    manual.advance(60.0 / rpm)
    second.result(10)
    assert server.arrivals[1].at - server.arrivals[0].at == 60.0 / rpm

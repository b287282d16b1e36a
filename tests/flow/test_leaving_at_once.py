"""While nobody waits, a call leaves in its caller's own thread: the worker's would cost it time."""

from __future__ import annotations

import threading

import pytest

from claude_throttle import Closed, DeadlineExceeded
from claude_throttle.core.domain.priority import Priority
from claude_throttle.testing import Stall
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import engine_of, lane_of, model_group_of, note_departures
from tests.support.waiting import wait_until


@pytest.fixture
def idle(fake, throttle):
    """``idle(**settings)``: a server and a throttler with a worker and a sender, all idle."""

    def make(**settings):
        server = fake()
        throttler = throttle(server, **settings)
        throttler.call(**ask("first"))
        wait_until(lambda: engine_of(throttler).thread_pool.idle)
        return server, throttler

    return make


def note_threads(throttler):
    """In which thread each call leaves."""
    return note_departures(throttler, lambda cost, now: threading.current_thread())


def nothing_left(throttler):
    """Whether every call has ended, and given back what it held."""
    process, lane = engine_of(throttler), lane_of(throttler)
    held = [lane.backlog.accepted, lane.backlog.calls, lane.out, process.account.limiter.in_use]
    return not any(held)


def test_on_an_idle_lane_a_call_leaves_in_its_callers_thread(idle):
    """It goes to a sender at once."""
    _, throttler = idle()
    threads = note_threads(throttler)
    assert echo(throttler.call(**ask("second"))) == "second"
    assert threads == [threading.current_thread()]


def test_the_first_call_leaves_in_the_workers_thread(fake, throttle):
    """There is no worker yet who would watch a deadline, and no sender to hand it to."""
    throttler = throttle(fake())
    threads = note_threads(throttler)
    throttler.call(**ask())
    assert threads[0] is not threading.current_thread()


def test_without_an_idle_sender_it_waits_for_the_worker(idle):
    """submit() does not wait for a thread to start."""
    server, throttler = idle()
    server.script(Stall())
    threads = note_threads(throttler)
    stalled = throttler.submit(**ask("stalled"))
    wait_until(lambda: len(server.arrivals) == 2)
    assert echo(throttler.call(**ask("behind"))) == "behind"
    server.release_stalled()
    stalled.result(10)
    assert threads[0] is threading.current_thread() is not threads[1]


def test_nobody_is_overtaken(idle):
    """Whoever finds others waiting stands in the line, however free the quota is."""
    _, throttler = idle(max_concurrency=1)
    sent = note_departures(throttler, lambda cost, now: cost.input_tokens)
    lane = lane_of(throttler)
    throttler.pause()
    waiting = throttler.submit(**ask("w" * 4000, priority=Priority.INTERACTIVE))
    lane.pacer.held_until = 0.0  # and nobody tells the worker
    newcomer = throttler.submit(**ask("n"))
    throttler.resume()
    newcomer.result(10)
    waiting.result(10)
    assert sent == sorted(sent, reverse=True)


def test_the_pace_holds(idle, manual):
    """A call that may not leave yet waits for its time."""
    _, throttler = idle(rpm=60, clock=manual)
    future = throttler.submit(**ask())
    manual.wait_for_sleepers(1)
    assert lane_of(throttler).backlog.calls == 1
    manual.advance(1.0)
    future.result(10)


def test_the_estimate_is_the_newest(idle):
    """Answers that are still out stretch it, as they do for those in the line."""
    server, throttler = idle()
    throttler.call(**ask())
    server.script(Stall())
    still_out = throttler.submit(**ask())
    wait_until(lambda: len(server.arrivals) == 3)  # else the next call might stall
    taken = note_departures(throttler, lambda cost, now: cost.output_tokens)
    plain = model_group_of(throttler).estimator.cost(MODEL, 1.0, 100).output_tokens
    lane_of(throttler).pacer.latency.stretch = lambda now: 2.0
    throttler.call(**ask())
    assert taken == [min(100.0, 2.0 * plain)]
    still_out.give_up()


def test_its_deadline_is_watched(idle, manual):
    """By the worker, which nobody else has told of it."""
    server, throttler = idle(clock=manual)
    server.script(Stall())
    threads = note_threads(throttler)
    future = throttler.submit(**ask(timeout=60))
    wait_until(lambda: len(server.arrivals) == 2)
    manual.advance(60)
    with pytest.raises(DeadlineExceeded, match="may be billed"):
        future.result(10)
    assert threads == [threading.current_thread()]


def test_once_the_worker_has_ended_the_next_call_starts_another(idle, manual):
    """Or nobody would watch its deadline."""
    _, throttler = idle(clock=manual)
    worker, threads = lane_of(throttler)._worker, note_threads(throttler)
    manual.wait_for_sleepers(1)
    manual.advance(61)
    wait_until(lambda: worker._thread is None)
    throttler.call(**ask())
    assert threads == [worker._thread]


def test_a_lane_that_was_shut_lets_nothing_leave(idle):
    """The account may be refused between a call's own look at that and its place."""
    server, throttler = idle()
    lane_of(throttler).shut(lambda now: Closed("refused"))
    with pytest.raises(Closed, match="refused"):
        throttler.submit(**ask())
    assert nothing_left(throttler)
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("stage", ["claim", "take", "hand over"])
def test_ctrl_c_in_the_midst_leaves_nothing_behind(idle, monkeypatch, stage):
    """The caller gets no future: so the call ends, and holds no permit."""
    server, throttler = idle(max_concurrency=1)
    lane, pressed = lane_of(throttler), []
    owner, name = {
        "claim": (lane.backlog, "leave_locked"),
        "take": (lane.pacer, "take"),
        "hand over": (engine_of(throttler).thread_pool, "run"),
    }[stage]

    def press(*_args):
        pressed.append(threading.current_thread())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, press)
        with pytest.raises(KeyboardInterrupt):
            throttler.submit(**ask("lost"))
    assert pressed == [threading.current_thread()]
    assert nothing_left(throttler)
    assert echo(throttler.call(**ask("next", timeout=10))) == "next"
    assert [a.nonce for a in server.arrivals] == ["first", "next"]


def test_ctrl_c_before_a_sender_came_to_it_is_not_a_bug(idle, monkeypatch, caplog):
    """The call has ended, and nothing goes on the wire; futures would call that unexpected."""
    server, throttler = idle()
    thread_pool, handed = engine_of(throttler).thread_pool, []
    with monkeypatch.context() as patch:
        patch.setattr(thread_pool, "run", handed.append)
        future = throttler.submit(**ask("given up"))
    future.give_up()
    handed[0]()
    assert isinstance(future.exception(10), Closed)
    assert nothing_left(throttler)
    assert caplog.records == []
    assert len(server.arrivals) == 1


def test_a_call_that_comes_in_the_midst_of_another_leave_waits(idle, monkeypatch):
    """From a signal handler, say: it must not take what was just found to be free."""
    _, throttler = idle()
    pacer, nested, threads = lane_of(throttler).pacer, [], note_threads(throttler)
    decide = pacer.decide

    def interrupted(cost, now):
        decision = decide(cost, now)
        if not nested:
            nested.append(None)
            nested[0] = throttler.submit(**ask("nested"))
        return decision

    monkeypatch.setattr(pacer, "decide", interrupted)
    throttler.call(**ask("outer"))
    assert echo(nested[0].result(10)) == "nested"
    assert threads[0] is threading.current_thread() is not threads[1]


@pytest.mark.parametrize("how", ["closed", "taken out"])
def test_what_was_ended_since_it_was_queued_does_not_leave(idle, monkeypatch, how):
    """A close may come between the two."""
    server, throttler = idle()
    lane = lane_of(throttler)
    end = {
        "closed": lane.close,
        "taken out": lambda: lane.cancel_waiting(Closed("cancelled")),
    }[how]
    monkeypatch.setattr(lane, "observe", lambda event, call: end())
    if how == "closed":
        with pytest.raises(Closed):
            throttler.submit(**ask("late"))
    else:
        assert throttler.submit(**ask("late")).cancelled()
    assert nothing_left(throttler)
    assert len(server.arrivals) == 1

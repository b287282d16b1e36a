"""Every future is resolved exactly once, whatever breaks on the way."""

from __future__ import annotations

import threading

import pytest

from claude_throttle.core.dispatch.call import Outcome
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import engine_of, model_group_of


class Bug(BaseException):
    """Worse than an Exception: nothing that catches those may be relied on."""


def raising(*_args, **_kwargs):
    raise Bug


def model_groups(throttler):
    model_group = model_group_of(throttler)
    return engine_of(throttler), model_group.lane, model_group.pacer


STAGES = {
    "the worker asks the pacer": lambda p, lane, pacer: (pacer, "decide"),
    "the worker takes": lambda p, lane, pacer: (pacer, "take"),
    "the worker looks at the head": lambda p, lane, pacer: (lane.backlog, "head_locked"),
    "the worker looks for deadlines": lambda p, lane, pacer: (lane.backlog, "take_due_locked"),
    "the worker takes a ticket out": lambda p, lane, pacer: (lane._worker, "commit_locked"),
    "the worker asks for a permit": lambda p, lane, pacer: (p.account.limiter, "try_acquire"),
    "a sender is started": lambda p, lane, pacer: (p.thread_pool, "run"),
    "the wire sends": lambda p, lane, pacer: (p.account.transport, "send"),
    "the adapter sends": lambda p, lane, pacer: (p.account.transport._adapter, "send"),
    "an estimate is learned": lambda p, lane, pacer: (
        p.account.model_group(MODEL).estimator,
        "learn",
    ),
    "the quotas are settled": lambda p, lane, pacer: (pacer, "settle"),
    "the books are closed": lambda p, lane, pacer: (lane.accounting, "settle_call_locked"),
    "an event is recorded": lambda p, lane, pacer: (p._recorder, "record"),
    "the lanes that wait for a permit are woken": lambda p, lane, pacer: (
        p.account.limiter,
        "notify_waiters",
    ),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_at_any_stage_leaves_no_future_unresolved(fake, throttle, stage, monkeypatch):
    """A BaseException at each stage in turn; then all is as before."""
    throttler = throttle(fake(), max_concurrency=4)
    throttler.call(**ask())
    throttler.pause()
    queued = [throttler.submit(**ask(str(n), timeout=60)) for n in range(8)]
    owner, name = STAGES[stage](*model_groups(throttler))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising)
        _resume_despite(throttler)
        resolved = [future for future in queued if _ends(future)]
    assert len(resolved) == len(queued)


def _resume_despite(throttler):
    try:
        throttler.resume()
    except Bug:  # some stages are run by the caller's thread, too
        pass


def _ends(future):
    try:
        future.exception(20)
    except TimeoutError:
        return False
    return True


def test_a_call_after_a_bug_is_served(fake, throttle, monkeypatch):
    """The worker outlives any bug."""
    throttler = throttle(fake())
    _, _, pacer = model_groups(throttler)
    with monkeypatch.context() as patch:
        patch.setattr(pacer, "decide", raising)
        with pytest.raises(Bug):
            throttler.submit(**ask()).result(10)
    assert echo(throttler.submit(**ask("after")).result(10)) == "after"


def test_a_done_callback_may_submit(fake, throttle):
    """No lock is held while a future is resolved."""
    throttler = throttle(fake())
    chained = []
    arrived = threading.Event()

    def submit_another(_future):
        chained.append(throttler.submit(**ask("second")))
        arrived.set()

    throttler.submit(**ask("first")).add_done_callback(submit_another)
    assert arrived.wait(10)
    assert echo(chained[0].result(10)) == "second"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_done_callback_that_raises_harms_nobody(fake, throttle):
    """Not even one that raises what Future does not catch."""
    throttler = throttle(fake(), max_concurrency=1)
    throttler.pause()  # or it might be done already, and raise here
    future = throttler.submit(**ask())
    future.add_done_callback(raising)
    throttler.resume()
    assert echo(future.result(10)) == "hello"
    assert echo(throttler.submit(**ask("next")).result(10)) == "next"
    assert throttler.drain(10) == 0


def test_settling_twice_resolves_once(fake, throttle):
    """The second end of a call is ignored."""
    throttler = throttle(fake())
    throttler.pause()
    future = throttler.submit(**ask())
    call = future._call
    call.finish(Outcome(error=ValueError("first")))
    call.finish(Outcome(error=KeyError("second")))
    with pytest.raises(ValueError, match="first"):
        future.result(0)
    throttler.resume()
    assert throttler.drain(10) == 0


def test_every_answer_belongs_to_its_caller(fake, throttle):
    """Hundreds of calls from many threads, retries and all: each gets its own nonce back."""
    server = fake(fault_rates={"529": 0.1, "500": 0.05, "reset": 0.05}, seed=7)
    throttler = throttle(server, max_retries=20)
    wrong = []

    def work(name):
        for n in range(20):
            if echo(throttler.call(**ask(f"{name}-{n}"))) != f"{name}-{n}":
                wrong.append((name, n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = throttler.stats()
    assert not wrong
    assert (stats.succeeded, stats.failed_total) == (200, 0)
    assert stats.retried > 0

"""Ctrl-C in an instant between two steps of ours took a place in flight away for good (2026-11).

CI found it by chance. Python looks for signals when a call has returned from C code and when a
function begins, so here one comes at each of those instants in turn.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from functools import partial

import anthropic
import pytest
import requests

import claude_throttle
from claude_throttle.core.dispatch.call import in_progress
from claude_throttle.core.threads.clock import Condition
from tests.support.calls import HELLO, MODEL, ask, echo
from tests.support.inside import engine_of
from tests.support.needs import needs
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

# In a __del__, Python itself swallows it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OURS = claude_throttle.__file__.replace("__init__.py", "")


class CtrlC:
    """Comes at the *at*-th of those instants, within our code; ``came`` says where."""

    def __init__(self, at):
        self._left = at
        self.came = None

    def __enter__(self):
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_error):
        sys.setprofile(None)

    def _look(self, frame, event, called):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(OURS):
            return
        self._left -= 1
        if self._left == -1:
            self.came = (frame.f_code.co_name, frame.f_lineno, event, called)
            raise KeyboardInterrupt


#: Every fifth instant by default, every one in the thorough run.
EVERY = pytest.mark.parametrize("every", [5, only_thorough(1)])


def at_instants(act, every=1):
    """*act* once for each, with Ctrl-C there; yields where it came."""
    for at in range(0, 100_000, every):
        with contextlib.suppress(KeyboardInterrupt), CtrlC(at) as ctrl_c:
            act()
        if ctrl_c.came is None:
            assert at > 0
            return
        yield ctrl_c.came


def what_is_left(throttler):
    """Waiting, accepted, out, places taken, and what this thread is said to be in the midst of."""
    process = engine_of(throttler)
    (lane,) = process.account.lanes()
    backlog = lane.backlog
    counts = (backlog.calls, len(backlog.waiting_locked()), len(backlog.accepted))
    return (*counts, len(lane.out), process.account.limiter.in_use, len(in_progress.mine()))


def wait_until_nothing_is_left(throttler, where):
    def nothing():
        if not any(what_is_left(throttler)):
            return True
        gc.collect()
        return False

    wait_until(nothing, why=lambda: (where, what_is_left(throttler)))


def read_a_stream(throttler):
    with throttler.stream(**ask()) as stream:
        for _ in stream:
            pass


def hold_a_permit(throttler):
    with throttler.permit(model=MODEL) as permit:
        permit.settle()


WAYS = {
    "submit": lambda throttler: throttler.submit(**ask()),
    "call": lambda throttler: throttler.call(**ask()),
    "permit": hold_a_permit,
    "stream": read_a_stream,
}


@EVERY
def test_ctrl_c_at_any_instant_of_a_pause_leaves_nothing_behind(fake, throttle, every):
    """Calls that take a place in the line, and are cancelled there."""
    throttler = throttle(fake())
    throttler.call(**ask())
    throttler.pause()

    def submit_and_cancel():
        futures.append(throttler.submit(**ask()))
        futures.pop().cancel()

    futures = []
    for where in at_instants(submit_and_cancel, every):
        throttler.resume()
        wait_until_nothing_is_left(throttler, where)
        throttler.pause()


@EVERY
@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_at_any_instant_leaves_nothing_behind(fake, throttle, way, every):
    """Whatever is asked for; afterwards all places are free, and calls still work."""
    throttler = throttle(fake(), max_concurrency=2)
    throttler.call(**ask())
    for where in at_instants(partial(WAYS[way], throttler), every):
        wait_until_nothing_is_left(throttler, where)
    assert echo(throttler.call(**ask())) == "hello"


@needs("middleware")
@EVERY
def test_ctrl_c_in_the_middleware_leaves_nothing_behind(fake, throttle, every):
    """The SDK's own code is its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=2)
    client = anthropic.Anthropic(
        api_key="k", base_url=server.url, middleware=[throttler.middleware()]
    )
    client.messages.create(**HELLO)
    for where in at_instants(lambda: client.messages.create(**HELLO), every):
        wait_until_nothing_is_left(throttler, where)


@EVERY
def test_ctrl_c_in_the_adapter_leaves_nothing_behind(fake, throttle, every):
    """requests' own code is its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=2)
    session = requests.Session()
    session.mount(server.url, throttler.adapter())
    throttler.call(**ask())
    url = f"{server.url}/v1/messages"
    for where in at_instants(lambda: session.post(url, json=HELLO), every):
        wait_until_nothing_is_left(throttler, where)


def test_ctrl_c_at_any_instant_of_a_wait_leaves_the_lock_held():
    """The ``with`` around it raised RuntimeError instead of KeyboardInterrupt."""
    condition = Condition(threading.RLock())

    def wait():
        with condition:
            try:
                condition.wait(0.001)
            finally:
                sys.setprofile(None)
                assert condition._is_owned()

    for where in at_instants(wait):
        assert not condition._waiters, where
        assert not condition._is_owned(), where


def test_what_was_told_to_a_wait_that_ctrl_c_ended_is_told_to_the_next():
    """One place became free; who was told of it gave up, and the next one waited for ever."""
    condition, told = Condition(threading.RLock()), []

    def tell_one():
        with condition:
            condition.notify()

    def wait_behind():
        with condition:  # the first one has released it: it waits
            teller = threading.Thread(target=tell_one)
            teller.start()
            told.append(condition.wait(10))
        teller.join(10)

    def wait_first():
        threads.append(threading.Thread(target=wait_behind))
        with condition:
            threads[-1].start()
            condition.wait(10)

    threads = []
    for where in at_instants(wait_first):
        threads[-1].join(20)
        assert told.pop(), where
    with condition:
        condition.notify()  # for the one behind who was not interrupted
    threads[-1].join(10)

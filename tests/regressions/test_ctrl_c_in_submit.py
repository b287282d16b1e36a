"""Ctrl-C in the midst of submit() left a count that no drain could bring to zero (2026-11)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from claude_throttle.core.threads.clock import MAIN_THREAD_WAIT_SECONDS
from tests.support.calls import ask, echo
from tests.support.thorough import only_thorough

#: In a process of its own: what pytest and hypothesis hook into the collector would swallow some
#: of the interrupts. Of CPU time, so that they fall into our code and not into its waits; again
#: and again, as one may fall where Python ignores it.
PROGRAM = """
import random, signal, sys
from claude_throttle import Throttler

def ask(**more):
    messages = [{"role": "user", "content": "hello"}]
    return dict(model="m", max_tokens=9, messages=messages, raw=True, **more)

armed = False

def interrupt(number, frame):
    if armed:
        raise KeyboardInterrupt

def submit_until_interrupted(seconds):
    global armed
    try:
        armed = True
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)
        while True:
            throttler.submit(**ask(block=True))
    except KeyboardInterrupt:
        armed = False

throttler = Throttler(api_key="k", base_url=sys.argv[1], rpm=1e6, max_queue=50)
throttler.call(**ask())
signal.signal(signal.SIGVTALRM, interrupt)
dice = random.Random(5)
for _ in range(int(sys.argv[2])):
    submit_until_interrupted(dice.uniform(0.0001, 0.002))
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
throttler.submit(**ask(timeout=10, block=True)).result(10)  # the queue may still be full
left = throttler.drain(20)
account = throttler._engine().account
lane = account.lanes()[0]
print(left, len(lane.out), lane.backlog.waiting_locked(), account.limiter.in_use)
"""


# There, three in a hundred interrupts of a bare loop over a ``with lock`` leave it held for ever.
@pytest.mark.skipif(
    sys.version_info < (3, 10),
    reason="Python 3.9 itself leaves a lock held if Ctrl-C comes as its with-block ends",
)
@pytest.mark.parametrize("times", [35, only_thorough(100)])
def test_ctrl_c_anywhere_in_submit_leaves_nothing_behind(fake, times):
    """Interrupted at random instants; afterwards everything ends, and calls still work."""
    command = [sys.executable, "-c", PROGRAM, fake().url, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "0 0 [] 0", done.stderr


def test_a_wait_without_an_end_is_made_of_slices(throttle, fake, monkeypatch):
    """CI once waited for ever: Ctrl-C came just before result() began to wait (2026-11)."""
    waited = []
    server = fake(latency=0.2)
    future = throttle(server).submit(**ask())
    wait = future._condition.wait
    monkeypatch.setattr(future._condition, "wait", lambda s=None: waited.append(s) or wait(s))
    assert echo(future.result()) == "hello"
    assert future.exception() is None
    assert waited
    assert set(waited) == {MAIN_THREAD_WAIT_SECONDS}

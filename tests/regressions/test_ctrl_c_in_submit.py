"""Ctrl-C in the midst of submit() left a count that no drain could bring to zero (2026-11)."""

from __future__ import annotations

import random
import signal

from tests.conftest import ask


def interrupt(_number, _frame):
    raise KeyboardInterrupt


def test_ctrl_c_anywhere_in_submit_leaves_nothing_behind(fake, throttle):
    """Interrupted at 120 random instants; afterwards everything ends, and calls still work."""
    throttler = throttle(fake(), max_queue=50)
    throttler.call(**ask())
    dice = random.Random(5)
    # Of CPU time, so that it falls into our code, and leaves SIGALRM to the test's own time limit.
    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        for _ in range(120):
            _submit_until_interrupted(throttler, dice.uniform(0.0001, 0.002))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert throttler.call(**ask(timeout=10))
    assert throttler.drain(20) == 0
    lane = throttler._process().lanes()[0]
    assert (len(lane.out), lane.backlog.waiting_locked()) == (0, [])
    assert throttler._process().permits.in_use == 0


def _submit_until_interrupted(throttler, seconds):
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        while True:
            throttler.submit(**ask(block=True))
    except KeyboardInterrupt:
        pass

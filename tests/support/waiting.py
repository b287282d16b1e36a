"""Ways to wait for other threads and processes."""

from __future__ import annotations

import threading
from concurrent.futures import wait

from tests.support.inside import requests_out

#: The servers and the throttlers of the test that runs; its fixtures keep them.
SERVERS, THROTTLERS = [], []


def comes_true(true, seconds=10.0):
    """Look again and again; whether *true* returns something true within *seconds*."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if true():
            return True
        pause.wait(0.005)
    return bool(true())


def wait_until(true, seconds=10.0, why=lambda: "it never happened"):
    """Return when *true* returns something true; after *seconds* fail, and say *why*."""
    if not comes_true(true, seconds):
        raise AssertionError(why())


def move_until_done(clock, futures, step=1.0):
    """Move time on, *step* seconds at a time, until all *futures* are done."""
    for _ in range(2000):
        if not wait(futures, 0.02).not_done:
            return
        wait_for_the_wire()
        clock.advance(step)
    raise AssertionError("they never ended")


def wait_for_the_wire(seconds=0.25):
    """Until each request that left is with its server, and each answer with its caller.

    Else time would move while they are on their way: what left a second after another could arrive
    half a second after it. Not for longer than *seconds*: a permit() has no request to wait for.
    """
    never, before, quiet = threading.Event(), (), 0
    for _ in range(int(seconds * 1000)):
        now = out, held, _ = requests_out(THROTTLERS, SERVERS)
        # A moment longer: what comes back may let the next one leave.
        quiet = quiet + 1 if out == held and now == before else 0
        if quiet > 2:
            return
        before = now
        never.wait(0.001)

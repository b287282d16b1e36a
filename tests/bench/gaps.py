"""How evenly calls leave when the interval is short."""

from __future__ import annotations

import importlib
import threading
import time

from tests.bench.figures import Figure, quantile, scaled
from tests.bench.server import Server
from tests.bench.work import ask, throttler
from tests.support.inside import pacer_of

RPM = 10_000
INTERVAL_SECONDS = 60 / RPM


def departures(share):
    """Gaps at 10,000 a minute, ``anthropic`` loaded, against a bare ``Condition.wait`` loop.

    The loop runs in a thread beside the throttler, so that both bear the very same load.
    """
    importlib.import_module("anthropic")
    count = scaled(2000, share)
    with Server(log_limit=1) as server, throttler(server.url, rpm=RPM) as throttle:
        throttle.preload()
        left_at = _watched(throttle)
        throttle.pause()
        futures = [throttle.submit(**ask()) for _ in range(count)]
        loop_at = []
        loop = threading.Thread(target=_bare_loop, args=(count, loop_at))
        throttle.resume()
        loop.start()
        for future in futures:
            future.result()
        loop.join()
    return [_judged(_p99_error(left_at), _p99_error(loop_at))]


def _watched(throttle):
    """The instants at which the worker commits; there is no event for it, so the pacer is asked."""
    # In the very process state the calls will use: the bench looks where no caller may.
    pacer = pacer_of(throttle)
    instants, take = [], pacer.take

    def noting(cost, now, *more):
        instants.append(now)
        return take(cost, now, *more)

    pacer.take = noting
    return instants


def _bare_loop(count, instants):
    condition = threading.Condition()
    due = time.monotonic()
    for _ in range(count):
        with condition:
            while (left := due - time.monotonic()) > 0:
                condition.wait(left)
            now = time.monotonic()
        instants.append(now)
        # As strict as ours: from the last departure, a millisecond caught up.
        due = max(due, now - 0.001) + INTERVAL_SECONDS


def _p99_error(instants):
    gaps = [after - before for before, after in zip(instants, instants[1:])]
    return quantile([abs(gap - INTERVAL_SECONDS) for gap in gaps], 0.99)


def _judged(ours, loop):
    limit = max(0.002, 1.5 * loop)
    asked = f"≤ 2 ms or 1.5 x the loop's {loop * 1000:.2f} ms"
    return Figure("p99 error of a gap", asked, f"{ours * 1000:.2f} ms", ours <= limit)

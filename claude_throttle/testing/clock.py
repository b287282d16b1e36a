"""A clock that tests move by hand.

A throttler given this clock waits without real time passing. Only its own waits: latencies of the
fake server, and the sockets between, still take real seconds.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any, Optional

#: Seconds of real time after which a wait ends that no test has ended.
REAL_SECONDS = 30.0

#: Seconds of real time for other threads after each step.
STEP_REAL_SECONDS = 0.02


class ManualClock:
    """A clock for tests: ``Throttler(clock=ManualClock())``. Thread-safe.

    Time stands still until :meth:`advance`; waiting threads wake when their instant is reached, and
    not before::

        clock = ManualClock()
        throttler = Throttler(rpm=60, clock=clock, …)
        first, second = throttler.submit(…), throttler.submit(…)
        first.result()
        clock.wait_for_sleepers(1)   # the worker waits until the second call may be sent
        clock.advance(1.0)
        second.result()
    """

    def __init__(self, start: float = 1_000.0, wall: float = 1_790_000_000.0) -> None:
        # Guards everything here. No other lock is taken while it is held, and no thread notified.
        self._changed = threading.Condition()
        self._now = start
        self._wall_ahead = wall - start
        self._sleepers: dict[int, tuple[threading.Condition, float]] = {}
        self._read = threading.local()

    def monotonic(self) -> float:
        """The current instant, in seconds."""
        with self._changed:
            self._read.at = self._now
            return self._now

    def wall(self) -> float:
        """The current time in seconds since 1970."""
        return self.monotonic() + self._wall_ahead

    def wait(self, condition: threading.Condition, seconds: Optional[float]) -> None:
        """Wait on a held *condition* until it is notified, or time has moved on by *seconds*."""
        me = threading.get_ident()
        with self._changed:
            # Counted from this thread's last reading: time may have been moved since.
            until = getattr(self._read, "at", self._now) + (
                float("inf") if seconds is None else seconds
            )
            if until <= self._now:
                return
            self._sleepers[me] = (condition, until)
            self._changed.notify_all()
        try:
            condition.wait(REAL_SECONDS)
        finally:
            with self._changed:
                self._sleepers.pop(me, None)

    def advance(self, seconds: float) -> None:
        """Move time on by *seconds*, and wake the threads whose instant is reached."""
        with self._changed:
            self._now += seconds
            due = {condition for condition, until in self._sleepers.values() if until <= self._now}
        for condition in due:
            with condition:
                condition.notify_all()

    def advance_until_done(self, *futures: Future[Any], step: float = 1.0) -> float:
        """Move time on in steps until all *futures* are done; return by how many seconds.

        For tests that do not care how long it takes: time moves on while requests are in flight, so
        a server with quotas on the same clock may find two of them too close together. Raises
        TimeoutError after half a minute of real time.
        """
        began = self.monotonic()
        for _ in range(int(REAL_SECONDS / STEP_REAL_SECONDS)):
            if not wait(futures, STEP_REAL_SECONDS).not_done:
                return self.monotonic() - began
            self.advance(step)
        raise TimeoutError(f"not done {self.monotonic() - began:g} s of manual time later")

    def wait_for_sleepers(self, count: int = 1, until_after: float = 0.0) -> None:
        """Return when *count* threads wait for an instant after *until_after*, or without limit.

        Raises TimeoutError after half a minute of real time.
        """

        def enough() -> bool:
            waiting = [until for _, until in self._sleepers.values() if until > until_after]
            return len(waiting) >= count

        with self._changed:
            if not self._changed.wait_for(enough, REAL_SECONDS):
                raise TimeoutError(f"only {len(self._sleepers)} of {count} threads are waiting")

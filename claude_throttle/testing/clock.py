"""A clock that moves when told."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any, Optional

#: Seconds of real time after which a wait that nobody ended gives the test its thread back.
REAL_SECONDS = 30.0

#: Seconds of real time that other threads have after each step.
STEP_REAL_SECONDS = 0.02


class ManualClock:
    """Stands in for the system's clock: ``Throttler(clock=ManualClock())``. Thread-safe.

    Time stands still until :meth:`advance`; threads that wait on it wake when their instant has
    come, and only then::

        clock = ManualClock()
        throttler = Throttler(rpm=60, clock=clock, …)
        first, second = throttler.submit(…), throttler.submit(…)
        first.result()
        clock.wait_for_sleepers(1)   # the worker waits for the second one's turn
        clock.advance(1.0)
        second.result()
    """

    def __init__(self, start: float = 1_000.0, wall: float = 1_790_000_000.0) -> None:
        # Guards everything here. Taken before no other lock, and never held while notifying.
        self._changed = threading.Condition()
        self._now = start
        self._wall_ahead = wall - start
        self._sleepers: dict[int, tuple[threading.Condition, float]] = {}
        self._read = threading.local()

    def monotonic(self) -> float:
        """The instant it was set to."""
        with self._changed:
            self._read.at = self._now
            return self._now

    def wall(self) -> float:
        """Seconds since 1970, moving along."""
        return self.monotonic() + self._wall_ahead

    def wait(self, condition: threading.Condition, seconds: Optional[float]) -> None:
        """Wait on a held *condition* until notified, or until time was moved *seconds* on."""
        me = threading.get_ident()
        with self._changed:
            # From this thread's own last look: time may have been moved since.
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
        """Move time on and wake whoever was waiting for it."""
        with self._changed:
            self._now += seconds
            due = {condition for condition, until in self._sleepers.values() if until <= self._now}
        for condition in due:
            with condition:
                condition.notify_all()

    def advance_until_done(self, *futures: Future[Any], step: float = 1.0) -> float:
        """Move time on, *step* seconds at a time, until all are done; how far it was, in seconds.

        For a test to which it matters that they end, and not how many steps that takes: time goes
        on while a request is on its way, so a server with quotas by the same clock may find two too
        close. Raises TimeoutError if they have not ended after half a minute of real time.
        """
        began = self.monotonic()
        for _ in range(int(REAL_SECONDS / STEP_REAL_SECONDS)):
            if not wait(futures, STEP_REAL_SECONDS).not_done:
                return self.monotonic() - began
            self.advance(step)
        raise TimeoutError(f"not done {self.monotonic() - began:g} s of manual time later")

    def wait_for_sleepers(self, count: int = 1, until_after: float = 0.0) -> None:
        """Return once *count* threads wait for an instant, or for ever, later than *until_after*.

        Raises TimeoutError after half a minute of real time.
        """

        def enough() -> bool:
            waiting = [until for _, until in self._sleepers.values() if until > until_after]
            return len(waiting) >= count

        with self._changed:
            if not self._changed.wait_for(enough, REAL_SECONDS):
                raise TimeoutError(f"only {len(self._sleepers)} of {count} threads are waiting")

"""The only reader of time, and the condition variables on which threads wait for it to pass.

Everything that computes takes ``now`` as an argument; everything that waits, waits here. So a test
can put a :class:`claude_throttle.testing.ManualClock` in this place and move time by hand.
"""

from __future__ import annotations

import contextlib
import threading
import time
from itertools import islice
from typing import Any, Optional, Protocol

#: Seconds. No wait is longer: ``Condition.wait`` overflows on huge numbers, and an hourly look
#: costs nothing.
LONGEST_WAIT_SECONDS = 3600.0


#: Seconds. The main thread looks this often whether Ctrl-C was pressed: a signal that arrives just
#: before a wait begins does not end that wait.
MAIN_THREAD_WAIT_SECONDS = 0.25


def longest_wait() -> float:
    """The longest single wait of this thread, in seconds."""
    if threading.current_thread() is threading.main_thread():
        return MAIN_THREAD_WAIT_SECONDS
    return LONGEST_WAIT_SECONDS


class Clock(Protocol):
    """The time source of a throttler: ``Throttler(clock=…)``.

    Instants are seconds on one monotonic scale. :data:`claude_throttle.SYSTEM_CLOCK` is the
    machine's own; :class:`claude_throttle.testing.ManualClock` moves when a test says so.
    """

    def monotonic(self) -> float:
        """Now, on a scale that never jumps."""
        ...

    def wall(self) -> float:
        """Now, in seconds since 1970; only for reading dates in headers."""
        ...

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on a held *condition* until notified, or until *seconds* have passed.

        May return early; callers look again.
        """
        ...


class SystemClock:
    """The real time of this machine."""

    # Asked several times in each call.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        longest = longest_wait()
        condition.wait(longest if seconds is None else min(seconds, longest))


#: The clock that a throttler uses by default.
SYSTEM_CLOCK = SystemClock()


class Waiter(Protocol):
    """Stands for a waiting thread: a held lock, or what is notified in its place."""

    def release(self) -> None:
        """The condition was notified; its lock is held."""
        ...


class Condition(threading.Condition):
    """A ``threading.Condition`` over an RLock that stays intact when it is interrupted.

    In the standard library's, Ctrl-C in the instant after the lock was released leaves ``wait()``
    without it, and the caller's ``with`` raises RuntimeError in place of KeyboardInterrupt; Ctrl-C
    just after a notify() loses that notification for all waiters. Before Python 3.11, a notify()
    that a signal handler or the garbage collector interrupts with another one raises RuntimeError,
    out of a submit() perhaps: it releases the same waiter again.
    """

    _waiters: Any

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Release the lock, wait for a notify(), at most *timeout* seconds, and take it again.

        False if none came.
        """
        try:
            return self._wait(-1.0 if timeout is None else max(0.0, timeout))
        except BaseException:
            if self._is_owned():  # type: ignore[attr-defined]
                self.notify()  # one may have been for this thread: pass it on to the next
            raise

    def _wait(self, timeout: float) -> bool:
        waiter = threading.Lock()
        waiter.acquire()
        # One C call releases the lock and keeps what restores it: no Python code, so no signal
        # handler, runs in between.
        release = islice(iter(self._release_save, None), 1)  # type: ignore[attr-defined]
        restore, saved = self._acquire_restore, []  # type: ignore[attr-defined,var-annotated]
        notified = False
        try:
            self._waiters.append(waiter)
            saved.extend(release)
            notified = waiter.acquire(True, timeout)
            return notified
        finally:
            try:
                if saved:
                    restore(saved[0])
            finally:
                if not notified:
                    with contextlib.suppress(ValueError):
                        self._waiters.remove(waiter)

    def notify(self, n: int = 1) -> None:
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot notify on a lock that is not held")
        while self._waiters and n > 0:
            waiter = self._waiters[0]
            with contextlib.suppress(RuntimeError):
                waiter.release()
                n -= 1
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def add_waiter(self, waiter: Waiter) -> None:
        """Let the next notify() release *waiter*, once, as it would a thread. Requires the lock."""
        self._waiters.append(waiter)

    def remove_waiter(self, waiter: Waiter) -> None:
        """Undo add_waiter(); nothing happens if it was notified meanwhile."""
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

"""A condition variable that Ctrl-C, or another notify() of the same thread, may interrupt."""

from __future__ import annotations

import contextlib
import threading
from itertools import islice
from typing import Any, Optional, Protocol


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

"""A condition that Ctrl-C may interrupt anywhere, and another notify() of the same thread."""

from __future__ import annotations

import contextlib
import threading
from itertools import islice
from typing import Any, Optional, Protocol


class Waiter(Protocol):
    """Stands for a waiting thread: a held lock, or what is to be told in its place."""

    def release(self) -> None:
        """The condition was notified; its lock is held."""
        ...


class Condition(threading.Condition):
    """As ``threading.Condition``, whose lock must be an RLock, but for what interrupts do to it.

    There, Ctrl-C in the instant after the lock was released left ``wait()`` without it, and the
    caller's ``with`` raised RuntimeError in the place of KeyboardInterrupt; Ctrl-C just after a
    notify() lost that for all who waited. Before Python 3.11, a notify() that a signal handler or
    the collector interrupted with another one raised RuntimeError, out of a submit() perhaps: it
    released the same waiter again.
    """

    _waiters: Any

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Release the lock, wait to be told, at most *timeout* seconds, and take it again.

        False if nobody told.
        """
        try:
            return self._wait(-1.0 if timeout is None else max(0.0, timeout))
        except BaseException:
            if self._is_owned():  # type: ignore[attr-defined]
                self.notify()  # it may have been for us, and the next one must not miss it
            raise

    def _wait(self, timeout: float) -> bool:
        waiter = threading.Lock()
        waiter.acquire()
        # What is restored later stands there once the lock is released, and no Python code, so no
        # signal handler, comes in between.
        release = islice(iter(self._release_save, None), 1)  # type: ignore[attr-defined]
        restore, saved = self._acquire_restore, []  # type: ignore[attr-defined,var-annotated]
        told = False
        try:
            self._waiters.append(waiter)
            saved.extend(release)
            told = waiter.acquire(True, timeout)
            return told
        finally:
            try:
                if saved:
                    restore(saved[0])
            finally:
                if not told:
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
        """Have the next notify() tell *waiter*, once, instead of a thread. Requires the lock."""
        self._waiters.append(waiter)

    def remove_waiter(self, waiter: Waiter) -> None:
        """Undo add_waiter(); nothing happens if it was told meanwhile."""
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

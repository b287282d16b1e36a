"""A condition whose notify() may be interrupted by another notify() of the same thread."""

from __future__ import annotations

import contextlib
import threading
from typing import Any


class Condition(threading.Condition):
    """As ``threading.Condition`` is since Python 3.11.

    Before, a notify() that a signal handler or the collector interrupted with another one raised
    RuntimeError, out of a submit() perhaps: it released the same waiter again.
    """

    _waiters: Any

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

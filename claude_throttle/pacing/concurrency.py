"""How many requests may be in flight, over all lanes of a throttler."""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable, Optional


class Concurrency:
    """Permits, borrowed and put back; ``limit`` None means unbounded, but counted.

    Thread-safe. Giving back only appends to a deque, so that even the garbage collector may.
    """

    def __init__(self, limit: Optional[int]) -> None:
        self.limit = limit
        self._returned: deque[None] = deque()
        # Guards _borrowed and _starved. Never held while calling out.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._borrowed = 0
        self._starved: set[Callable[[], None]] = set()

    @property
    def in_use(self) -> int:
        """Permits that are out."""
        return self._borrowed - len(self._returned)

    def is_free(self) -> bool:
        """A look; by the time you act it may be gone."""
        return self.limit is None or self.in_use < self.limit

    def try_acquire(self) -> bool:
        """Borrow one, if there is one."""
        with self._lock:
            while self._returned:
                self._returned.popleft()
                self._borrowed -= 1
            if self.limit is not None and self._borrowed >= self.limit:
                return False
            self._borrowed += 1
            return True

    def give_back(self) -> None:
        """Put one back, and wake the lanes that found none. Call it with no lane's mutex held."""
        self.give_back_quietly()
        self._wake_starved()

    def give_back_quietly(self) -> None:
        """Put one back and wake nobody; takes no lock. For the garbage collector."""
        self._returned.append(None)

    def starve(self, wake: Callable[[], None]) -> None:
        """Call *wake* once when one has come back."""
        with self._lock:
            self._starved.add(wake)

    def set_limit(self, limit: Optional[int]) -> None:
        """Change how many there are; those that are out stay out."""
        self.limit = limit
        self._wake_starved()

    def _wake_starved(self) -> None:
        if not self._starved:
            return
        with self._lock:
            starved, self._starved = self._starved, set()
        for wake in starved:
            wake()

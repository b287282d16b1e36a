"""What the members of an account tell each other of its suspension."""

from __future__ import annotations

import threading
from typing import Callable, Optional


class SuspensionBroadcast:
    """Of one process. Thread-safe; *hear* is called with another's word, outside the lock."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        # Guards both. Held for an assignment; never while calling out.
        self._lock = threading.RLock()
        #: None = nothing new.
        self._to_tell: Optional[str] = None
        #: As the ledger has it; "" = all is well.
        self.in_force = ""

    @property
    def is_news(self) -> bool:
        """Whether the ledger has to be told."""
        return self._to_tell is not None

    def tell(self, notice: str) -> None:
        """The account is suspended, and why; "" = it is not any more."""
        with self._lock:
            self._to_tell = self.in_force = notice

    def take(self) -> Optional[str]:
        """What is told now."""
        with self._lock:
            notice, self._to_tell = self._to_tell, None
        return notice

    def untold(self, notice: Optional[str]) -> None:
        """It was not told; there may be newer word by now."""
        with self._lock:
            if self._to_tell is None:
                self._to_tell = notice

    def apply(self, notice: str) -> None:
        """What the ledger says."""
        with self._lock:
            is_new = self._to_tell is None and notice != self.in_force
            if is_new:
                self.in_force = notice
        if is_new:
            self._hear(notice)

"""A ledger within one process: the oracle of the others, and what several throttlers may share."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Callable

from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    FleetSnapshot,
)
from claude_throttle.features.sharing.stores.snapshot import fleet_of
from claude_throttle.features.sharing.stores.transaction import AccountRecord, LaneRecord, exchange


class MemoryStore:
    """Thread-safe. *monotonic* tells the time in seconds."""

    name = "memory"

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Guards the records. Held for arithmetic only.
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, str], LaneRecord] = defaultdict(LaneRecord)
        self._accounting: dict[str, AccountRecord] = defaultdict(AccountRecord)

    def exchange(self, account: str, lane: str, order: ExchangeRequest) -> ExchangeResponse:
        """One transaction; cannot fail."""
        with self._lock:
            now = self._monotonic() * SECOND
            return exchange(self._lanes[account, lane], self._accounting[account], order, now)

    def now(self) -> float:
        """Microseconds."""
        return self._monotonic() * SECOND

    def fleet(self) -> FleetSnapshot:
        """All that it holds."""
        with self._lock:
            return fleet_of(self._lanes, self._accounting, self.now())

    def abandon(self) -> None:
        """A child's is its own."""

    def close(self) -> None:
        """Nothing is open."""

"""A store in the memory of one process, for several throttlers there: ``shared="memory://name"``.

It is the reference for the other stores: ``transaction`` and a lock, with nothing around them. A
forked child has its own copy, so it shares nothing with its parent.
"""

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
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    fleet_of,
    transact,
)


class MemoryStore:
    """Keeps the records in dicts. Thread-safe; never fails. *monotonic* is a clock in seconds."""

    name = "memory"

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Guards the records. Held for arithmetic only.
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, str], LaneRecord] = defaultdict(LaneRecord)
        self._accounts: dict[str, AccountRecord] = defaultdict(AccountRecord)

    def transact(self, account: str, lane: str, request: ExchangeRequest) -> ExchangeResponse:
        """One transaction; cannot fail."""
        with self._lock:
            now = self._monotonic() * SECOND
            return transact(self._lanes[account, lane], self._accounts[account], request, now)

    def read_clock(self) -> float:
        """Its time, in microseconds."""
        return self._monotonic() * SECOND

    def fleet(self) -> FleetSnapshot:
        """All lanes and members in this store."""
        with self._lock:
            return fleet_of(self._lanes, self._accounts, self.read_clock())

    def abandon(self) -> None:
        """Nothing to do: a child's copy is its own."""

    def close(self) -> None:
        """Nothing to do: nothing is open."""

"""The offset between the store's clock and the clock of one process.

Reserved instants are by the store's clock: this machine's for SQLite, the server's for Redis. A
process must convert them to its own before it waits, or it would be early or late by the difference
of the two clocks. The wall clocks of two machines are never compared.
"""

from __future__ import annotations

from typing import Optional

from claude_throttle.features.sharing.stores.contract import SECOND


class ClockOffset:
    """How far the store's clock is ahead of this process's monotonic clock.

    Thread-safe without a lock: each method reads or assigns one attribute once.

    The store read its clock between our sending and our receiving, so each exchange bounds the
    offset from both sides. The last estimate is kept as far as it fits: a response that takes
    longer than usual changes nothing, and a clock that was set is followed at once.
    """

    def __init__(self) -> None:
        #: The store's time less ours, in microseconds; None before the first exchange.
        self.ahead: Optional[float] = None

    def observe(self, store_now: float, sent_at: float, received_at: float) -> None:
        """Learn from an exchange: the store's time in microseconds, our two instants in seconds."""
        least, most = store_now - received_at * SECOND, store_now - sent_at * SECOND
        self.ahead = least if self.ahead is None else min(max(self.ahead, least), most)

    def to_local(self, store_now: float) -> float:
        """Convert an instant of the store to our seconds. Only right after the first exchange."""
        return (store_now - (self.ahead or 0.0)) / SECOND

    def to_store(self, now: float) -> float:
        """Convert our *now* to the store's microseconds; far in the future before an exchange.

        So the first request, whose time limit cannot be known yet, is not refused as too late.
        """
        return 1e18 if self.ahead is None else now * SECOND + self.ahead

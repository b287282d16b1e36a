"""The store's clock, as one process knows it."""

from __future__ import annotations

from typing import Optional

from claude_throttle.features.sharing.stores.contract import SECOND


class ClockOffset:
    """How far the store's clock is ahead of ours. One assignment at a time: needs no lock.

    The store read its clock between our sending and our receiving, so each exchange bounds the
    offset from both sides. The last estimate is kept as far as it fits: a response that takes
    longer than usual changes nothing, and a clock that was set is followed at once.
    """

    def __init__(self) -> None:
        #: The store's time less ours, in microseconds; None before the first exchange.
        self.ahead: Optional[float] = None

    def observe(self, store_now: float, sent_at: float, received_at: float) -> None:
        """The store told its time, in microseconds, in an exchange between two instants of ours."""
        least, most = store_now - received_at * SECOND, store_now - sent_at * SECOND
        self.ahead = least if self.ahead is None else min(max(self.ahead, least), most)

    def to_local(self, store_now: float) -> float:
        """An instant of the store, in our seconds. There must have been an exchange."""
        return (store_now - (self.ahead or 0.0)) / SECOND

    def to_store(self, now: float) -> float:
        """Our *now* in the store's microseconds; far in the future before the first exchange."""
        return 1e18 if self.ahead is None else now * SECOND + self.ahead

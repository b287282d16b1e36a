"""What the store's clock says, by ours."""

from __future__ import annotations

from typing import Optional

from claude_throttle.features.sharing.stores.contract import SECOND


class ClockOffset:
    """Of one process. An assignment at a time: needs no lock.

    The store looked at its clock between our asking and our hearing of it, so each exchange bounds
    how far it is ahead of us from both sides. What was believed is kept as far as it fits: so a way
    back that takes longer than usual moves nothing, and a clock that was set is followed at once.
    """

    def __init__(self) -> None:
        #: The store's time less ours, in microseconds; None until it was first heard of.
        self.ahead: Optional[float] = None

    def hear(self, said: float, asked_at: float, now: float) -> None:
        """It *said* its time, in microseconds, to whoever asked at *asked_at* and hears it now."""
        least, most = said - now * SECOND, said - asked_at * SECOND
        self.ahead = least if self.ahead is None else min(max(self.ahead, least), most)

    def instant(self, said: float) -> float:
        """When it was so late there, on our clock. It must have been heard of."""
        return (said - (self.ahead or 0.0)) / SECOND

    def at(self, now: float) -> float:
        """The store's time at our *now*; one that never comes, as long as it is not known."""
        return 1e18 if self.ahead is None else now * SECOND + self.ahead

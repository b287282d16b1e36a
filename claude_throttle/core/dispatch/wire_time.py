"""How long an answer was on the wire, told apart from what its reader did meanwhile.

Whoever reads a stream may take its time between two parts: to work, to build typed events, or to
import the official SDK for the first of them. That is no latency of the API.
"""

from __future__ import annotations

from typing import Callable, Optional

#: Seconds. A read that takes longer had to wait for the server, which was at work until then, its
#: reader's absence included. After a shorter one the part had come before, nobody knows when.
READY_SECONDS = 0.01


class WireTime:
    """Seconds from a send to the last byte of its answer. Belongs to the reading thread."""

    __slots__ = ("_sent_at", "now", "seconds")

    def __init__(self, now: Callable[[], float], sent_at: float) -> None:
        #: The clock of the instants.
        self.now = now
        #: None before the answer begins.
        self.seconds: Optional[float] = None
        self._sent_at = sent_at

    def end_read(self, began: Optional[float] = None) -> None:
        """A part came now. Its reader began to wait at *began*; None: the answer begins with it."""
        now = self.now()
        if began is None or self.seconds is None or now - began > READY_SECONDS:
            self.seconds = now - self._sent_at
        else:
            self.seconds += now - began

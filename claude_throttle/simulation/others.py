"""Clients that spend from the same bucket as ours. Pure arithmetic; not thread-safe.

They stand for other programs with the same key. The throttler cannot see them, only their effect on
``remaining``; with them a test shows whether it makes way in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Optional

#: Requests that are caught up with in one call. Before so many, the bucket was full or empty: older
#: ones make no difference, and a clock that is moved by a year must not take minutes.
MOST_AT_ONCE = 100_000


class OtherClients:
    """Make *per_minute* requests a minute, evenly spaced; ``None``: none."""

    def __init__(self, now: float) -> None:
        self._per_minute: Optional[float] = None
        self._since = now
        self._asked = 0
        #: Requests that were admitted.
        self.taken = 0

    def reshape(self, per_minute: float | None, now: float) -> None:
        """Change the rate from *now* on; the first request comes one interval later."""
        if per_minute != self._per_minute:
            self._per_minute, self._since, self._asked = per_minute, now, 0

    def due(self, now: float) -> Iterator[float]:
        """The instants of the requests since the last call, up to *now*, in order."""
        if self._per_minute is None:
            return
        interval = 60.0 / self._per_minute
        until = math.floor((now - self._since) / interval)
        self._asked = max(self._asked, until - MOST_AT_ONCE)
        while self._asked < until:
            self._asked += 1
            # From the start each time: a sum of intervals would drift.
            yield self._since + self._asked * interval

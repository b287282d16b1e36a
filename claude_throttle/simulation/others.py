"""A client nobody announced: it spends from the same bucket. Pure arithmetic; not thread-safe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Optional

#: Requests made up for at one look. After a rest longer than that the bucket has long been full, or
#: empty: the oldest would not be seen, and a clock moved by a year must not take minutes.
MOST_AT_ONCE = 100_000


class OtherClients:
    """Asks *per_minute* times a minute, evenly spaced; ``None`` asks never."""

    def __init__(self, now: float) -> None:
        self._per_minute: Optional[float] = None
        self._since = now
        self._asked = 0
        #: How many were let in.
        self.taken = 0

    def reshape(self, per_minute: float | None, now: float) -> None:
        """Another rate from *now* on; the first request comes one interval later."""
        if per_minute != self._per_minute:
            self._per_minute, self._since, self._asked = per_minute, now, 0

    def due(self, now: float) -> Iterator[float]:
        """The instants up to *now* at which it asked and that were not yet told, in order."""
        if self._per_minute is None:
            return
        interval = 60.0 / self._per_minute
        until = math.floor((now - self._since) / interval)
        self._asked = max(self._asked, until - MOST_AT_ONCE)
        while self._asked < until:
            self._asked += 1
            # From the start each time: sums of intervals would drift.
            yield self._since + self._asked * interval

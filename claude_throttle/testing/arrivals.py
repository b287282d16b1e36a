"""What reached the fake server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: Where messages are made.
MESSAGES = "/v1/messages"


class Arrival(NamedTuple):
    """One request, as the server saw it."""

    #: Instant, on the clock's monotonic scale, at which the whole request had been read.
    at: float
    model: str
    #: As the server counts them.
    input_tokens: int
    #: What the answer holds; 0 if the request was refused.
    output_tokens: int
    #: HTTP status; 0 for a reset or a stall.
    status: int
    #: The first 200 characters of the last user text.
    nonce: str
    #: Names in lower case, without the two that carry the key.
    headers: Mapping[str, str]
    #: Whether a good answer was made (or begun), even if a fault spoilt it on its way.
    admitted: bool
    #: The last four characters of the key.
    key_tail: str
    #: Admitted requests not yet answered, this one included if it was admitted.
    in_flight: int
    path: str = MESSAGES


class ArrivalLog:
    """Arrivals in their order. Thread-safe; keeps the last *limit*, or all if ``None``."""

    def __init__(self, limit: int | None) -> None:
        # Guards _arrivals: a deque must not be copied while the server appends.
        self._lock = threading.Lock()
        self._arrivals: deque[Arrival] = deque(maxlen=limit)

    def add(self, arrival: Arrival) -> None:
        """Append one; the oldest goes if the log is full."""
        with self._lock:
            self._arrivals.append(arrival)

    def copy(self) -> list[Arrival]:
        """All that are kept, oldest first."""
        with self._lock:
            return list(self._arrivals)

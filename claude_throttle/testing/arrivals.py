"""The log of requests that reached the fake server.

A test compares it with what the throttler believes: the client's own counters cannot show that a
quota was exceeded, only the instants at which the server had each request can. The entries are
immutable, and keys are cut down to their last characters, so a log may be printed when a test
fails.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: The path of messages.
MESSAGES = "/v1/messages"


class Arrival(NamedTuple):
    """One request, as the server received it."""

    #: The instant on the monotonic scale at which the request had been read completely.
    at: float
    model: str
    #: As the server's tokenizer counts them.
    input_tokens: int
    #: Tokens of the response; 0 if the request was refused.
    output_tokens: int
    #: HTTP status; 0 for a reset or a stall.
    status: int
    #: The first 200 characters of the last user text.
    nonce: str
    #: With names in lower case, without the two that contain the key.
    headers: Mapping[str, str]
    #: Whether a successful response was made (or begun), even if a fault cut it off.
    admitted: bool
    #: The last four characters of the key.
    key_tail: str
    #: Admitted requests without a complete response, including this one if it was admitted.
    in_flight: int
    path: str = MESSAGES
    #: What follows the path in the URL, without its question mark.
    query: str = ""


class ArrivalLog:
    """Arrivals in order. Thread-safe; keeps the last *limit*, or all if that is ``None``.

    A server that runs for hours needs a limit: each entry keeps the headers of its request, and
    nothing is deleted before the log is full.
    """

    def __init__(self, limit: int | None) -> None:
        # Guards _arrivals: a deque must not be copied while the server appends to it.
        self._lock = threading.Lock()
        self._arrivals: deque[Arrival] = deque(maxlen=limit)

    def append(self, arrival: Arrival) -> None:
        """Append one; a full log drops its oldest."""
        with self._lock:
            self._arrivals.append(arrival)

    def copy(self) -> list[Arrival]:
        """A copy of the log, oldest first.

        It does not change when more requests arrive, so it can be iterated while the server runs.
        """
        with self._lock:
            return list(self._arrivals)

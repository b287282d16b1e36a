"""A circuit breaker: while nothing gets through, one probe at a time instead of every retry.

It opens when several attempts sent one after another have all failed. The order is that of
sending, not of coming back: failures are quick and answers slow, so that with one failure in ten
the first to come back may all be failures.
"""

from __future__ import annotations

import math

#: Attempts sent one after another that must all fail. One failure in ten opens it by accident once
#: in a hundred thousand calls.
FAILURES_IN_A_ROW = 5

#: The same for refusals of a key or model that has just worked: each more is one for nothing.
DOUBTS_IN_A_ROW = 2

#: Seconds between probes. At most five, so that full pace is back within ten of the end.
PROBE_GAPS_SECONDS = (0.5, 1.0, 2.0, 4.0, 5.0)

#: How many attempts back a failure is remembered.
MEMORY = 64

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class CircuitBreaker:
    """The circuit of one lane. Not thread-safe: the lane's mutex guards it.

    Closed: all attempts leave. Open: none before ``probe_at``. Half-open: a probe is on its way. A
    probe that is answered closes the circuit; one that fails or stays silent is followed by the
    next, after a longer gap. Attempts are known by their number in the order of sending.
    """

    def __init__(self) -> None:
        self.state = CLOSED
        self._failed: set[int] = set()
        self._probes = 0
        #: While it is not closed: the instant before which nothing may leave.
        self.probe_at = -math.inf
        #: Number of the first attempt that left as a probe.
        self._first_probe = math.inf
        #: Attempts up to this one left before it closed last: their failures say nothing new.
        self._past = 0

    @property
    def is_open(self) -> bool:
        """Whether only probes may leave."""
        return self.state != CLOSED

    def opens_at(self) -> float:
        """The instant before which nothing may leave; -inf while it is closed."""
        return -math.inf if self.state == CLOSED else self.probe_at

    def probe(self, number: int, now: float) -> None:
        """An attempt leaves while the circuit is not closed."""
        self.state = HALF_OPEN
        self._first_probe = min(self._first_probe, number)
        # A probe that is not answered must not keep the others waiting for its whole time-out.
        self.probe_at = now + self._next_gap()

    def _next_gap(self) -> float:
        gap = PROBE_GAPS_SECONDS[min(self._probes, len(PROBE_GAPS_SECONDS) - 1)]
        self._probes += 1
        return gap

    def record_failure(self, number: int, now: float, in_a_row: int = FAILURES_IN_A_ROW) -> bool:
        """An attempt failed; True if the circuit opens by it, as the last of so many *in_a_row*.

        The failure of an attempt that left before the first probe changes nothing: it is as old as
        those that opened the circuit.
        """
        if self.is_open:
            if number >= self._first_probe:
                self.state = OPEN
            return False
        if number <= self._past or self._streak(number) < in_a_row:
            return False
        self.state = OPEN
        self._failed.clear()
        self._probes = 0
        self.probe_at = now + self._next_gap()
        return True

    def _streak(self, number: int) -> int:
        self._failed.add(number)
        if len(self._failed) > MEMORY:
            self._failed = {failed for failed in self._failed if failed > number - MEMORY}
        first = last = number
        while first - 1 in self._failed:
            first -= 1
        while last + 1 in self._failed:
            last += 1
        return last - first + 1

    def record_answer(self, number: int) -> bool:
        """Note that the server took an attempt; True if the circuit closes by it.

        Answers to attempts before the first probe do not count: they may be from before the outage.
        """
        if self.state == CLOSED or number < self._first_probe:
            return False
        self.close(number)
        return True

    def close(self, number: int) -> None:
        """Let everything leave again; *number* is that of the last attempt that left."""
        self.state = CLOSED
        self._past = max(self._past, number)
        self._first_probe = math.inf
        self._failed.clear()

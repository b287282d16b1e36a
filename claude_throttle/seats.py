"""The places in flight that one process has of those it shares."""

from __future__ import annotations

import json
import os
import socket
from typing import Callable

from claude_throttle.flow.lane import Lane
from claude_throttle.ledgers.contract import SECOND, Seat
from claude_throttle.pacing.concurrency import Concurrency

#: Places asked for beyond what is in flight, at most.
MOST_WANTED = 20

#: Seconds between looks for a place, at least.
LEAST_PATIENCE_SECONDS = 0.005


def member_name() -> str:
    """One for each process, also for two of the same number on two machines."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


class Seats:
    """Of one process. Thread-safe: it reads what others guard, and sets one number."""

    def __init__(
        self,
        permits: Concurrency,
        lanes: Callable[[], list[Lane]],
        median_latency: Callable[[], float],
        lease_seconds: float,
    ) -> None:
        self._permits = permits
        self._lanes = lanes
        self._median_latency = median_latency
        self._lease_seconds = lease_seconds
        #: As the ledger has it.
        self.held = 0
        if permits.told is not None:
            permits.grant(0)

    @property
    def _waiting(self) -> int:
        return sum(int(lane.backlog.load.requests) for lane in self._lanes())

    @property
    def busy(self) -> bool:
        """Whether anything waits or is out."""
        return self._permits.in_use > 0 or self._waiting > 0

    @property
    def hungry(self) -> bool:
        """Whether somebody waits for a place."""
        told = self._permits.told
        return (
            told is not None and self._waiting > 0 and self._permits.in_use >= self._permits.granted
        )

    def patience(self, most: float) -> float:
        """Seconds until the next look."""
        if not self.hungry:
            return most
        return min(most, max(LEAST_PATIENCE_SECONDS, self._median_latency() / 4.0))

    def seat(self) -> Seat:
        """What to ask the ledger for."""
        shared, waiting = self._permits.told is not None, self._waiting
        in_use = self._permits.hold_still() if shared else self._permits.in_use
        return self._seat(in_use, in_use + min(MOST_WANTED, waiting))

    def none(self) -> Seat:
        """Nothing any more."""
        return self._seat(0, 0)._replace(lease=0.0)

    def _seat(self, in_use: int, want: int) -> Seat:
        self.held = max(in_use, want)
        limit = float(self._permits.told or 0)
        return Seat(in_use, want, limit, self._lease_seconds * SECOND, self._info())

    def _info(self) -> str:
        lanes = {lane.name: [lane.backlog.calls, lane.in_flight()] for lane in self._lanes()}
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "lanes": lanes})

    def grant(self, places: int) -> None:
        """The ledger has answered."""
        if self._permits.told is not None:
            self._permits.grant(places)

    def alone(self, members: int) -> None:
        """The ledger is silent: our part of all places."""
        if self._permits.told is not None:
            self._permits.grant(max(1, self._permits.told // max(1, members)))

"""The places in flight that one process has of those it shares."""

from __future__ import annotations

import json
import math
import os
import socket
from typing import Callable

from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.shared_concurrency_limit import SharedConcurrencyLimit
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    MemberClaim,
)

#: Places asked for beyond what is in flight, at most.
MOST_WANTED = 20

#: Seconds between looks for a place, at least.
LEAST_PATIENCE_SECONDS = 0.005


def member_name() -> str:
    """One for each process, also for two of the same number on two machines."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


class ConcurrencyShare:
    """Of one process. Thread-safe: it reads what others guard, and sets one number."""

    def __init__(
        self,
        limiter: ConcurrencyLimiter,
        lanes: Callable[[], list[Lane]],
        median_latency: Callable[[], float],
        lease_seconds: float,
        time: ClockOffset,
        monotonic: Callable[[], float],
        hurry: Callable[[], None],
    ) -> None:
        self._limiter = limiter
        self._lanes = lanes
        self._median_latency = median_latency
        self.lease_seconds = lease_seconds
        self._time = time
        self._monotonic = monotonic
        self._hurry = hurry
        self._places = SharedConcurrencyLimit()
        #: The ledger cannot be asked now.
        self._is_alone = True
        #: As the ledger has it.
        self.held = 0
        if self._is_shared:
            limiter.grant(0)

    def too_many(self) -> None:
        """The server refused one more: nobody may take its place before all know."""
        least = 1 if self._is_alone else 0
        self._limiter.grant(max(least, min(self._limiter.granted, self._limiter.in_use - 1)))
        if not self._is_alone:
            self._places.refused(self._time.at(self._monotonic()))
            self._hurry()

    @property
    def _is_shared(self) -> bool:
        """Whether there is a number of places to share out."""
        return self._limiter.of_all < math.inf

    @property
    def _waiting(self) -> int:
        return sum(int(lane.backlog.load.requests) for lane in self._lanes())

    @property
    def busy(self) -> bool:
        """Whether anything waits or is out."""
        return self._limiter.in_use > 0 or self._waiting > 0

    @property
    def wants_slot(self) -> bool:
        """Whether somebody waits for a place, or has to tell that there are fewer."""
        return self._places.has_pending or (
            self._is_shared and self._waiting > 0 and self._limiter.in_use >= self._limiter.granted
        )

    def patience(self, most: float) -> float:
        """Seconds until the next look."""
        if not self.wants_slot:
            return most
        return min(most, max(LEAST_PATIENCE_SECONDS, self._median_latency() / 4.0))

    def order(self, member: str, not_after: float) -> ExchangeRequest:
        """What to ask the ledger for."""
        is_shared, waiting = self._is_shared, self._waiting
        in_use = self._limiter.hold_still() if is_shared else self._limiter.in_use
        want = in_use + (min(MOST_WANTED, waiting) if is_shared else 0)
        order = ExchangeRequest(member, not_after, (), seat=self._seat(in_use, want))
        at = self._time.at(self._monotonic())
        return self._places.order(order, at, in_use, waiting > 0)

    def none(self) -> MemberClaim:
        """Nothing any more."""
        return self._seat(0, 0)._replace(lease=0.0)

    def _seat(self, in_use: int, want: int) -> MemberClaim:
        self.held = max(in_use, want)
        limit = float(self._limiter.of_all) if self._is_shared else 0.0
        return MemberClaim(in_use, want, limit, self.lease_seconds * SECOND, self._info())

    def _info(self) -> str:
        lanes = {lane.name: [lane.backlog.calls, lane.in_flight()] for lane in self._lanes()}
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "lanes": lanes})

    def apply(self, order: ExchangeRequest, reply: ExchangeResponse) -> None:
        """The ledger has answered."""
        self._is_alone = False
        self._places.apply(order, reply)
        if self._places.found is not None:
            self._limiter.keep_to(self._places.found.places)
        self._limiter.grant(reply.granted if self._is_shared else math.inf)

    def alone(self, members: int) -> None:
        """The ledger is silent: our part of all places."""
        self._is_alone = True
        of_all = self._limiter.of_all
        self._limiter.grant(max(1, of_all // max(1, members)) if self._is_shared else of_all)

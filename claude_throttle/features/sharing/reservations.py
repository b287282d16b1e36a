"""Slots: instants at which one of several processes may let a call leave."""

from __future__ import annotations

from collections import deque
from typing import Callable, NamedTuple, Optional

from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
)

#: Seconds by which a slot may be missed. Where nothing may be saved up, whoever comes later would
#: leave on the heels of the next; where something may, it is as much, but at most this.
LATE_SECONDS = 0.005
MOST_LATE_SECONDS = 0.1


class Reservation(NamedTuple):
    """The right to leave at an instant."""

    #: On our clock, in seconds.
    at: float
    #: What was reserved, by the name of the bucket.
    units: dict[str, float]
    #: What all had taken by then, by the same names.
    taken: dict[str, float]


class Reservations:
    """Those of one lane, earliest first. Not thread-safe: the lane's mutex guards it.

    *unused* is called with what was reserved and will not be used.
    """

    def __init__(self, unused: Callable[[Reservation], None]) -> None:
        self._slots: deque[Reservation] = deque()
        self._unused = unused
        #: Seconds by which one may be missed now.
        self.late = LATE_SECONDS
        #: The last was missed. A thread that is always woken late would else never leave:
        #: what it reserves again lies behind all that others have reserved meanwhile.
        self._luckless = False

    def __len__(self) -> int:
        return len(self._slots)

    def next(self, now: float) -> Optional[Reservation]:
        """The first that is not missed. A pure look."""
        missed = None
        for slot in self._slots:
            if now <= slot.at + self.late:
                return missed or slot
            missed = slot if self._luckless else None
        return missed

    def use(self, now: float) -> Reservation:
        """Use it up; without one, a slot for which nothing was reserved."""
        used = self.next(now)
        # One that was missed may be used after one that was lost; never two at once.
        self._luckless = bool(self._slots) and now > self._slots[0].at + self.late
        while self._slots and self._slots[0] is not used:
            self._unused(self._slots.popleft())
        return self._slots.popleft() if self._slots else Reservation(now, {}, {})

    def missed(self, now: float) -> None:
        """None of them will be used, perhaps because none is left in time."""
        self._luckless = self._luckless or (bool(self._slots) and self.next(now) is None)
        self.release()

    def release(self) -> None:
        """None of them will be used."""
        while self._slots:
            self._unused(self._slots.popleft())

    def forget(self) -> None:
        """There are none, and nobody needs to know."""
        self._slots.clear()

    def add(self, order: ExchangeRequest, reply: ExchangeResponse, now: float) -> None:
        """Those that a ledger gave at *now*."""
        names = [bucket.name for bucket in order.buckets]
        taken = dict(zip(names, reply.taken))
        given: list[Reservation] = []
        # When the last was given, all had taken what they have now; each before it saw less.
        for wait, units in reversed(list(zip(reply.waits, order.slots))):
            by_name = dict(zip(names, units))
            given.append(Reservation(now + wait / SECOND, by_name, dict(taken)))
            for name, some in by_name.items():
                taken[name] -= some
        self._slots.extend(reversed(given))
        # Seconds' worth of requests that may be saved up, by the strictest quota.
        saved = [(b.burst - 1.0) * b.interval / SECOND for b in order.buckets if b.strict]
        self.late = min(MOST_LATE_SECONDS, max(LATE_SECONDS, min(saved, default=0.0)))

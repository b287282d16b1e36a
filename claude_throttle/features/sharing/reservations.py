"""What one lane has reserved in the store, and the changes that it still has to report.

A reservation is an instant at which a call may leave. It can be used, become too late, or be given
back; each unit of it must be reported once, or the quota that all processes share would shrink (a
unit lost) or be exceeded (a unit given back twice).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Callable, NamedTuple, Optional

from claude_throttle.features.sharing.degraded_mode import AnyQuota
from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    StoredBucket,
)

#: Seconds by which a reservation may be used late, at least and at most. In between it is what may
#: be saved up, and a twentieth of the interval: where nothing may be saved up (burst 1), a call
#: that is later would leave right before the next one. But one that is too late loses its turn for
#: all: where a busy machine wakes a process 6 ms late, that is a whole second at 60 a minute.
LATE_SECONDS = 0.005
MOST_LATE_SECONDS = 0.1
LATE_SHARE = 0.05


class Reservation(NamedTuple):
    """The right of one call to leave at an instant."""

    #: The instant by this process's monotonic clock, in seconds.
    at: float
    #: The units reserved, by bucket.
    units: dict[str, float]
    #: The units that all members had taken by then, by bucket.
    taken: dict[str, float]


class Reservations:
    """The reservations of one lane, earliest first. Not thread-safe: the lane's mutex guards it.

    *unused* is called with each reservation that will not be used.
    """

    def __init__(self, unused: Callable[[Reservation], None]) -> None:
        self._reserved: deque[Reservation] = deque()
        self._unused = unused
        #: Seconds by which a reservation may be used late, by the quotas of the last exchange.
        self.late = LATE_SECONDS
        #: Whether the next reservation may be used however late, since the one before expired
        #: unused. Otherwise a slow thread would never send: each new reservation of it lies behind
        #: all that others have reserved meanwhile.
        self._allows_late_use = False

    def __len__(self) -> int:
        return len(self._reserved)

    def next_reservation(self, now: float) -> Optional[Reservation]:
        """The first reservation that may be used, now or later; None if there is none."""
        late = None
        for reservation in self._reserved:
            if now <= reservation.at + self.late:
                return late or reservation
            late = reservation if self._allows_late_use else None
        return late

    def use(self, now: float) -> Reservation:
        """Use up the next reservation; without one, return a reservation of nothing."""
        used = self.next_reservation(now)
        # A late use is allowed after an expiry; never two at once.
        self._allows_late_use = bool(self._reserved) and now > self._reserved[0].at + self.late
        while self._reserved and self._reserved[0] is not used:
            self._unused(self._reserved.popleft())
        return self._reserved.popleft() if self._reserved else Reservation(now, {}, {})

    def drop_expired(self, now: float) -> None:
        """Give back all that are left, since new ones are about to be reserved."""
        expired = bool(self._reserved) and self.next_reservation(now) is None
        self._allows_late_use = self._allows_late_use or expired
        self.release()

    def release(self, before: float = math.inf) -> None:
        """Give back all reservations *before* that instant: a pause has begun, for example."""
        while self._reserved and self._reserved[0].at < before:
            self._unused(self._reserved.popleft())

    def put(self, request: ExchangeRequest, response: ExchangeResponse, now: float) -> None:
        """Add the reservations of *response*, which the store made at *now* by our clock."""
        names = [bucket.name for bucket in request.buckets]
        taken = dict(zip(names, response.taken))
        added: list[Reservation] = []
        # *taken* is what all had taken after the last; before each one, it was less.
        for wait, units in reversed(list(zip(response.waits, request.reservations))):
            by_name = dict(zip(names, units))
            added.append(Reservation(now + wait / SECOND, by_name, dict(taken)))
            for name, some in by_name.items():
                taken[name] -= some
        self._reserved.extend(reversed(added))
        # By the strictest quota of requests.
        strict = [bucket for bucket in request.buckets if bucket.strict]
        late = [(bucket.burst - 1.0 + LATE_SHARE) * bucket.interval / SECOND for bucket in strict]
        self.late = min(MOST_LATE_SECONDS, max(LATE_SECONDS, min(late, default=0.0)))


class QuotaDelta:
    """Changes of one bucket that the store does not know of yet. The lane's mutex guards it.

    The fields are those of :class:`StoredBucket`. What is sent is zeroed at once, so that what
    changes during the exchange is reported by the next one; a failed exchange puts it back.
    """

    __slots__ = ("returned", "seen", "shift", "spent")

    def __init__(self) -> None:
        #: The bucket's instant as the store had it last, in its microseconds.
        self.seen = NEVER
        #: Microseconds that calls cost more, or less, than was reserved.
        self.shift = 0.0
        #: Units that left without a reservation, and units of reservations that were not used.
        self.spent = self.returned = 0.0

    def __bool__(self) -> bool:
        return bool(self.shift or self.spent or self.returned)

    def bucket(self, name: str, quota: AnyQuota) -> StoredBucket:
        """The bucket of *quota*, with these changes."""
        return StoredBucket(
            name,
            SECOND / quota.rate,
            quota.burst,
            self.seen,
            self.shift,
            self.spent,
            returned=self.returned,
            strict=quota.kind == "requests",
        )

    def mark_sent(self) -> None:
        """Forget the changes: a request with them is on its way."""
        self.shift = self.spent = self.returned = 0.0

    def restore(self, bucket: StoredBucket, in_doubt: bool) -> None:
        """Report the changes of *bucket* again: its request was not done.

        If that is *in_doubt*, it may have been done. Then only changes that slow calls down are
        reported again: twice is safe for them, while a unit given back twice exceeds the quota.
        """
        self.shift += max(0.0, bucket.shift) if in_doubt else bucket.shift
        self.spent += bucket.spent
        self.returned += 0.0 if in_doubt else bucket.returned

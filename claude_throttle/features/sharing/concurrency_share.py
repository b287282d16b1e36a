"""The concurrency limit that processes share, and the part of its slots that one process has.

The API documents no limit on requests in flight, but refuses some for it ("Number of concurrent
connections has exceeded your rate limit", seen from 2023 to 2026), so the limit is found. The first
such refusal sets it, for all processes, to what they had in flight. From then on one more is tried
now and then, by a process whose calls wait, and less and less often as that is refused. The limit
is kept in the store; of two processes that change it at the same time, one succeeds.

The coordinator sends the claims made here with its heartbeats, and ``ConcurrencyLimiter`` keeps the
process to what was granted. A process that dies gives its slots back when its lease ends.
"""

from __future__ import annotations

import json
import math
import os
import socket
from typing import Callable, NamedTuple, Optional

from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.pacing.concurrency_limiter import (
    FIRST_GAP_SECONDS,
    LONGEST_GAP_SECONDS,
    ConcurrencyLimiter,
)
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    MemberClaim,
)

#: Slots asked for beyond those in use, at most: those of a process with a long queue are missing
#: in the others until its next claim.
MOST_WANTED = 20

#: Seconds between two requests for a slot, at least; otherwise a quarter of the median latency.
LEAST_PATIENCE_SECONDS = 0.005

#: Seconds after which a count of requests in flight is final: refusals come at once, and what was
#: accepted stays. Two refusals within this time are about the same moment.
SETTLE_SECONDS = 0.25

#: The share of the limit that one refusal takes away, at most: a low count of what was in flight
#: must not bring all processes nearly to a halt.
MOST_AT_ONCE = 0.25

#: How the limit came about: by the first refusal of all, by trying one more, by a later refusal.
FIRST, TRIED, LOWERED = "first", "tried", "lowered"


def member_name() -> str:
    """A unique name for this process.

    Containers on several machines often have the same process id, and sometimes the same host name.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


class ConcurrencyShare:
    """The part of the shared slots that one process has. Thread-safe.

    It holds no lock of its own: it reads what the lanes and the limiter guard, and sets one number.
    *wants_slot* is called, with no lock held, when the store must be asked for a slot at once.
    """

    def __init__(
        self,
        limiter: ConcurrencyLimiter,
        lanes: Callable[[], list[Lane]],
        median_latency: Callable[[], float],
        lease_seconds: float,
        clock_offset: ClockOffset,
        monotonic: Callable[[], float],
        wants_slot: Callable[[], None],
        shown_lanes: Optional[Callable[[], list[Lane]]] = None,
        is_paused: Callable[[], bool] = bool,
    ) -> None:
        """*shown_lanes*: those that people who look at the store see; *lanes* use the slots.

        *is_paused*: whether the process itself called pause(), for those people, too.
        """
        self._is_paused = is_paused
        self._limiter = limiter
        self._lanes = lanes
        self._shown_lanes = shown_lanes or lanes
        self._median_latency = median_latency
        self.lease_seconds = lease_seconds
        self._clock_offset = clock_offset
        self._monotonic = monotonic
        self._wants_slot = wants_slot
        self._shared_limit = SharedConcurrencyLimit()
        #: Whether the store cannot be asked now; True until the first exchange.
        self._store_lost = True
        #: Slots that this process claimed last; while it has any, heartbeats renew its lease.
        self.held = 0
        if self._is_shared:
            limiter.grant(0)

    def too_many(self) -> None:
        """The server refused one more in flight: use one slot less, until all members know."""
        least = 1 if self._store_lost else 0
        self._limiter.grant(max(least, min(self._limiter.granted, self._limiter.in_use - 1)))
        if not self._store_lost:
            self._shared_limit.note_refusal(self._clock_offset.to_store(self._monotonic()))
            self._wants_slot()

    @property
    def _is_shared(self) -> bool:
        """Whether the number of slots is bounded, so that they have to be shared out."""
        return self._limiter.of_all < math.inf

    @property
    def _waiting(self) -> int:
        return sum(int(lane.backlog.load.requests) for lane in self._lanes())

    @property
    def is_busy(self) -> bool:
        """Whether any call waits or is in flight."""
        return self._limiter.in_use > 0 or self._waiting > 0

    @property
    def wants_change(self) -> bool:
        """Whether a call waits for a slot, or a refusal has to be reported."""
        return self._shared_limit.has_pending or (
            self._is_shared and self._waiting > 0 and self._limiter.in_use >= self._limiter.granted
        )

    def patience(self, most: float) -> float:
        """Seconds until the store is asked again."""
        if not self.wants_change:
            return most
        return min(most, max(LEAST_PATIENCE_SECONDS, self._median_latency() / 4.0))

    def make_request(self, member: str, not_after: float) -> ExchangeRequest:
        """Claim the slots in use, and some for the calls that wait."""
        is_shared, waiting = self._is_shared, self._waiting
        in_use = self._limiter.hold_still() if is_shared else self._limiter.in_use
        want = in_use + (min(MOST_WANTED, waiting) if is_shared else 0)
        # No more than this process has connections for: another process may use the rest.
        want = max(in_use, int(min(want, self._limiter.max_connections)))
        request = ExchangeRequest(member, not_after, (), claim=self._claim(in_use, want))
        at = self._clock_offset.to_store(self._monotonic())
        return self._shared_limit.add_to(request, at, in_use, waiting > 0)

    def make_farewell(self, member: str, not_after: float) -> ExchangeRequest:
        """The last request of a process: give back all slots, with a lease that has ended."""
        claim = self._claim(0, 0)._replace(lease=0.0)
        return ExchangeRequest(member, not_after, (), claim=claim)

    def _claim(self, in_use: int, want: int) -> MemberClaim:
        self.held = max(in_use, want)
        limit = float(self._limiter.of_all) if self._is_shared else 0.0
        return MemberClaim(in_use, want, limit, self.lease_seconds * SECOND, self._info())

    def _info(self) -> str:
        lanes = {
            lane.name: [lane.waiting() + lane.backing_off(), lane.in_flight()]
            for lane in self._shown_lanes()
        }
        told = {"host": socket.gethostname(), "pid": os.getpid(), "lanes": lanes}
        if self._is_paused():
            told["paused"] = True
        return json.dumps({**told, "bursts": {lane.name: _bursts(lane) for lane in self._lanes()}})

    def apply_grant(self, request: ExchangeRequest, response: ExchangeResponse) -> None:
        """Keep to the slots that the store granted, and to the limit that it has."""
        self._store_lost = False
        self._shared_limit.apply(request, response)
        if self._shared_limit.found is not None:
            self._limiter.keep_to(self._shared_limit.found.slots)
        self._limiter.grant(response.granted if self._is_shared else math.inf)

    def lose_store(self, members: int) -> None:
        """The store cannot be reached: keep to one of *members* equal parts of all slots."""
        self._store_lost = True
        of_all = self._limiter.of_all
        self._limiter.grant(max(1, of_all // max(1, members)) if self._is_shared else of_all)


def _bursts(lane: Lane) -> dict[str, float]:
    """Units that may leave at once, by bucket; a store does not know."""
    with lane.mutex:
        told = {name: one.burst for name, one in lane.pacer.configured.by_name().items()}
        learned = {kind: one.burst for kind, one in lane.pacer.learned.items() if one.known}
    return {**told, **learned}


class SharedLimit(NamedTuple):
    """The limit that all members keep to. In the store it is a JSON list in this order."""

    #: Requests in flight, over all members.
    slots: int
    #: Seconds until one more is tried.
    gap: float
    #: When it was changed last, by the store's clock, in microseconds.
    changed_at: float
    #: FIRST, TRIED or LOWERED.
    how: str


class SharedConcurrencyLimit:
    """What one process knows of the shared limit, and how it changes it.

    Used by one exchange at a time, except for note_refusal(), which any thread may call. A refusal
    takes two exchanges: the first gets the others' slots, the second writes the limit made of them.
    """

    def __init__(self) -> None:
        self.found: Optional[SharedLimit] = None
        #: Slots of the other members, as received last.
        self._others = 0
        #: The limit as JSON and its version, as the store has them.
        self._facts = ""
        self._version = 0.0
        #: When we were refused, by the store's time, until it is reported; what the request under
        #: way knows of that; the refusal since which the others' slots were counted.
        self._refused_at: Optional[float] = None
        self._asked: Optional[float] = None
        self._counted: Optional[float] = None

    @property
    def has_pending(self) -> bool:
        """Whether a refusal has to be reported."""
        return self._refused_at is not None

    def note_refusal(self, at: float) -> None:
        """The server refused a request for too many connections, at the store's time *at*."""
        if self._refused_at is None:  # otherwise it is one of the same moment
            self._refused_at = at

    def add_to(
        self, request: ExchangeRequest, at: float, in_use: int, calls_wait: bool
    ) -> ExchangeRequest:
        """Add to *request* the limit that is to hold from now on, if that has changed."""
        found = self._changed(at, calls_wait, in_use + self._others)
        facts = "" if found is None else json.dumps(found, separators=(",", ":"))
        new_facts = None if facts == self._facts else facts
        return request._replace(version=self._version, facts=new_facts)

    def _changed(self, at: float, calls_wait: bool, in_flight: int) -> Optional[SharedLimit]:
        found, refused_at = self.found, self._refused_at
        self._asked = refused_at
        if refused_at is not None:
            # Count the others first: they may have begun a moment ago.
            return self._lowered(refused_at, in_flight) if refused_at == self._counted else found
        if found is None or not calls_wait or in_flight < found.slots:
            return found
        if 0.0 <= at - found.changed_at < found.gap * SECOND:
            return found
        return SharedLimit(found.slots + 1, found.gap, at, TRIED)

    def _lowered(self, at: float, in_flight: int) -> SharedLimit:
        found, let_in = self.found, max(1, in_flight)
        if found is None:
            return SharedLimit(let_in, FIRST_GAP_SECONDS, at, FIRST)
        if found.how != TRIED and abs(at - found.changed_at) < SETTLE_SECONDS * SECOND:
            # A refusal of the same moment: the later count is the better one.
            return found._replace(slots=let_in) if found.how == FIRST else found
        gap = min(LONGEST_GAP_SECONDS, 2.0 * found.gap) if found.how == TRIED else found.gap
        least = max(let_in, int(found.slots * (1.0 - MOST_AT_ONCE)))
        return SharedLimit(max(1, min(found.slots - 1, least)), gap, at, LOWERED)

    def apply(self, request: ExchangeRequest, response: ExchangeResponse) -> None:
        """Adopt the response to add_to()'s request. A store that lost the limit gets it again."""
        in_use = request.claim.in_use if request.claim is not None else 0
        self._others = response.in_flight - max(response.granted, in_use)
        self._version, self._facts = response.version, response.facts
        if response.facts:
            self.found = SharedLimit(*json.loads(response.facts))
        was_reported = self._asked is not None and self._asked == self._counted
        if was_reported and request.facts in (None, response.facts):
            self._refused_at = None
        self._counted = self._asked

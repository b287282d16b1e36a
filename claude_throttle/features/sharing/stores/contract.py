"""The contract of a store: what it is asked, and what it answers, in one kind of transaction.

For each account and lane, a store keeps the instants of the quotas, a pause and what was learned;
for each account, its members, their slots in flight, and whether it is suspended. A transaction
reserves instants in the future at which a call may leave; the process that holds such a reservation
waits for it by itself and asks no more.

One transaction carries all that a process has to ask and to report, since in Redis each is a round
trip. Instants are microseconds by the store's own clock, and doubles, so that a file, a Redis
script and Python compute alike to the last digit. A tuple of one kind is in the order of
``ExchangeRequest.buckets``, in the response, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Protocol

#: An instant before all others: the bucket is full. Microseconds.
NEVER = -1e18

#: Microseconds in a second.
SECOND = 1e6


class StoredBucket(NamedTuple):
    """One quota as a process knows it, and what became of it since that process reported last."""

    name: str
    #: Microseconds in which one unit accrues.
    interval: float
    #: Units that may leave at once.
    burst: float
    #: The instant at which it was empty, as seen last; used where the store has lost its own.
    seen: float = NEVER
    #: Microseconds: what left cost so much more (or less) than was reserved.
    shift: float = 0.0
    #: Units that left without a reservation, while the store could not be reached. What accrued
    #: meanwhile paid for them, or what had been saved up before: so nothing is saved up now.
    spent: float = 0.0
    #: Microseconds by which the server's headers move the instant; see ExchangeRequest.version.
    correction: float = 0.0
    #: Units of reservations that will not be used.
    returned: float = 0.0
    #: Units that must stay in the bucket when an instant is reserved.
    keep: float = 0.0
    #: Microseconds kept between reservations beyond what accrues.
    margin: float = 0.0
    #: Requests, not tokens. After a pause, one may leave at once and no more. Where nothing may be
    #: saved up, a reservation is given back only if nothing was reserved after it: otherwise two
    #: would leave in one instant.
    strict: bool = False


class MemberClaim(NamedTuple):
    """The slots in flight that one member of the account has and wants.

    A heartbeat carries one. The store grants free slots, and divides them equally among the members
    that want some; what is in use is never taken away.
    """

    in_use: int
    #: Slots wanted, those in use included; granted if they are free.
    want: int
    #: Requests in flight at most, over all members; 0 for no limit.
    limit: float
    #: Microseconds after which the member counts as gone, unless it claims again.
    lease: float
    #: The member's host, process id and lanes, as JSON, for people to read.
    info: str = "{}"


class ExchangeRequest(NamedTuple):
    """All that a process asks and reports in one transaction. Immutable.

    It is done as a whole or not at all, in this order: corrections and reports, the pause, then the
    reservations, which see the effect of the others.
    """

    member: str
    #: The store's time after which nothing may be done: the process does not wait any longer.
    not_after: float
    buckets: tuple[StoredBucket, ...]
    #: Units of each bucket, for each instant to be reserved.
    reservations: tuple[tuple[float, ...], ...] = ()
    #: Microseconds from the first reservation after which no further one is made.
    horizon: float = 0.0
    #: ExchangeResponse.sequence of this member's last reservation; see StoredBucket.strict.
    sequence: float = -1.0
    #: Microseconds, from now, in which nothing may leave; 0 = no pause begins.
    pause: float = 0.0
    #: What is added to each running total: units that calls turned out to cost.
    counts: tuple[tuple[str, float], ...] = ()
    #: The version that the corrections and the facts were made from. They count only while it is
    #: the store's: two processes that have seen the same must not both correct it.
    version: float = 0.0
    #: What was learned; None = nothing new. JSON.
    facts: Optional[str] = None
    #: Why the account is suspended (JSON); "" = it is not; None = nothing new.
    notice: Optional[str] = None
    #: None where no slots are asked for.
    claim: Optional[MemberClaim] = None


class ExchangeResponse(NamedTuple):
    """The store's answer to one :class:`ExchangeRequest`. Immutable."""

    #: The store's time, in microseconds.
    now: float
    #: False: the request came too late, and nothing was done.
    done: bool
    #: Microseconds from now until each reserved instant.
    waits: tuple[float, ...] = ()
    #: The instant of each bucket.
    empty_at: tuple[float, ...] = ()
    #: Units that all members together ever took from each bucket, reserved ones included.
    taken: tuple[float, ...] = ()
    sequence: float = 0.0
    #: Nothing leaves before this instant.
    pause_until: float = NEVER
    #: The running totals that were asked for.
    totals: tuple[float, ...] = ()
    version: float = 0.0
    facts: str = ""
    notice: str = ""
    #: Slots of this member; as many as it wanted where nothing bounds them.
    granted: int = 0
    #: Members of the account, this one included, and the slots that all have.
    members: int = 0
    in_flight: int = 0


class StoredLane(NamedTuple):
    """One lane in a store, for the report that ``fleet()`` gives."""

    account: str
    lane: str
    #: By bucket: units that may leave now, and units per second.
    levels: dict[str, tuple[float, float]]
    #: Seconds for which it is paused.
    paused_seconds: float
    #: What was learned. JSON, or "".
    facts: str
    #: The running totals, see ``ExchangeRequest.counts``.
    totals: Mapping[str, float] = {}


class StoredMember(NamedTuple):
    """One process of an account, for the report that ``fleet()`` gives."""

    account: str
    member: str
    in_flight: int
    #: Seconds until it counts as gone.
    expires_seconds: float
    #: The member's host, process id and lanes, as JSON.
    info: str


class FleetSnapshot(NamedTuple):
    """All lanes, members and suspensions in a store, read at about the same moment."""

    lanes: list[StoredLane]
    members: list[StoredMember]
    #: By account: why it is suspended. JSON.
    notices: dict[str, str]
    #: Members whose lease has ended, and which nobody has removed yet.
    gone: Sequence[StoredMember] = ()


class StoreFailed(Exception):
    """The store could not be asked, or did not answer in time. Its text holds no password."""


class Store(Protocol):
    """A place where processes share quotas: memory, a file, or a server.

    One object per process. Thread-safe. A forked child calls abandon() on its copy, and makes its
    own. The only exception that may leave it is StoreFailed; anything else counts as
    a bug, and has the same effect: the store is lost for a while.
    """

    #: Its address without a password, for people to read: "redis://host:6379/0".
    name: str

    def transact(self, account: str, lane: str, request: ExchangeRequest) -> ExchangeResponse:
        """One transaction. Raises :class:`StoreFailed`, at the latest after the timeout."""
        ...

    def read_clock(self) -> float:
        """The store's time, in microseconds. Raises :class:`StoreFailed`."""
        ...

    def fleet(self) -> FleetSnapshot:
        """All lanes and members in the store, of all accounts. Raises :class:`StoreFailed`."""
        ...

    def abandon(self) -> None:
        """Make the parent's connections unusable in a forked child. Takes no lock."""
        ...

    def close(self) -> None:
        """Close what is open. Nothing may be asked afterwards."""
        ...

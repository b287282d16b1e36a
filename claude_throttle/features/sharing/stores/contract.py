"""What a ledger is asked, and what it answers: one exchange, however much it carries.

A ledger keeps, for each account and lane, the instants of the quotas, a pause and what was learned;
for each account, who is there, what they have in flight, and whether it is suspended. An exchange
is one transaction. It reserves slots: instants in the future at which a call may leave. Whoever
holds one waits for it on its own side and asks nobody again.

Instants are microseconds by the ledger's own clock, and doubles, so that a file, a Redis script and
Python count alike to the last digit.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Protocol

#: An instant before all others: the bucket is full. Microseconds.
NEVER = -1e18

#: Microseconds in a second.
SECOND = 1e6


class StoredBucket(NamedTuple):
    """One quota, as whoever asks has it, and what became of it since it was asked last."""

    name: str
    #: Microseconds in which one unit accrues.
    interval: float
    #: Units that may leave at once.
    burst: float
    #: The instant at which it was empty, as seen last; used where the ledger has lost its own.
    seen: float = NEVER
    #: Microseconds: what left cost so much more (or less) than was reserved.
    shift: float = 0.0
    #: Units that left without a reservation, while the ledger could not be reached. What accrued
    #: meanwhile paid for them, or what had been saved up before: so nothing is saved up now.
    spent: float = 0.0
    #: Microseconds by which the server's headers move the instant; see Order.version.
    correction: float = 0.0
    #: Units of reserved slots that will not be used.
    returned: float = 0.0
    #: Units that have to stay in the bucket when a slot is reserved.
    keep: float = 0.0
    #: Microseconds kept between slots beyond what accrues.
    margin: float = 0.0
    #: Requests, not tokens: a pause leaves but one of them, and where nothing may be saved up, what
    #: was reserved goes back only if nobody reserved after it, or two would leave in one instant.
    strict: bool = False


class MemberClaim(NamedTuple):
    """One member of the account, and what it has or wants in flight."""

    in_use: int
    #: At most so many, if there is room.
    want: int
    #: Requests in flight at most, over all members; 0 = unbounded.
    limit: float
    #: Microseconds after which it counts as gone, unless it comes again.
    lease: float
    #: What it tells of itself, for people to read. JSON.
    info: str = "{}"


class ExchangeRequest(NamedTuple):
    """All that is asked in one exchange."""

    member: str
    #: The ledger's time after which nothing may be done any more: nobody waits for it.
    not_after: float
    buckets: tuple[StoredBucket, ...]
    #: Units of each bucket for each slot.
    slots: tuple[tuple[float, ...], ...] = ()
    #: Microseconds from the first slot after which no further one is given.
    horizon: float = 0.0
    #: As told in the reply to the last reservation of this member; see Bucket.strict.
    sequence: float = -1.0
    #: Microseconds, from now, in which nothing may leave; 0 = no pause begins.
    pause: float = 0.0
    #: What is to be added to each running total.
    counts: tuple[tuple[str, float], ...] = ()
    #: Version that the corrections and the facts were made from. They count only while it holds:
    #: two who have seen the same must not both correct it.
    version: float = 0.0
    #: What was learned; None = nothing new. JSON.
    facts: Optional[str] = None
    #: The account is suspended, and why (JSON); "" = it is not; None = nothing new.
    notice: Optional[str] = None
    #: None = not asked: who only reserves need not.
    seat: Optional[MemberClaim] = None


class ExchangeResponse(NamedTuple):
    """What the ledger says."""

    #: The ledger's time.
    now: float
    #: False: it came too late, and nothing was done.
    done: bool
    #: Microseconds from now until each slot.
    waits: tuple[float, ...] = ()
    #: The instant of each bucket.
    empty_at: tuple[float, ...] = ()
    #: Units that all members together ever took from each, reserved ones included.
    taken: tuple[float, ...] = ()
    sequence: float = 0.0
    #: Nothing leaves before this instant.
    pause_until: float = NEVER
    #: The running totals that were asked for.
    totals: tuple[float, ...] = ()
    version: float = 0.0
    facts: str = ""
    notice: str = ""
    #: Requests this member may have in flight; as many as it wanted where nothing bounds them.
    granted: int = 0
    #: Members that are there, this one included, and all they have in flight.
    members: int = 0
    in_flight: int = 0


class StoredLane(NamedTuple):
    """One lane, as a fleet's keeper sees it."""

    account: str
    lane: str
    #: By bucket: units that may leave now, and units per second.
    levels: dict[str, tuple[float, float]]
    #: Seconds for which it is paused.
    paused_seconds: float
    #: What was learned. JSON, or "".
    facts: str


class StoredMember(NamedTuple):
    """One process of an account."""

    account: str
    member: str
    in_flight: int
    #: Seconds until it counts as gone.
    expires_seconds: float
    #: What it tells of itself. JSON.
    info: str


class FleetSnapshot(NamedTuple):
    """All that a ledger holds."""

    lanes: list[StoredLane]
    members: list[StoredMember]
    #: By account: why it is suspended. JSON.
    notices: dict[str, str]


class StoreFailed(Exception):
    """The ledger could not be asked, or did not answer in time. Its text holds no password."""


class Store(Protocol):
    """One per process. Thread-safe; never used by a forked child."""

    #: As people may see it, without a password: "redis://host:6379/0".
    name: str

    def exchange(self, account: str, lane: str, order: ExchangeRequest) -> ExchangeResponse:
        """One transaction. Raises :class:`StoreFailed`, at the latest after the timeout."""
        ...

    def now(self) -> float:
        """The ledger's time; also finds out whether it is there. Raises :class:`StoreFailed`."""
        ...

    def fleet(self) -> FleetSnapshot:
        """All that it holds, over all accounts. Raises :class:`StoreFailed`."""
        ...

    def abandon(self) -> None:
        """In a forked child: nobody here may use what is the parent's. Takes no lock."""
        ...

    def close(self) -> None:
        """Let go of what is open. Nothing may be asked after."""
        ...

"""The records of a store, and what one transaction does to them, in Python.

The memory and SQLite stores run this. Each bucket is one instant, as in ``core/pacing/gcra``: the
time at which it was, or will be, empty. Reserving moves it forward, so nothing has to be refilled.

``exchange.lua`` does the same in a Redis. Both compute in the same order of operations, so that
doubles agree to the last digit; a test runs random histories through both. Change one, change the
other.

Processes of different versions may share a store: the records, the fields of a Redis hash and the
arguments of the script stay as they are, or get new names. The constants below may change: each
process applies its own to the same instants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    FleetSnapshot,
    MemberClaim,
    StoredBucket,
    StoredLane,
    StoredMember,
)

#: Microseconds of tolerance and of rounding; ``core/pacing/gcra`` has the same two, in seconds.
SLACK = 5000.0
ROUNDING = 1.0


class LaneRecord:
    """What a store keeps of one lane. A SQLite file has the values in the order of ``__slots__``.

    The dicts are by bucket: its instant, its interval, the units ever taken, running totals.
    """

    __slots__ = (
        "empty_at",
        "facts",
        "intervals",
        "pause_until",
        "sequence",
        "taken",
        "totals",
        "version",
    )

    def __init__(self) -> None:
        self.empty_at: dict[str, float] = {}
        self.intervals: dict[str, float] = {}
        self.taken: dict[str, float] = {}
        self.totals: dict[str, float] = {}
        self.sequence = 0.0
        self.pause_until = NEVER
        self.version = 0.0
        self.facts = ""


class MemberRecord(NamedTuple):
    """What a store keeps of one member of an account. A SQLite file has it in this order."""

    #: Slots in flight that it has: granted, or in use before it claimed any.
    slots: int
    #: Slots that it wanted when it claimed last.
    want: int
    #: The instant at which its lease ends, after which it counts as gone.
    until: float
    #: The member's host, process id and lanes, as JSON; a store does not read it.
    info: str


class AccountRecord:
    """What a store keeps of one account: its members by name, and why it is suspended, as JSON."""

    __slots__ = ("members", "notice")

    def __init__(self) -> None:
        self.members: dict[str, MemberRecord] = {}
        self.notice = ""


def transact(
    lane: LaneRecord, account: AccountRecord, request: ExchangeRequest, now: float
) -> ExchangeResponse:
    """Do what *request* says, at *now*; changes both records.

    A request that comes too late changes nothing: its process has given up waiting for the answer.
    """
    if now > request.not_after:
        return ExchangeResponse(now, done=False)
    instants = _correct(lane, request, now)
    if request.pause > 0:
        _pause(lane, request, instants, now)
    waits = _reserve(lane, request, instants, now) if request.reservations else ()
    names = [bucket.name for bucket in request.buckets]
    lane.empty_at.update(zip(names, instants))
    if request.notice is not None:
        account.notice = request.notice
    shares = (0, 0, 0)
    if request.claim is not None:
        shares = _claim(account, request.member, request.claim, now)
    return ExchangeResponse(
        now,
        True,
        waits,
        tuple(instants),
        tuple([lane.taken[name] for name in names]),
        lane.sequence,
        lane.pause_until,
        _count(lane, request) if request.counts else (),
        lane.version,
        lane.facts,
        account.notice,
        *shares,
    )


def _count(lane: LaneRecord, request: ExchangeRequest) -> tuple[float, ...]:
    for name, change in request.counts:
        lane.totals[name] = lane.totals.get(name, 0.0) + change
    return tuple(lane.totals[name] for name, _ in request.counts)


def _correct(lane: LaneRecord, request: ExchangeRequest, now: float) -> list[float]:
    """The instants of all buckets, after what the member reports of them."""
    facts, gives_back = request.facts, request.sequence == lane.sequence
    corrects = facts is not None and request.version == lane.version
    instants = [_corrected(lane, bucket, gives_back, corrects, now) for bucket in request.buckets]
    if facts is not None and corrects:
        lane.facts = facts
        lane.version += 1.0
    return instants


# The order is the script's, and matters: a new rate is applied to the level, then what left is
# settled, then the headers' correction; what is given back comes before units that left without a
# reservation, which leave nothing saved up.
def _corrected(
    lane: LaneRecord, bucket: StoredBucket, gives_back: bool, corrects: bool, now: float
) -> float:
    # Each field is unpacked once: this runs for every bucket of every exchange.
    name, interval, burst, seen, shift, spent, correction, returned, _, _, strict = bucket
    empty_at = lane.empty_at.get(name)
    if empty_at is None:
        empty_at = seen
        lane.intervals[name] = interval
    elif lane.intervals[name] != interval:  # another rate; the level stays where it is
        before = lane.intervals[name]
        empty_at = max(empty_at, now - burst * before)
        empty_at = now - (now - empty_at) / before * interval
        lane.intervals[name] = interval
    empty_at += shift
    taken = lane.taken.get(name, 0.0) + shift / interval
    if corrects:
        empty_at += correction
    if returned > 0:
        taken -= returned
        if gives_back or not strict or burst >= 2.0:
            empty_at -= returned * interval
    if spent > 0:
        taken += spent
        empty_at = max(empty_at, now)
    lane.taken[name] = taken
    return empty_at


def take(empty_at: float, interval: float, burst: float, units: float, at: float) -> float:
    """The new instant after *units* left, or will leave, at *at*."""
    full_at = at - burst * interval - ROUNDING
    if empty_at < full_at - SLACK:
        empty_at = full_at
    return empty_at + units * interval


def _pause(lane: LaneRecord, request: ExchangeRequest, instants: list[float], now: float) -> None:
    lane.pause_until = max(lane.pause_until, now + request.pause)
    # Earlier reservations are stale; later ones begin with one request, not with what was saved up.
    for index, bucket in enumerate(request.buckets):
        if bucket.strict:
            least = lane.pause_until - min(bucket.burst, 1.0) * bucket.interval
            instants[index] = max(instants[index], least)


# Each reservation is made behind the one before, in every bucket that its call needs: the call
# leaves when the last of its buckets is ready. The first is always made, however late it is.
def _reserve(
    lane: LaneRecord, request: ExchangeRequest, instants: list[float], now: float
) -> tuple[float, ...]:
    waits: list[float] = []
    buckets, taken = request.buckets, lane.taken
    at = first = max(now, lane.pause_until)
    # No calls of min() and max() here: they would be a fifth of a reservation in memory.
    for costs in request.reservations:
        for bucket, empty_at, cost in zip(buckets, instants, costs):
            if cost > 0:
                units, burst = cost + bucket.keep, bucket.burst
                if units > burst:
                    units = burst
                ready_at = empty_at + units * bucket.interval + bucket.margin
                if ready_at > at:
                    at = ready_at
        if not waits:
            first = at
        elif at > first + request.horizon:
            break
        for index, cost in enumerate(costs):
            if cost > 0:
                bucket = buckets[index]
                instants[index] = take(instants[index], bucket.interval, bucket.burst, cost, at)
                taken[bucket.name] += cost
        waits.append(at - now)
    if waits:
        lane.sequence += 1.0
    return tuple(waits)


# Leases that have ended are removed here, with the next claim of any member: a store has no thread.
def _claim(
    account: AccountRecord, member: str, claim: MemberClaim, now: float
) -> tuple[int, int, int]:
    members = account.members
    for name in [name for name, held in members.items() if held.until <= now]:
        del members[name]
    others = [held for name, held in members.items() if name != member]
    granted = _granted(claim, others)
    slots = max(granted, claim.in_use)
    members[member] = MemberRecord(slots, claim.want, now + claim.lease, claim.info)
    return granted, len(members), slots + sum(held.slots for held in others)


def _granted(claim: MemberClaim, others: list[MemberRecord]) -> int:
    """Slots for one member: the free ones, less the share of the others that wait for some."""
    if claim.limit <= 0:
        return claim.want
    granted = min(claim.want, claim.limit - sum(held.slots for held in others))
    if any(held.want > held.slots for held in others):
        wanting = 1 + sum(held.want > 0 for held in others)
        share = claim.limit // wanting
        if share < 1:  # more members than slots: one each, first come, first served
            granted = min(granted, 1)
        else:
            due = sum(max(held.slots, min(held.want, share)) for held in others)
            granted = min(granted, claim.limit - due)
    return int(max(0.0, granted))


# -- for people to read ----------------------------------------------------------------------------


def fleet_of(
    lanes: Mapping[tuple[str, str], LaneRecord],
    accounts: Mapping[str, AccountRecord],
    now: float,
) -> FleetSnapshot:
    """The report for ``fleet()``: all members, and all lanes."""
    members = [
        StoredMember(account, name, held.slots, (held.until - now) / SECOND, held.info)
        for account, record in accounts.items()
        for name, held in record.members.items()
    ]
    return FleetSnapshot(
        [_stored_lane(account, lane, record, now) for (account, lane), record in lanes.items()],
        [member for member in members if member.expires_seconds > 0],
        {account: record.notice for account, record in accounts.items() if record.notice},
        [member for member in members if member.expires_seconds <= 0],
    )


def _stored_lane(account: str, lane: str, record: LaneRecord, now: float) -> StoredLane:
    levels = {
        name: ((now - empty_at) / record.intervals[name], SECOND / record.intervals[name])
        for name, empty_at in record.empty_at.items()
    }
    paused = max(0.0, (record.pause_until - now) / SECOND)
    return StoredLane(account, lane, levels, paused, record.facts, dict(record.totals))

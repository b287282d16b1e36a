"""What one exchange does, in Python. ``exchange.lua`` does the same to the last digit.

Both count in the same order of operations, so that doubles agree; a test runs random histories
through both. Change one, change the other.
"""

from __future__ import annotations

from typing import NamedTuple

from claude_throttle.features.sharing.stores.contract import (
    NEVER,
    ExchangeRequest,
    ExchangeResponse,
    MemberClaim,
    StoredBucket,
)

#: Microseconds. See pacing/quota.py, which counts in seconds.
SLACK = 1000.0
ROUNDING = 1.0


class LaneRecord:
    """What a ledger keeps of one lane."""

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
    """What one member has of an account's places in flight."""

    places: int
    want: int
    #: When it counts as gone.
    until: float
    #: What it tells of itself. JSON.
    info: str


class AccountRecord:
    """What a ledger keeps of one account."""

    __slots__ = ("members", "notice")

    def __init__(self) -> None:
        self.members: dict[str, MemberRecord] = {}
        self.notice = ""


def exchange(
    lane: LaneRecord, account: AccountRecord, order: ExchangeRequest, now: float
) -> ExchangeResponse:
    """Do what *order* says, at *now*; changes both records."""
    if now > order.not_after:
        return ExchangeResponse(now, done=False)
    instants = _correct(lane, order, now)
    if order.pause > 0:
        _pause(lane, order, instants, now)
    waits = _reserve(lane, order, instants, now) if order.slots else ()
    names = [bucket.name for bucket in order.buckets]
    lane.empty_at.update(zip(names, instants))
    if order.notice is not None:
        account.notice = order.notice
    seated = (0, 0, 0)
    if order.seat is not None:
        seated = _seat(account, order.member, order.seat, now)
    return ExchangeResponse(
        now,
        True,
        waits,
        tuple(instants),
        tuple([lane.taken[name] for name in names]),
        lane.sequence,
        lane.pause_until,
        _count(lane, order) if order.counts else (),
        lane.version,
        lane.facts,
        account.notice,
        *seated,
    )


def _count(lane: LaneRecord, order: ExchangeRequest) -> tuple[float, ...]:
    for name, change in order.counts:
        lane.totals[name] = lane.totals.get(name, 0.0) + change
    return tuple(lane.totals[name] for name, _ in order.counts)


def _correct(lane: LaneRecord, order: ExchangeRequest, now: float) -> list[float]:
    """The instants of all buckets, after what became of them since."""
    facts, gives_back = order.facts, order.sequence == lane.sequence
    corrects = facts is not None and order.version == lane.version
    instants = [_corrected(lane, bucket, gives_back, corrects, now) for bucket in order.buckets]
    if facts is not None and corrects:
        lane.facts = facts
        lane.version += 1.0
    return instants


def _corrected(
    lane: LaneRecord, bucket: StoredBucket, gives_back: bool, corrects: bool, now: float
) -> float:
    # One look at each field: this runs for every bucket of every reservation.
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


def _pause(lane: LaneRecord, order: ExchangeRequest, instants: list[float], now: float) -> None:
    lane.pause_until = max(lane.pause_until, now + order.pause)
    # What was reserved before is stale; what comes after begins with one, not with what was saved.
    for index, bucket in enumerate(order.buckets):
        if bucket.strict:
            least = lane.pause_until - min(bucket.burst, 1.0) * bucket.interval
            instants[index] = max(instants[index], least)


def _reserve(
    lane: LaneRecord, order: ExchangeRequest, instants: list[float], now: float
) -> tuple[float, ...]:
    waits: list[float] = []
    buckets, taken = order.buckets, lane.taken
    at = first = max(now, lane.pause_until)
    # No calls of min() and max() here: they would be a fifth of a reservation in memory.
    for costs in order.slots:
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
        elif at > first + order.horizon:
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


def _seat(
    account: AccountRecord, member: str, seat: MemberClaim, now: float
) -> tuple[int, int, int]:
    members = account.members
    for name in [name for name, held in members.items() if held.until <= now]:
        del members[name]
    others = [held for name, held in members.items() if name != member]
    granted = _granted(seat, others)
    places = max(granted, seat.in_use)
    members[member] = MemberRecord(places, seat.want, now + seat.lease, seat.info)
    return granted, len(members), places + sum(held.places for held in others)


def _granted(seat: MemberClaim, others: list[MemberRecord]) -> int:
    """Places for one member: what is free, less the share of whoever waits for some."""
    if seat.limit <= 0:
        return seat.want
    granted = min(seat.want, seat.limit - sum(held.places for held in others))
    if any(held.want > held.places for held in others):
        wanting = 1 + sum(held.want > 0 for held in others)
        share = seat.limit // wanting
        if share < 1:  # more members than places: one each, for whoever comes first
            granted = min(granted, 1)
        else:
            due = sum(max(held.places, min(held.want, share)) for held in others)
            granted = min(granted, seat.limit - due)
    return int(max(0.0, granted))

"""Who shares a quota, and how it stands."""

from __future__ import annotations

import contextlib
import json
from typing import Any, NamedTuple, Optional

from claude_throttle.config import validation as checks
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.errors import ThrottleError
from claude_throttle.features.sharing import virtual_queue as tickets
from claude_throttle.features.sharing.open_store import open_ledger
from claude_throttle.features.sharing.stores.contract import StoredLane, StoredMember, StoreFailed


class FleetMember(NamedTuple):
    """One process."""

    #: A salted hash of the key; equal for those that share.
    account: str
    host: str
    pid: int
    #: By lane: calls that wait, and requests on the wire.
    lanes: dict[str, tuple[int, int]]
    #: Seconds until it counts as gone, unless it says that it is there.
    expires_seconds: float


class FleetLane(NamedTuple):
    """One quota bucket that they share."""

    account: str
    lane: str
    #: By quota: units that may leave now (negative: reserved ahead), and units a minute.
    quotas: dict[str, tuple[float, float]]
    #: Seconds for which nothing leaves, because the server said so.
    paused_seconds: float
    waiting: int
    in_flight: int
    #: Why nothing is sent at all, or None.
    suspended: Optional[str]
    #: Seconds' worth of calls in the line of those that come back (``line_up()``).
    line_seconds: float


class FleetState(NamedTuple):
    """All that a store holds; ``print()`` it for a report."""

    store: str
    members: tuple[FleetMember, ...]
    lanes: tuple[FleetLane, ...]

    def __str__(self) -> str:
        if not (self.members or self.lanes):
            return f"{self.store}: nobody is there"
        count = len(self.members)
        lines = [f"{self.store}: {count} process{'es' * (count != 1)}"]
        lines += [f"  {_member(member)}" for member in self.members]
        for lane in self.lanes:
            lines += ["", *_lane(lane)]
        return "\n".join(lines)


def fleet(shared: Any, *, timeout: float = 2.0) -> FleetState:
    """What the processes that were given ``shared=`` the same have to say; asks nobody but it.

    *timeout* is in seconds. Raises :class:`ConfigurationError` for an address that is none, and
    :class:`ThrottleError` if the store cannot be asked.
    """
    checks.require_store(shared)
    ledger = open_ledger(shared, timeout, SYSTEM_CLOCK)
    try:
        found = ledger.fleet()
    except StoreFailed as error:
        raise ThrottleError(str(error)) from None
    finally:
        ledger.close()
    members = tuple(map(_shown, found.members))
    lines = {(line.account, line.lane): _ahead(line) for line in found.lanes}
    lanes = (
        _lane_of(
            lane,
            members,
            found.notices.get(lane.account, ""),
            lines.get((lane.account, lane.lane + tickets.SUFFIX), 0.0),
        )
        for lane in found.lanes
        if lane.lane and not lane.lane.endswith(tickets.SUFFIX)
    )
    return FleetState(ledger.name, members, tuple(lanes))


def _shown(member: StoredMember) -> FleetMember:
    told: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # of another version, perhaps
        told = json.loads(member.info)
    lanes = {name: (counts[0], counts[1]) for name, counts in told.get("lanes", {}).items()}
    host, pid = told.get("host", member.member), told.get("pid", 0)
    return FleetMember(member.account, host, pid, lanes, member.expires_seconds)


def _lane_of(
    lane: StoredLane, members: tuple[FleetMember, ...], notice: str, line_seconds: float
) -> FleetLane:
    counts = [
        m.lanes[lane.lane] for m in members if m.account == lane.account and lane.lane in m.lanes
    ]
    suspended = json.loads(notice) if notice else {}
    reason = suspended.get("", suspended.get(lane.lane))
    return FleetLane(
        lane.account,
        lane.lane,
        {name: (level, 60.0 * rate) for name, (level, rate) in lane.levels.items()},
        lane.paused_seconds,
        sum(waiting for waiting, _ in counts),
        sum(out for _, out in counts),
        reason[0] if reason else None,
        line_seconds,
    )


def _ahead(line: StoredLane) -> float:
    """Seconds until a line of tickets is through; 0 if it is none."""
    return max(0.0, -line.levels.get(tickets.BUCKET, (0.0, 0.0))[0])


def _member(member: FleetMember) -> str:
    lanes = ", ".join(
        f"{name} {w} waiting {out} in flight" for name, (w, out) in member.lanes.items()
    )
    return f"{member.host} pid {member.pid}: {lanes or 'no calls yet'}"


def _lane(lane: FleetLane) -> list[str]:
    state = [f"{lane.waiting} waiting", f"{lane.in_flight} in flight"]
    if lane.paused_seconds > 0:
        state.append(f"paused for {lane.paused_seconds:.1f} s")
    if lane.line_seconds > 0:
        state.append(f"{lane.line_seconds:.0f} s of tickets")
    if lane.suspended:
        state.append(f"suspended: {lane.suspended}")
    lines = [f"{lane.lane} (account {lane.account[:6]}): {', '.join(state)}"]
    for name, (level, a_minute) in lane.quotas.items():
        lines.append(
            f"  {name.replace('_', ' ')}: {level:,.0f} left now of {a_minute:,.0f} a minute"
        )
    return lines

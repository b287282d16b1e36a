"""What a ledger's records say, for people."""

from __future__ import annotations

from collections.abc import Mapping

from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    FleetSnapshot,
    StoredLane,
    StoredMember,
)
from claude_throttle.features.sharing.stores.transaction import AccountRecord, LaneRecord


def fleet_of(
    lanes: Mapping[tuple[str, str], LaneRecord],
    accounting: Mapping[str, AccountRecord],
    now: float,
) -> FleetSnapshot:
    """All members that are there, and all lanes."""
    return FleetSnapshot(
        [_lane(account, lane, record, now) for (account, lane), record in lanes.items()],
        [
            StoredMember(account, name, held.places, (held.until - now) / SECOND, held.info)
            for account, record in accounting.items()
            for name, held in record.members.items()
            if held.until > now
        ],
        {account: record.notice for account, record in accounting.items() if record.notice},
    )


def _lane(account: str, lane: str, record: LaneRecord, now: float) -> StoredLane:
    levels = {
        name: ((now - empty_at) / record.intervals[name], SECOND / record.intervals[name])
        for name, empty_at in record.empty_at.items()
    }
    paused = max(0.0, (record.pause_until - now) / SECOND)
    return StoredLane(account, lane, levels, paused, record.facts)

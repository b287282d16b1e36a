"""A ledger's records as JSON: floats come back as they were, to the last digit."""

from __future__ import annotations

import json
from typing import Any

from claude_throttle.features.sharing.stores.sqlite_schema import UnusableFile
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    MemberRecord,
)

#: Made once; it is the faster half of json.dumps.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def lane_text(record: LaneRecord) -> str:
    """All of it."""
    return _encode([getattr(record, name) for name in LaneRecord.__slots__])


def lane_record(text: str) -> LaneRecord:
    """Raises Unusable for what is none."""
    record = LaneRecord()
    for name, value in zip(LaneRecord.__slots__, _values(text, len(LaneRecord.__slots__))):
        setattr(record, name, value)
    return record


def account_text(record: AccountRecord) -> str:
    """All of it."""
    return _encode([record.members, record.notice])


def account_record(text: str) -> AccountRecord:
    """Raises Unusable for what is none."""
    record = AccountRecord()
    members, record.notice = _values(text, 2)
    record.members = {name: MemberRecord(*held) for name, held in members.items()}
    return record


def _values(text: str, count: int) -> list[Any]:
    try:
        values = json.loads(text)
    except (ValueError, TypeError):
        values = None
    if not isinstance(values, list) or len(values) != count:
        raise UnusableFile("a record in it is damaged: move it, its -wal and its -shm away")
    return values

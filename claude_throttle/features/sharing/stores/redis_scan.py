"""Everything that a Redis holds of ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Callable

from claude_throttle.features.sharing.stores.redis_format import PREFIX
from claude_throttle.features.sharing.stores.redis_protocol import command
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    MemberRecord,
)

#: Sends some commands at once, returns their answers.
Ask = Callable[[list[bytes]], list[Any]]

#: Keys looked at by the server in one step; hashes read in one step.
SCAN_STEP = 1000
READ_STEP = 100

Lanes = dict[tuple[str, str], LaneRecord]
Accounts = dict[str, AccountRecord]


def collect(ask: Ask, lanes: Lanes, accounting: Accounts) -> None:
    """Add all that one server holds."""
    keys = _keys(ask)
    while step := list(islice(keys, READ_STEP)):
        for key, answer in zip(step, ask([command(b"HGETALL", key.encode()) for key in step])):
            _add(key, _fields(answer), lanes, accounting)


def _keys(ask: Ask) -> Iterator[str]:
    cursor = b"0"
    seen: set[str] = set()
    while True:
        scan = command(
            b"SCAN", cursor, b"MATCH", f"{PREFIX}*".encode(), b"COUNT", b"%d" % SCAN_STEP
        )
        ((cursor, found),) = ask([scan])
        for raw in found:
            key = raw.decode("utf-8", "replace")
            if key not in seen:  # a scan may tell one twice
                seen.add(key)
                yield key
        if cursor == b"0":
            return


def _fields(answer: list[bytes]) -> dict[str, str]:
    words = [word.decode("utf-8", "replace") for word in answer]
    return dict(zip(words[::2], words[1::2]))


def _add(key: str, fields: dict[str, str], lanes: Lanes, accounting: Accounts) -> None:
    account, closed, rest = key[len(PREFIX) :].partition("}:")
    if not fields or not closed or not account.startswith("{"):
        return
    if rest == "account":
        accounting[account[1:]] = _account(fields)
    elif rest.startswith("lane:"):
        lanes[account[1:], rest[len("lane:") :]] = _lane(fields)


def _lane(fields: dict[str, str]) -> LaneRecord:
    lane = LaneRecord()
    for field, value in fields.items():
        kind, _, name = field.partition(":")
        if kind == "facts":
            lane.facts = value
        elif kind == "pause_until":
            lane.pause_until = float(value)
        elif kind == "at":
            lane.empty_at[name] = float(value)
        elif kind == "interval":
            lane.intervals[name] = float(value)
        elif kind == "taken":
            lane.taken[name] = float(value)
    return lane


def _account(fields: dict[str, str]) -> AccountRecord:
    account = AccountRecord()
    account.notice = fields.pop("notice", "")
    for field, value in fields.items():
        places, want, until, info = value.split(" ", 3)
        member = field[len("member:") :]
        account.members[member] = MemberRecord(
            int(float(places)), int(float(want)), float(until), info
        )
    return account

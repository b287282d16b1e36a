"""A request on its way to the script, and the script's response: exchange.lua has the other end."""

from __future__ import annotations

import functools
import hashlib
import pkgutil
import struct
from itertools import chain

from claude_throttle.features.sharing.stores.contract import (
    ExchangeRequest,
    ExchangeResponse,
    MemberClaim,
)
from claude_throttle.features.sharing.stores.transaction import (
    AccountRecord,
    LaneRecord,
    MemberRecord,
)

SCRIPT = pkgutil.get_data(__name__, "exchange.lua") or b""
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

#: Each key begins with it.
PREFIX = "claude-throttle:"

NO_CLAIM = MemberClaim(0, 0, 0.0, 0.0, "")

#: Numbers before the instants in a response.
RESPONSE_HEAD = 10


def account_key(account: str) -> str:
    """The hash of an account. A Cluster places keys by what is in braces: an account, together."""
    return f"{PREFIX}{{{account}}}:account"


def lane_key(account: str, lane: str) -> str:
    """The hash of a lane."""
    return f"{PREFIX}{{{account}}}:lane:{lane}"


def encode(account: str, lane: str, request: ExchangeRequest) -> list[bytes]:
    """All words of the command that come after the script."""
    buckets = tuple([bucket.name for bucket in request.buckets])
    counts = tuple([name for name, _ in request.counts])
    keys, fields = _keys_and_fields(account, lane, buckets, counts)
    numbers = _numbers(request)
    facts, notice, claim = request.facts or "", request.notice or "", request.claim or NO_CLAIM
    return [
        *keys,
        struct.pack(f"<{len(numbers)}d", *numbers),
        request.member.encode(),
        facts.encode(),
        notice.encode(),
        claim.info.encode(),
        *fields,
    ]


@functools.lru_cache(maxsize=256)
def _keys_and_fields(
    account: str, lane: str, buckets: tuple[str, ...], counts: tuple[str, ...]
) -> tuple[list[bytes], list[bytes]]:
    keys = [b"2", lane_key(account, lane).encode(), account_key(account).encode()]
    fields = [
        *(f"at:{name}".encode() for name in buckets),
        *(f"interval:{name}".encode() for name in buckets),
        *(f"taken:{name}".encode() for name in buckets),
        *(f"total:{name}".encode() for name in counts),
    ]
    return keys, fields


def _numbers(request: ExchangeRequest) -> list[float]:
    claim = request.claim or NO_CLAIM
    numbers: list[float] = [
        request.not_after,
        len(request.buckets),
        len(request.reservations),
        len(request.counts),
        request.horizon,
        request.sequence,
        request.pause,
        request.version,
        request.facts is not None,
        request.notice is not None,
        request.claim is not None,
        claim.in_use,
        claim.want,
        claim.limit,
        claim.lease,
    ]
    for bucket in request.buckets:
        numbers += bucket[1:]
    numbers += [change for _, change in request.counts]
    units = list(chain.from_iterable(request.reservations))
    if len(units) != len(request.reservations) * len(request.buckets):
        raise ValueError("each reservation must name the units of each bucket")
    return numbers + units


def decode(answer: bytes, request: ExchangeRequest) -> ExchangeResponse:
    """What the script returned."""
    if len(answer) == 16:
        return ExchangeResponse(struct.unpack_from("<d", answer)[0], done=False)
    head = struct.unpack_from(f"<{RESPONSE_HEAD}d", answer)
    now, _, sequence, pause_until, version, granted, members, in_flight = head[:8]
    wait_count, facts_length = int(head[8]), int(head[9])
    taken_from = len(request.buckets)
    totals_from = 2 * taken_from
    waits_from = totals_from + len(request.counts)
    count = waits_from + wait_count
    numbers = struct.unpack_from(f"<{count}d", answer, 8 * RESPONSE_HEAD)
    facts_from = 8 * (RESPONSE_HEAD + count)
    notice_from = facts_from + facts_length
    return ExchangeResponse(
        now=now,
        done=True,
        waits=numbers[waits_from:],
        empty_at=numbers[:taken_from],
        taken=numbers[taken_from:totals_from],
        sequence=sequence,
        pause_until=pause_until,
        totals=numbers[totals_from:waits_from],
        version=version,
        facts=answer[facts_from:notice_from].decode(),
        notice=answer[notice_from:].decode(),
        granted=int(granted),
        members=int(members),
        in_flight=int(in_flight),
    )


# -- all that a server holds -----------------------------------------------------------------------


def add_record(
    key: bytes,
    hash_fields: list[bytes],
    lanes: dict[tuple[str, str], LaneRecord],
    accounts: dict[str, AccountRecord],
) -> None:
    """Add what the hash at *key* says of a lane or an account, if it is one of ours."""
    name = key.decode("utf-8", "replace")
    words = [word.decode("utf-8", "replace") for word in hash_fields]
    fields = dict(zip(words[::2], words[1::2]))
    account, closed, rest = name[len(PREFIX) :].partition("}:")
    if not fields or not closed or not account.startswith("{"):
        return
    if rest == "account":
        accounts[account[1:]] = _account(fields)
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
        slots, want, until, info = value.split(" ", 3)
        member = field[len("member:") :]
        account.members[member] = MemberRecord(
            int(float(slots)), int(float(want)), float(until), info
        )
    return account

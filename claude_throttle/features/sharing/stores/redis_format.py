"""The format of requests to the script and of its responses; ``exchange.lua`` is the other end.

Numbers travel as packed little-endian doubles: as text they would lose digits or cost time, and
Redis turns the numbers that a script returns into integers. Processes of different versions share a
server, so fields keep their names and numbers their places; see ``transaction``. The script is run
by its hash, so each version of it is loaded beside the others.
"""

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

#: The script, and the hash by which a server that has seen it runs it (EVALSHA).
SCRIPT = pkgutil.get_data(__name__, "exchange.lua") or b""
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

#: The beginning of each key in the server; a user's rights can be limited to it.
PREFIX = "claude-throttle:"

#: Fills the numbers of a claim in a request without one.
NO_CLAIM = MemberClaim(0, 0, 0.0, 0.0, "")

#: Numbers of fixed meaning at the beginning of a response, before those of each bucket.
RESPONSE_HEAD = 10


def account_key(account: str) -> str:
    """The key of an account's hash. A Cluster places keys by what is in braces: the account.

    So all keys of an account are on one server, as a script demands.
    """
    return f"{PREFIX}{{{account}}}:account"


def lane_key(account: str, lane: str) -> str:
    """The key of a lane's hash."""
    return f"{PREFIX}{{{account}}}:lane:{lane}"


def encode(account: str, lane: str, request: ExchangeRequest) -> list[bytes]:
    """The words of the EVALSHA command that come after the script: keys, numbers, texts, fields."""
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


# Cached: the names of one lane's fields are the same in each request, and there are few lanes.
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


# The order is part of the format: fifteen numbers (HEAD in the script), ten for each bucket (EACH),
# one for each count, then the reservations.
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
    """The response that the script returned as bytes."""
    if len(answer) == 16:  # its time, and a zero: the request came too late
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
    """Add the lane or account that the hash at *key* describes; other keys are skipped."""
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


# Only what the report of fleet() needs. Unknown fields may be a newer version's, and are skipped.
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
        elif kind == "total":
            lane.totals[name] = float(value)
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

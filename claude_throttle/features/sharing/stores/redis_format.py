"""An order on its way to the script, and the script's reply: exchange.lua has the other end."""

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
from claude_throttle.features.sharing.stores.redis_protocol import packed

SCRIPT = pkgutil.get_data(__name__, "exchange.lua") or b""
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

#: Before each key.
PREFIX = "claude-throttle:"

#: By hash of the script, as long as the server knows it; else with the script itself.
BY_HASH = packed(b"EVALSHA", SHA)
IN_FULL = packed(b"EVAL", SCRIPT)

NO_SEAT = MemberClaim(0, 0, 0.0, 0.0, "")

#: Numbers before the instants in a reply.
REPLY_HEAD = 10


def account_key(account: str) -> str:
    """What stands in braces decides where in a Cluster it is kept: an account, together."""
    return f"{PREFIX}{{{account}}}:account"


def lane_key(account: str, lane: str) -> str:
    """Of the hash that keeps a lane's instants."""
    return f"{PREFIX}{{{account}}}:lane:{lane}"


def written(account: str, lane: str, order: ExchangeRequest) -> tuple[bytes, bytes]:
    """All of a command but its verb: what comes before :data:`BY_HASH`, and what after."""
    buckets = tuple([bucket.name for bucket in order.buckets])
    counts = tuple([name for name, _ in order.counts])
    count, keys, fields = _frame(account, lane, buckets, counts)
    numbers = _numbers(order)
    facts, notice, seat = order.facts or "", order.notice or "", order.seat or NO_SEAT
    words = packed(
        struct.pack(f"<{len(numbers)}d", *numbers),
        order.member.encode(),
        facts.encode(),
        notice.encode(),
        seat.info.encode(),
    )
    return count, b"".join((keys, words, fields))


@functools.lru_cache(maxsize=256)
def _frame(
    account: str, lane: str, buckets: tuple[str, ...], counts: tuple[str, ...]
) -> tuple[bytes, bytes, bytes]:
    keys = packed(b"2", lane_key(account, lane).encode(), account_key(account).encode())
    fields = [
        *(f"at:{name}".encode() for name in buckets),
        *(f"interval:{name}".encode() for name in buckets),
        *(f"taken:{name}".encode() for name in buckets),
        *(f"total:{name}".encode() for name in counts),
    ]
    # The verb, the script, 2, two keys, five words of every order.
    return b"*%d\r\n" % (10 + len(fields)), keys, packed(*fields)


def _numbers(order: ExchangeRequest) -> list[float]:
    seat = order.seat or NO_SEAT
    numbers: list[float] = [
        order.not_after,
        len(order.buckets),
        len(order.slots),
        len(order.counts),
        order.horizon,
        order.sequence,
        order.pause,
        order.version,
        order.facts is not None,
        order.notice is not None,
        order.seat is not None,
        seat.in_use,
        seat.want,
        seat.limit,
        seat.lease,
    ]
    for bucket in order.buckets:
        numbers += bucket[1:]
    numbers += [change for _, change in order.counts]
    slots = list(chain.from_iterable(order.slots))
    if len(slots) != len(order.slots) * len(order.buckets):
        raise ValueError("each slot must name the units of each bucket")
    return numbers + slots


def read(answer: bytes, order: ExchangeRequest) -> ExchangeResponse:
    """What the script said."""
    if len(answer) == 16:
        return ExchangeResponse(struct.unpack_from("<d", answer)[0], done=False)
    head = struct.unpack_from(f"<{REPLY_HEAD}d", answer)
    now, _, sequence, pause_until, version, granted, members, in_flight = head[:8]
    wait_count, facts_length = int(head[8]), int(head[9])
    taken_from = len(order.buckets)
    totals_from = 2 * taken_from
    waits_from = totals_from + len(order.counts)
    count = waits_from + wait_count
    numbers = struct.unpack_from(f"<{count}d", answer, 8 * REPLY_HEAD)
    facts_from = 8 * (REPLY_HEAD + count)
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

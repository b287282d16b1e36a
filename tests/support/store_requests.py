"""What the tests of a store ask it."""

from __future__ import annotations

import itertools
import uuid

from claude_throttle.features.sharing.stores.contract import ExchangeRequest, StoredBucket

LANE = "claude-sonnet-4"

#: Nobody waits so long.
ALWAYS = 1e300

_numbers = itertools.count()


def new_account():
    """One that no other test uses, also where the server is not ours alone."""
    return f"test-{uuid.uuid4().hex[:12]}-{next(_numbers)}"


def reserving(count=1, interval=1e6, burst=1.0, **more):
    """Reserves so many instants for one call each, *interval* microseconds apart."""
    bucket = {
        key: more.pop(key)
        for key in StoredBucket._fields
        if key in more and key not in ExchangeRequest._fields
    }
    return ExchangeRequest(
        **{
            "member": "one",
            "not_after": ALWAYS,
            "buckets": (StoredBucket("requests", interval, burst, strict=True, **bucket),),
            "reservations": ((1.0,),) * count,
            "horizon": 1e12,
            **more,
        }
    )

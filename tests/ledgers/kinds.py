"""One of each kind of ledger."""

from __future__ import annotations

import time

import pytest

from claude_throttle.features.sharing.stores.memory import MemoryLedger
from claude_throttle.features.sharing.stores.redis import RedisLedger
from claude_throttle.features.sharing.stores.sqlite import SqliteLedger

KINDS = ("memory", "sqlite", "redis")


@pytest.fixture
def make_ledger(request, tmp_path):
    """``make_ledger(kind)``: a ledger of that kind; the second shares its store with the first.

    Memory is shared by being the same object. *monotonic* moves all but a server's own time.
    """
    made = []

    def make(kind, monotonic=time.monotonic):
        if kind == "redis":
            ledger = RedisLedger(request.getfixturevalue("redis_url"), monotonic, 10)
        elif kind == "sqlite":
            ledger = SqliteLedger(str(tmp_path / "quota.db"), monotonic, 10)
        else:
            mine = [one for one in made if isinstance(one, MemoryLedger)]
            ledger = mine[0] if mine else MemoryLedger(monotonic)
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def shared(make_ledger, kind):
    """A ledger of each kind in turn."""
    return make_ledger(kind)

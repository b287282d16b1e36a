"""The ledgers, and the servers they are tested with."""

from __future__ import annotations

import contextlib
import time

import pytest

from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.features.sharing.stores.redis import RedisStore
from claude_throttle.features.sharing.stores.sqlite import SqliteStore

KINDS = ("memory", "sqlite", "redis")


@pytest.fixture
def make_ledger(request, tmp_path):
    """``make_ledger(kind)``: a ledger of that kind; the second shares its store with the first.

    Memory is shared by being the same object. *monotonic* moves all but a server's own time.
    """
    made = []

    def make(kind, monotonic=time.monotonic):
        if kind == "redis":
            ledger = RedisStore(request.getfixturevalue("redis_url"), monotonic, 10)
        elif kind == "sqlite":
            ledger = SqliteStore(str(tmp_path / "quota.db"), monotonic, 10)
        else:
            mine = [one for one in made if isinstance(one, MemoryStore)]
            ledger = mine[0] if mine else MemoryStore(monotonic)
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


@pytest.fixture
def ledger_at():
    """``ledger_at(url_or_client)``; patient, where a test is not about time."""
    with contextlib.ExitStack() as stack:

        def make(url_or_client, timeout_seconds=5.0):
            ledger = RedisStore(url_or_client, time.monotonic, timeout_seconds)
            stack.callback(ledger.close)
            return ledger

        yield make

"""The stores, and the servers they are tested with."""

from __future__ import annotations

import contextlib
import time

import pytest

from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.features.sharing.stores.redis import RedisStore
from claude_throttle.features.sharing.stores.sqlite import SqliteStore

KINDS = ("memory", "sqlite", "redis")


@pytest.fixture
def make_store(request, tmp_path):
    """``make_store(kind)``: a store of that kind; the second shares its store with the first.

    Memory is shared by being the same object. *monotonic* moves all but a server's own time.
    """
    made = []

    def make(kind, monotonic=time.monotonic):
        if kind == "redis":
            store = RedisStore(request.getfixturevalue("redis_url"), monotonic, 10)
        elif kind == "sqlite":
            store = SqliteStore(str(tmp_path / "quota.db"), monotonic, 10)
        else:
            mine = [one for one in made if isinstance(one, MemoryStore)]
            store = mine[0] if mine else MemoryStore(monotonic)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def shared(make_store, kind):
    """A store of each kind in turn."""
    return make_store(kind)


@pytest.fixture
def store_at():
    """``store_at(url_or_client)``; patient, where a test is not about time."""
    with contextlib.ExitStack() as stack:

        def make(url_or_client, timeout_seconds=5.0):
            store = RedisStore(url_or_client, time.monotonic, timeout_seconds)
            stack.callback(store.close)
            return store

        yield make

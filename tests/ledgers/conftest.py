"""The ledgers, and the servers they are tested with."""

from __future__ import annotations

import contextlib
import time

import pytest

from claude_throttle.features.sharing.stores.redis import RedisStore
from tests.ledgers.kinds import kind, make_ledger, shared
from tests.redis_server import _own_redis, redis_url, start_redis, start_sentinel

__all__ = [
    "_own_redis",
    "kind",
    "make_ledger",
    "redis_url",
    "shared",
    "start_redis",
    "start_sentinel",
]


@pytest.fixture
def ledger_at():
    """``ledger_at(url_or_client)``; patient, where a test is not about time."""
    with contextlib.ExitStack() as stack:

        def make(url_or_client, timeout_seconds=5.0):
            ledger = RedisStore(url_or_client, time.monotonic, timeout_seconds)
            stack.callback(ledger.close)
            return ledger

        yield make

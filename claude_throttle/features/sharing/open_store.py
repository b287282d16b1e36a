"""Opens the store of a ``shared=`` setting, and makes an account's coordinator.

The place where sharing is put together: it alone knows all kinds of stores, and imports each on
use, since redis-py takes 0.4 s to import and SQLite is missing in some builds of Python. Nothing is
connected or started here; that happens at the first exchange.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from functools import partial
from typing import Any
from urllib.parse import unquote

from claude_throttle.account.account import EVERYWHERE, Account, ProcessResources
from claude_throttle.config.settings import Settings
from claude_throttle.core.threads.clock import Clock
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.concurrency_share import ConcurrencyShare
from claude_throttle.features.sharing.coordinator import Coordinator, SharedAccount
from claude_throttle.features.sharing.stores.contract import Store

#: Salt of the account's name, so that a table of hashed keys made for another purpose is useless
#: here. It must never change: processes of different versions share by this name.
SALT = b"claude_throttle account"

#: The stores of shared="memory://name", one for all throttlers of a process. The process id is part
#: of the key: a thread of the parent may have held the lock of a store at the fork, which stays
#: locked in the child.
_in_memory: dict[str, Store] = {}


def make_coordinator(
    settings: Settings, resources: ProcessResources, account: Account
) -> Coordinator:
    """The coordinator of *account*, which is still being made. Starts and connects nothing yet.

    Raises :class:`ConfigurationError` if a library is missing.
    """
    clock, clock_offset = resources.clock, ClockOffset()
    concurrency = ConcurrencyShare(
        account.limiter,
        account.lanes,
        resources.median_latency,
        settings.store_lease,
        clock_offset,
        clock.monotonic,
        lambda: coordinator.wants_slot(),  # made below: each of the two needs the other
        account.every_lane,
        account.is_paused,
    )
    coordinator = Coordinator(
        SharedAccount(
            open_store(settings.shared, settings.store_timeout, clock),
            account_name(settings),
            settings.store_timeout,
            settings.on_store_failure,
        ),
        concurrency,
        account.shared_lanes,
        resources.observe,
        account.apply_suspensions,
        resources.thread_pool,
        clock,
        clock_offset,
        partial(account.hold, by=EVERYWHERE),
    )
    return coordinator


def open_store(shared: Any, timeout_seconds: float, clock: Clock) -> Store:
    """The store at an address, or behind a Redis client. Each kind is imported on use."""
    scheme, _, place = shared.partition("://") if isinstance(shared, str) else ("", "", "")
    if scheme == "memory":
        from claude_throttle.features.sharing.stores.memory import MemoryStore

        return _in_memory.setdefault(f"{os.getpid()} {place}", MemoryStore(clock.monotonic))
    if scheme == "sqlite":
        from claude_throttle.features.sharing.stores.sqlite import SqliteStore

        return SqliteStore(
            unquote(place), monotonic=clock.monotonic, timeout_seconds=timeout_seconds
        )
    from claude_throttle.features.sharing.stores.redis import RedisStore

    return RedisStore(shared, monotonic=clock.monotonic, timeout_seconds=timeout_seconds)


def account_name(settings: Settings) -> str:
    """The account's name in the store: equal for the same URL and key, and not reversible."""
    key = settings.api_key or settings.auth_token or ""
    text = f"{settings.base_url}\n{key}".encode()
    return hmac.new(SALT, text, hashlib.sha256).hexdigest()[:24]

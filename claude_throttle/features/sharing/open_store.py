"""Opens what processes share. Each kind is loaded on use."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any
from urllib.parse import unquote

from claude_throttle.account.account import Account, ProcessResources
from claude_throttle.config.settings import Settings
from claude_throttle.core.threads.clock import Clock
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.concurrency_share import ConcurrencyShare
from claude_throttle.features.sharing.coordinator import Coordinator, ReservingStore
from claude_throttle.features.sharing.stores.contract import Store

#: Makes a table of hashed keys, made for something else, worthless here.
SALT = b"claude_throttle account"

#: Those of shared="memory://name": one for all throttlers of a process. A child has its own: its
#: parent's may be locked for ever.
_in_memory: dict[str, Store] = {}


def make_coordinator(
    settings: Settings, resources: ProcessResources, account: Account
) -> Coordinator:
    """The coordinator of *account*, which is still being made. Starts and connects nothing yet."""
    time, clock = ClockOffset(), resources.clock
    share = ConcurrencyShare(
        account.limiter,
        account.lanes,
        resources.median_latency,
        settings.store_lease,
        time,
        clock.monotonic,
        lambda: coordinator.hurry(),
    )
    coordinator = Coordinator(
        open_store(settings, clock),
        share,
        account.lanes,
        resources.observe,
        account.apply_suspensions,
        resources.thread_pool,
        clock,
        time,
    )
    return coordinator


def open_store(settings: Settings, clock: Clock) -> ReservingStore:
    """Connects to nothing yet. Raises :class:`ConfigurationError` if a library is missing."""
    ledger = open_ledger(settings.shared, settings.store_timeout, clock)
    return ReservingStore(
        ledger, account_of(settings), settings.store_timeout, settings.on_store_failure
    )


def open_ledger(shared: Any, timeout_seconds: float, clock: Clock) -> Store:
    """The ledger at an address, or behind a client."""
    scheme, _, place = shared.partition("://") if isinstance(shared, str) else ("", "", "")
    if scheme == "memory":
        return _in_memory.setdefault(f"{os.getpid()} {place}", _memory(clock))
    if scheme == "sqlite":
        from claude_throttle.features.sharing.stores.sqlite import SqliteStore

        return SqliteStore(
            unquote(place), monotonic=clock.monotonic, timeout_seconds=timeout_seconds
        )
    from claude_throttle.features.sharing.stores.redis import RedisStore

    return RedisStore(shared, monotonic=clock.monotonic, timeout_seconds=timeout_seconds)


def _memory(clock: Clock) -> Store:
    from claude_throttle.features.sharing.stores.memory import MemoryStore

    return MemoryStore(clock.monotonic)


def account_of(settings: Settings) -> str:
    """A name for the account that tells nobody the key."""
    key = settings.api_key or settings.auth_token or ""
    text = f"{settings.base_url}\n{key}".encode()
    return hmac.new(SALT, text, hashlib.sha256).hexdigest()[:24]

"""What a reservation costs, in each kind of store."""

from __future__ import annotations

import multiprocessing
import statistics
import time

from claude_throttle.features.sharing.stores.contract import ExchangeRequest, StoredBucket
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.features.sharing.stores.redis import RedisStore
from claude_throttle.features.sharing.stores.sqlite import SqliteStore
from tests.bench.figures import Figure, at_most, scaled
from tests.bench.sharing import redis, sqlite

#: The store's time after which nobody waits any more: never.
ALWAYS = 1e18

PROCESSES = 8
RESERVATIONS = 10


def reserving(count=1):
    """A thousand requests a millisecond: nothing to wait for."""
    return ExchangeRequest(
        "one", ALWAYS, (StoredBucket("rpm", 1.0, 1.0, strict=True),), ((1.0,),) * count, 1e12
    )


def alone(share):
    """One reservation, nobody else, median."""
    count = scaled(5000, share)
    with sqlite() as path, redis() as server:
        stores = {
            "memory": (MemoryStore(time.monotonic), 5.0),
            "SQLite": (_sqlite(path), 50.0),
            "Redis": (_redis(server.url), 300.0),
        }
        figures = [
            at_most(f"{name}, median", _median(store, count), most, "{:.1f} µs")
            for name, (store, most) in stores.items()
        ]
        for store, _ in stores.values():
            store.close()
    return figures


def _median(store, count):
    took, one = [], reserving()
    for _ in range(count):
        began = time.perf_counter()
        store.transact("account", "lane", one)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def _sqlite(url):
    path = url.partition("://")[2]
    return SqliteStore(path, monotonic=time.monotonic, timeout_seconds=1.0)


def _redis(url):
    return RedisStore(url, monotonic=time.monotonic, timeout_seconds=1.0)


def together_on_sqlite(share):
    """Eight processes flat out, batches of ten."""
    with sqlite() as url:
        return _together(_sqlite, url, share, 30_000, 0.35)


def together_on_redis(share):
    """The same."""
    with redis() as server:
        return _together(_redis, server.url, share, 60_000, 0.25)


def _together(open_store, url, share, least, longest_wait):
    seconds = max(0.2, 4.0 * share)
    context = multiprocessing.get_context("spawn")
    told, ready = context.Queue(), context.Barrier(PROCESSES)
    crew = [
        context.Process(target=_flat_out, args=(open_store, url, seconds, ready, told))
        for _ in range(PROCESSES)
    ]
    for process in crew:
        process.start()
    results = [told.get(timeout=60) for _ in crew]
    for process in crew:
        process.join()
    rate = sum(done for done, _ in results) * RESERVATIONS / seconds
    shown = f"{rate:,.0f}"
    return [
        Figure("reservations a second", f"≥ {least:,}", shown, rate >= least),
        at_most("longest wait", max(longest for _, longest in results), longest_wait, "{:.3f} s"),
    ]


def _flat_out(open_store, url, seconds, ready, told):
    store, batch = open_store(url), reserving(RESERVATIONS)
    store.transact("account", "lane", batch)
    ready.wait()
    done, longest, now = 0, 0.0, time.monotonic()
    until = now + seconds
    while now < until:
        store.transact("account", "lane", batch)
        before, now = now, time.monotonic()
        done, longest = done + 1, max(longest, now - before)
    store.close()
    told.put((done, longest))

"""What waiting calls take, and whether finished ones leave anything behind."""

from __future__ import annotations

import gc
import resource
import sys
import threading
import time
import tracemalloc
from pathlib import Path

from tests.bench.figures import at_most, none_of, quantile, scaled
from tests.bench.server import Server
from tests.bench.work import MODEL, UNBOUNDED_RPM, ask, throttler

#: Nobody listens there, and nothing is sent.
NOWHERE = "http://127.0.0.1:9"

#: Characters of the prompts whose submit() is timed, and the most microseconds it may take.
SIZES = {40: 12, 1000: 16, 4000: 20}


def queued(share):
    """100,000 calls that wait: bytes, seconds, threads."""
    count = scaled(100_000, share, least=600)
    each, threads = _bytes_each(count)
    figures = [at_most("bytes each beyond the body", each, 1843, "{:,.0f}")]
    for size, seconds in _submit_seconds(count).items():
        median = quantile(seconds, 0.5) * 1e6
        figures.append(at_most(f"submit p50, {size} characters", median, SIZES[size], "{:.1f} µs"))
    return [*figures, none_of("threads more than one worker", threads)]


def _bytes_each(count):
    throttle = throttler(NOWHERE, rpm=50, max_queue=count + 1)
    throttle.pause()
    body = len(throttle.submit(**_prompt(0, 40))._call.body)
    # Its own list is the caller's, and is there before the count begins.
    futures = [None] * count
    threads = threading.active_count()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        futures[number] = throttle.submit(**_prompt(number, 40))
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    more = threading.active_count() - threads
    throttle.close(0, cancel_pending=True)
    return taken / count - body, more


def _submit_seconds(count):
    """Of each size a third, by turns, until *count* wait."""
    throttle = throttler(NOWHERE, rpm=50, max_queue=count)
    throttle.pause()
    spent = {size: [] for size in SIZES}
    futures = []
    for number in range(count):
        size = list(SIZES)[number % len(SIZES)]
        prompt = _prompt(number, size)
        began = time.perf_counter()
        future = throttle.submit(**prompt)
        spent[size].append(time.perf_counter() - began)
        futures.append(future)
    throttle.close(0, cancel_pending=True)
    return spent


def _prompt(number, size):
    # Each its own: a text shared by all would hide one that is kept.
    return {
        "model": MODEL,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"{number:0{size}d}"}],
    }


def many_calls(share):
    """200,000 calls through one throttler: what stays after the first 20,000."""
    count = scaled(200_000, share, least=2000)
    settle = count // 10
    readings = []
    with Server(log_limit=1) as server:
        with throttler(server.url, rpm=UNBOUNDED_RPM, max_concurrency=32) as throttle:
            for _ in range(10):
                _send_in_batches(throttle, settle)
                readings.append(_resident_bytes())
                done = len(readings) * settle
                print(f"    {done:,}: {readings[-1] / 2**20:.1f} MB", file=sys.stderr, flush=True)
    growth = (max(readings) - readings[0]) / 1e6
    note = f"(from {readings[0] / 1e6:.1f})"
    return [at_most(f"growth after {settle:,}", growth, 5.0, "{:.1f} MB", note)]


def _send_in_batches(throttle, count, batch=500):
    for start in range(0, count, batch):
        calls = range(min(batch, count - start))
        for future in [throttle.submit(raw=True, **ask()) for _ in calls]:
            future.result()


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

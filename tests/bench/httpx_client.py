"""A client of ``httpx`` with our transport: what each of its requests costs."""

from __future__ import annotations

import contextlib
import random
import statistics
import time

from tests.bench.figures import at_most, scaled
from tests.bench.server import Server
from tests.bench.work import UNBOUNDED_RPM, ask, throttler

HEADERS = {"x-api-key": "not-a-key", "anthropic-version": "2023-06-01"}


def cpu(share):
    """Processor time of each request, over that of the library's own transport; medians.

    Requests of both are mixed, in any order, so that a machine's moods meet both.
    """
    from anthropic import _base_client

    httpx = getattr(_base_client, "httpx2", None) or _base_client.httpx
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(log_limit=1))
        ours = stack.enter_context(throttler(server.url, rpm=UNBOUNDED_RPM))
        spent = {
            stack.enter_context(httpx.Client(base_url=server.url, transport=transport)): []
            for transport in (ours.transport(), httpx.HTTPTransport())
        }
        for _ in range(scaled(4000, share)):
            for client in random.sample(list(spent), 2):
                before = time.thread_time()
                client.post("/v1/messages", json=ask(), headers=HEADERS)
                spent[client].append(time.thread_time() - before)
    mine, usual = (statistics.median(seconds) * 1e6 for seconds in spent.values())
    note = f"({mine:.0f} / {usual:.0f} µs)"
    return [at_most("CPU a call, more", mine - usual, 60, "{:.0f} µs", note)]

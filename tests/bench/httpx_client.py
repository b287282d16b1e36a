"""A client of ``httpx`` with our transport: what each of its requests costs."""

from __future__ import annotations

import contextlib

from tests.bench.cost import mean_cpu_seconds
from tests.bench.figures import at_most, scaled
from tests.bench.server import Server
from tests.bench.work import UNBOUNDED_RPM, ask, throttler


def cpu(share):
    """Processor time of each request, over that of the library's own transport.

    As in the SDK's row: each thread has a connection of its own, and requests of both are mixed.
    """
    from anthropic import _base_client

    httpx = getattr(_base_client, "httpx2", None) or _base_client.httpx
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(log_limit=1, latency=0.05))
        ours = stack.enter_context(throttler(server.url, rpm=UNBOUNDED_RPM))
        calls = [
            _call(stack.enter_context(httpx.Client(base_url=server.url, transport=transport)))
            for transport in (ours.transport(), httpx.HTTPTransport())
        ]
        mine, usual = (each * 1e6 for each in mean_cpu_seconds(calls, scaled(16000, share)))
    note = f"({mine:.0f} / {usual:.0f} µs)"
    return [at_most("CPU a call, more", mine - usual, 60, "{:.0f} µs", note)]


def _call(client):
    headers = {"x-api-key": "not-a-key", "anthropic-version": "2023-06-01"}
    return lambda: client.post("/v1/messages", json=ask(), headers=headers)

"""The official SDK with our middleware: how much of the rate it uses, and what it costs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.bench.cost import THREADS, mean_cpu_seconds
from tests.bench.figures import at_most, none_of, scaled
from tests.bench.logs import let_in, over_least, refused
from tests.bench.server import Server
from tests.bench.work import UNBOUNDED_RPM, ask, throttler

RPM = 1200


def pace(share):
    """From 32 threads, with the SDK's default retries."""
    count = scaled(300, share)
    with Server(rpm=RPM, burst=20, latency=0.2) as server, throttler(server.url, rpm=RPM) as ours:
        with _client(server, ours.middleware()) as client, ThreadPoolExecutor(THREADS) as pool:
            futures = [pool.submit(client.messages.create, **ask()) for _ in range(count)]
            failed = sum(future.exception() is not None for future in futures)
        log = server.arrivals()
    ratio, seconds = over_least(let_in(log), RPM)
    return [
        at_most("time / least", ratio, 1.03, note=f"({seconds:.2f} s)"),
        none_of("429s", len(refused(log))),
        none_of("failed", failed),
    ]


def cpu(share):
    """Processor time of each call, against a middleware that passes everything.

    The server takes its time, so that each thread has a connection of its own, as with the real
    one: with each request httpx looks at all of its pool's, and to have ten more of them than the
    other client costs as much as half a middleware. Calls of both are mixed: in rounds of one and
    the other, a shared machine's moods were larger than the difference.
    """
    with (
        Server(log_limit=1, latency=0.05) as server,
        throttler(server.url, rpm=UNBOUNDED_RPM) as ours,
    ):
        with _client(server, ours.middleware()) as paced, _client(server, _passing) as passing:
            mine, usual = mean_cpu_seconds((_call(paced), _call(passing)), scaled(16000, share))
    note = f"({mine * 1e6:.0f} / {usual * 1e6:.0f} µs)"
    return [at_most("CPU a call", mine / usual, 1.12, "{:.3f}", note)]


def _passing(request, call_next):
    return call_next(request)


def _client(server, middleware):
    import anthropic

    return anthropic.Anthropic(
        api_key="sk-ant-not-a-key", base_url=server.url, middleware=[middleware]
    )


def _call(client):
    return lambda: client.messages.create(**ask())

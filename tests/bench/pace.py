"""How much of a quota is used, by the fake API's own log.

*Least time* is the quota's own pace without credit for the server's burst: n - 1 intervals, or all
tokens but the last call's over their rate.
"""

from __future__ import annotations

import random

from tests.bench.figures import at_most, more_than, none_of, scaled
from tests.bench.server import Server
from tests.bench.work import ask, between, throttler

#: Seconds' worth of tokens the fake API lets in at once: far less than the real one's minute, so
#: that a 429 would show. Ours lets 1 s of input and 5 s of output leave at once.
INPUT_BUCKET_SECONDS = 2.0
OUTPUT_BUCKET_SECONDS = 10.0

INPUT_SPREAD = (200, 2000)
OUTPUT_SPREAD = (100, 1000)


def wide_burst(share):
    """1,200 requests a minute, and a server that forgives a second's worth."""
    return _requests(scaled(500, share), 1200, burst=20, latency=0.2, most=1.02)[0]


def narrow_burst(share):
    """The same, and a server that forgives one request."""
    return _requests(scaled(500, share), 1200, burst=2, latency=0.2, most=1.03)[0]


def slow_answers(share):
    """Answers that take long must not hold up those behind them."""
    figures, log = _requests(scaled(300, share), 1800, burst=20, latency=4.0, most=1.03)
    at_once = max(arrival.in_flight for arrival in log)
    return [*figures, more_than("in flight at once", at_once, 100)]


def input_tokens(share):
    """A told ITPM, prompts that differ tenfold."""
    source, per_minute = random.Random(4), 600_000
    texts = ["x" * 4 * between(source, *INPUT_SPREAD) for _ in range(scaled(300, share))]
    bucket = per_minute / 60 * INPUT_BUCKET_SECONDS
    with Server(itpm=per_minute, itpm_burst=bucket, latency=0.2) as server:
        failed = _push(server, map(ask, texts), itpm=per_minute)
        log = server.arrivals()
    return _token_figures(log, failed, "input_tokens", per_minute)


def output_tokens(share):
    """A told OTPM, answers that differ tenfold, and ``max_tokens`` above the longest."""
    per_minute = 300_000
    calls = [ask(max_tokens=1500) for _ in range(scaled(300, share))]
    bucket = per_minute / 60 * OUTPUT_BUCKET_SECONDS
    with Server(
        otpm=per_minute, otpm_burst=bucket, output_tokens=OUTPUT_SPREAD, latency=1.0
    ) as server:
        failed = _push(server, calls, otpm=per_minute)
        log = server.arrivals()
    return _token_figures(log, failed, "output_tokens", per_minute)


def _requests(count, rpm, *, burst, latency, most):
    with Server(rpm=rpm, burst=burst, latency=latency) as server:
        failed = _push(server, [ask() for _ in range(count)], rpm=rpm)
        log = server.arrivals()
    admitted = [arrival.at for arrival in log if arrival.admitted]
    least = (len(admitted) - 1) * 60 / rpm
    seconds = admitted[-1] - admitted[0]
    note = f"({seconds:.2f} s)"
    return [at_most("time / least", seconds / least, most, note=note), *_clean(log, failed)], log


def _push(server, calls, **quota):
    """Send *calls* and return how many failed."""
    with throttler(server.url, **quota) as throttle:
        futures = [throttle.submit(raw=True, **call) for call in calls]
        return sum(future.exception() is not None for future in futures)


def _clean(log, failed):
    refused = sum(arrival.status == 429 for arrival in log)
    return [none_of("429s", refused), none_of("failed", failed)]


def _token_figures(log, failed, kind, per_minute):
    admitted = [arrival for arrival in log if arrival.admitted]
    # The first half holds what our own burst lets leave at once; the second shows the pace.
    steady = _over_least(admitted[len(admitted) // 2 :], kind, per_minute)
    ratio = _over_least(admitted, kind, per_minute)
    seconds = admitted[-1].at - admitted[0].at
    note = f"({seconds:.2f} s; second half {steady:.3f})"
    return [at_most("time / least", ratio, 1.05, note=note), *_clean(log, failed)]


def _over_least(admitted, kind, per_minute):
    tokens = sum(getattr(arrival, kind) for arrival in admitted[:-1])
    return (admitted[-1].at - admitted[0].at) / (tokens * 60 / per_minute)

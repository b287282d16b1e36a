"""How much of a told quota is used, by the fake API's own log."""

from __future__ import annotations

import random

from tests.bench.figures import at_most, more_than, none_of, scaled
from tests.bench.logs import let_in, over_least, refused, token_figure
from tests.bench.server import Server
from tests.bench.work import ask, between, push

#: Seconds' worth of tokens the fake API lets in at once: far less than the real one's minute, so
#: that a 429 would show. Ours lets 1 s of input and 1.5 s of output leave at once.
INPUT_BUCKET_SECONDS = 2.0
OUTPUT_BUCKET_SECONDS = 2.0

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
    log, failed = input_mix(scaled(300, share), 600_000, itpm=600_000)
    return [token_figure(log, "input_tokens", 600_000, 1.05), *_clean(log, failed)]


def output_tokens(share):
    """A told OTPM, answers that differ tenfold, and ``max_tokens`` above the longest."""
    log, failed = output_mix(scaled(300, share), 300_000, otpm=300_000)
    return [token_figure(log, "output_tokens", 300_000, 1.05), *_clean(log, failed)]


def input_mix(count, per_minute, **told):
    """Prompts that differ tenfold: the log, and how many failed."""
    source = random.Random(4)
    texts = ["x" * 4 * between(source, *INPUT_SPREAD) for _ in range(count)]
    bucket = per_minute / 60 * INPUT_BUCKET_SECONDS
    with Server(itpm=per_minute, itpm_burst=bucket, latency=0.2) as server:
        return push(server, map(ask, texts), **told)


def output_mix(count, per_minute, **told):
    """Answers that differ tenfold, each a second long: the log, and how many failed."""
    calls = [ask(max_tokens=1500) for _ in range(count)]
    bucket = per_minute / 60 * OUTPUT_BUCKET_SECONDS
    with Server(
        otpm=per_minute, otpm_burst=bucket, output_tokens=OUTPUT_SPREAD, latency=1.0
    ) as server:
        return push(server, calls, **told)


def _requests(count, rpm, *, burst, latency, most):
    with Server(rpm=rpm, burst=burst, latency=latency) as server:
        log, failed = push(server, [ask() for _ in range(count)], rpm=rpm)
    ratio, seconds = over_least(let_in(log), rpm)
    note = f"({seconds:.2f} s)"
    return [at_most("time / least", ratio, most, note=note), *_clean(log, failed)], log


def _clean(log, failed):
    return [none_of("429s", len(refused(log))), none_of("failed", failed)]

"""What becomes of calls that a server refuses: too many, broken, overloaded, unpaid."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import wait

from claude_throttle.errors import AccountSuspended
from tests.bench.figures import Figure, at_most, none_of, scaled
from tests.bench.learned import FULL_PACE
from tests.bench.logs import few_refused, let_in, over_least, pace, refused
from tests.bench.server import Server
from tests.bench.work import ask, failures, push, throttler

#: Of a hundred requests; together every tenth fails.
FAULTS = {"529": 0.05, "500": 0.03, "reset": 0.02}

#: Seconds in which an answer comes back and is understood, and what had left before arrives.
ON_THE_WAY_SECONDS = 0.1


def four_at_once(share):
    """A server that takes four at a time, which no header tells."""
    count, latency = scaled(120, share), 0.3
    with Server(max_concurrency=4, rpm=4000, latency=latency) as server:
        log, failed = push(server, [ask() for _ in range(count)])
    admitted = let_in(log)
    seconds = admitted[-1].at + latency - admitted[0].at
    ratio, note = seconds / (count / 4 * latency), f"({seconds:.2f} s)"
    return [at_most("time / least", ratio, 1.25, note=note), *few_refused(log, failed, 15)]


def faults(share):
    """Every tenth request fails, by no fault of ours; nothing told."""
    return _with_faults(share, 1.03)


def faults_told(share):
    """The same with the rate told: strictly spaced, each failed attempt costs its place."""
    return _with_faults(share, 1.20, rpm=2400)


def _with_faults(share, most, **told):
    rpm = 2400
    with Server(rpm=rpm, burst=40, latency=0.2, fault_rates=FAULTS) as server:
        log, failed = push(server, [ask() for _ in range(scaled(1200, share))], **told)
    ratio, seconds = over_least(let_in(log), rpm)
    # An overloaded edge takes nothing from the quota, a broken answer does: no client gets it back.
    charged = sum(arrival.status not in (429, 529) for arrival in log)
    note = f"({seconds:.2f} s; {seconds / ((charged - 1) * 60 / rpm):.3f} of all that was charged)"
    figure = at_most("time / least", ratio, most, note=note)
    return [figure, none_of("failed", failed), _shown("429s", len(refused(log)))]


def outage(share):
    """A minute of 529s without a word of when it ends, and 1,000 calls that wait."""
    rpm, part = 1200, share
    with Server(rpm=rpm, burst=20, latency=0.2) as server, throttler(server.url) as throttle:
        futures = [throttle.submit(raw=True, **ask()) for _ in range(scaled(1100, share))]
        wait(futures, 5 * part)  # they are not all done before
        server.change(outage=True)
        began = time.monotonic()
        wait(futures, 60 * part)
        server.change(outage=False)
        ended = time.monotonic()
        failed = failures(futures)
        log = server.arrivals()
    during = sum(began <= arrival.at < ended for arrival in log)
    first = next(arrival.at for arrival in let_in(log) if arrival.at >= ended) - ended
    full = pace(log, ended + 10 * part, 10 * part) / (rpm / 60)
    note = f"(first after {first:.1f} s)"
    return [
        at_most("requests during it", during, 30, "{:.0f}"),
        none_of("failed", failed),
        Figure(
            "share of the pace after 10 s",
            f"≥ {FULL_PACE}",
            f"{full:.3f} {note}",
            full >= FULL_PACE,
        ),
        _shown("429s", len(refused(log))),
    ]


def spend_cap(share):
    """The account may spend no more, in the middle of a run."""
    # Dicts first: then nobody has loaded the official SDK yet, whose errors are raised.
    return [*_capped(share, "dicts", raw=True), *_capped(share, "typed", raw=False)]


def _capped(share, kind, raw):
    count, done_at = scaled(400, share), []
    with Server(rpm=2400, burst=40, latency=0.2, spend_cap_after=count // 2) as server:
        with throttler(server.url) as throttle:
            futures = [throttle.submit(raw=raw, **ask(f"call {n}")) for n in range(count)]
            for future in futures:
                future.add_done_callback(lambda _: done_at.append(time.monotonic()))
            failures(futures)
        log = server.arrivals()
    capped_at = refused(log)
    after = sum(arrival.at > capped_at[0] + ON_THE_WAY_SECONDS for arrival in log)
    sent = Counter(arrival.nonce for arrival in log)
    told = sum(isinstance(future.exception(), AccountSuspended) for future in futures)
    note = f"({len(capped_at)} met it, {told} were told of the suspension)"
    return [
        none_of(f"{kind}: requests after its answer", after),
        at_most(
            f"{kind}: s until all are resolved", max(done_at) - capped_at[0], 1.0, "{:.2f}", note
        ),
        none_of(f"{kind}: retried", sum(times > 1 for times in sent.values())),
    ]


def tenants(share):
    """One queues ten thousand calls, another a single one."""
    with Server() as server:
        throttle = throttler(server.url, rpm=600)
        many = [
            throttle.submit(raw=True, tenant="many", **ask()) for _ in range(scaled(10_000, share))
        ]
        many[4].result()
        submitted = time.monotonic()
        throttle.submit(raw=True, tenant="one", **ask("the one")).result()
        throttle.close(cancel_pending=True)
        log = server.arrivals()
    later = [arrival.nonce for arrival in log if arrival.at > submitted]
    place = later.index("the one") + 1
    return [at_most("its place in the line", place, 2, "{:.0f}")]


def _shown(what, count):
    """Nothing is asked of it, but it should be known."""
    return Figure(what, "-", f"{count}", True)

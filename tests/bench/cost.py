"""What a call costs: processor time beside the usual ways to send it, and latency."""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.bench.figures import at_most, scaled
from tests.bench.server import Server
from tests.bench.work import UNBOUNDED_RPM, ask, throttler

THREADS = 32
ROUNDS = 40
LATENCY_BLOCK = 20


def raw(share):
    """Dicts, against ``requests.Session.post`` + ``json()``."""
    count = scaled(500, share)
    with Server(log_limit=1) as server, pooling_session() as session:
        url = server.url + "/v1/messages"
        with throttler(server.url, rpm=UNBOUNDED_RPM, max_concurrency=THREADS) as ours:
            theirs = pooled(lambda: session.post(url, json=ask()).json(), count)
            return compare(_submitted(ours, count, raw=True), theirs, 0.60, share)


def typed(share):
    """Typed messages, against the official SDK."""
    import anthropic

    count = scaled(200, share)
    with Server(log_limit=1) as server:
        options = {"api_key": "sk-ant-not-a-key", "base_url": server.url, "max_retries": 0}
        ours = throttler(server.url, rpm=UNBOUNDED_RPM, max_concurrency=THREADS)
        with anthropic.Anthropic(**options) as client, ours:
            ours.preload()
            theirs = pooled(lambda: client.messages.create(**ask()), count)
            return compare(_submitted(ours, count), theirs, 0.50, share)


def latency(share):
    """One call at a time on an idle throttler, against ``Session.post``."""
    count = scaled(1000, share)
    ours, theirs = [], []
    with Server(log_limit=1) as server, pooling_session() as session:
        url = server.url + "/v1/messages"
        with throttler(server.url, rpm=UNBOUNDED_RPM) as throttle:
            # In blocks, so that what our threads tidy up after a call is our own loss.
            for _ in range(count // LATENCY_BLOCK):
                ours += _each_seconds(lambda: throttle.call(raw=True, **ask()))
                theirs += _each_seconds(lambda: session.post(url, json=ask()))
    measured, limit = (statistics.median(values) * 1e6 for values in (ours, theirs))
    return [at_most("median of call()", measured, limit, "{:.0f} µs")]


def pooling_session():
    """One that a pool of threads may share."""
    session = requests.Session()
    # Room for every thread: with the default of 10 it would open connections all the time.
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=2 * THREADS))
    session.headers.update({"x-api-key": "not-a-key", "anthropic-version": "2023-06-01"})
    return session


def pooled(send, count):
    # Started once: how long its threads take to start would blur what a call costs.
    pool = ThreadPoolExecutor(THREADS)

    def everything():
        for future in [pool.submit(send) for _ in range(count)]:
            future.result()
        return count

    return everything


def _submitted(throttle, count, **options):
    def everything():
        for future in [throttle.submit(**ask(), **options) for _ in range(count)]:
            future.result()
        return count

    return everything


def compare(ours, theirs, limit, share):
    """Processor time of each call, in many short rounds after one that warms both up."""
    spent = {ours: [], theirs: []}
    for number in range(scaled(ROUNDS, share, least=2) + 1):
        # By turns, who goes first, too: a shared machine changes its mood within a second.
        for work in (ours, theirs) if number % 2 else (theirs, ours):
            each = _cpu_seconds_each(work)
            if number:
                spent[work].append(each)
    ratios = [mine / usual for mine, usual in zip(spent[ours], spent[theirs])]
    quartiles = statistics.quantiles(ratios, n=4)
    print("    rounds:", " .. ".join(f"{ratio:.2f}" for ratio in quartiles), file=sys.stderr)
    mine, usual = (statistics.median(spent[work]) * 1e6 for work in (ours, theirs))
    note = f"({mine:.0f} / {usual:.0f} µs)"
    return [at_most("CPU a call", statistics.median(ratios), limit, "{:.2f}", note)]


def mean_cpu_seconds(calls, count):
    """Of each of *calls*, which do all in the thread they are called in: many threads' mean.

    Each thread makes all of them by turns, in any order, so that a machine that changes its mood
    is moody with all of them.
    """
    spent = {call: [] for call in calls}

    def work(_):
        for number in range(max(2, count // THREADS // len(calls))):
            for call in random.sample(calls, len(calls)):
                before = time.thread_time()
                call()
                if number:  # after one that warms up
                    spent[call].append(time.thread_time() - before)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return [statistics.fmean(spent[call]) for call in calls]


def _cpu_seconds_each(work):
    before = _cpu_seconds()
    count = work()
    return (_cpu_seconds() - before) / count


def _cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _each_seconds(work):
    instants = [time.perf_counter()]
    for _ in range(LATENCY_BLOCK):
        work()
        instants.append(time.perf_counter())
    return [after - before for before, after in zip(instants, instants[1:])]

"""A fresh process, which imports the official SDK while its first calls are on the wire."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from tests.bench.figures import at_most, scaled
from tests.bench.server import ROOT, Server

SLOW_RPM = 1800

#: Processes of each kind, by turns: a shared machine changes its mood.
ROUNDS = 3

THREADS_MOST = 100
MEGABYTES_MOST = 120


def calls(share):
    """3,000 typed calls at once, imports included, against as many by the official SDK."""
    count = scaled(3000, share)
    ours, theirs = [], []
    with Server(log_limit=1) as server:
        for _ in range(scaled(ROUNDS, share, least=1)):
            ours.append(_in_a_fresh_process("many", server.url, count))
            theirs.append(_in_a_fresh_process("official", server.url, count))
    mine, usual = (statistics.median(one["cpu"] for one in runs) for runs in (ours, theirs))
    note = f"({mine / count * 1e6:.0f} / {usual / count * 1e6:.0f} µs)"
    return [
        at_most("CPU a call", mine / usual, 0.75, "{:.2f}", note),
        at_most("threads", _median(ours, "threads"), THREADS_MOST, "{:.0f}"),
        at_most("memory", _median(ours, "megabytes"), MEGABYTES_MOST, "{:.0f} MB"),
    ]


def pace(share):
    """300 calls of 4 s each, told 1,800 RPM: the import must not take from the pace."""
    count = scaled(300, share)
    least = (count - 1) * 60 / SLOW_RPM
    with Server(rpm=SLOW_RPM, burst=20, latency=4.0) as server:
        _in_a_fresh_process("paced", server.url, count)
        arrivals = server.arrivals()
    took = arrivals[-1].at - arrivals[0].at
    note = f"({took:.2f} s)"
    return [at_most("time / least", (took + 4.0) / (least + 4.0), 1.02, note=note)]


def _median(runs, name):
    return statistics.median(one[name] for one in runs)


def _in_a_fresh_process(kind, url, count):
    command = [sys.executable, "-m", "tests.bench.cold_calls", kind, url, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)

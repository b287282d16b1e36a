"""What a call costs the request thread of a Django view, under gunicorn with threads."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import requests

from tests.bench.cost import LATENCY_BLOCK
from tests.bench.figures import at_most, scaled
from tests.bench.server import Server
from tests.support.running import PATIENCE_SECONDS, listening, running, script


def request_thread(share):
    """One visitor at a time, the two views by turns: an idle throttler, ``Session.post``."""
    count = scaled(1000, share)
    with tempfile.TemporaryDirectory() as folder, Server(log_limit=1) as fake:
        with listening() as listener, running(_command(listener), fake, Path(folder)):
            url = "http://{}:{}/".format(*listener.getsockname())
            # In blocks, so that what our threads tidy up after a call is our own loss.
            ours, theirs = zip(*(_two_blocks(url) for _ in range(count // LATENCY_BLOCK)))
    # Block by block: neighbours share the machine's mood.
    ratios = [mine / usual for mine, usual in zip(ours, theirs)]
    mine, usual = (statistics.median(values) * 1e6 for values in (ours, theirs))
    note = f"({mine:.0f} / {usual:.0f} µs)"
    return [at_most("call() in a view, median", statistics.median(ratios), 1.0, "{:.2f}", note)]


def _two_blocks(url):
    return [
        statistics.median(_visit(url + view) for _ in range(LATENCY_BLOCK))
        for view in ("ours", "theirs")
    ]


def _command(listener):
    options = [f"-b=fd://{listener.fileno()}", "-w=1", "-k=gthread", "--threads=8"]
    return [script("gunicorn"), *options, "tests.bench.django_site:application"]


def _visit(url):
    # On a connection kept alive, gunicorn's head and body of an answer come 40 ms apart.
    headers = {"Connection": "close"}
    return float(requests.get(url, headers=headers, timeout=PATIENCE_SECONDS).text)

"""What a stream adds to ``requests`` until its first event is there."""

from __future__ import annotations

import statistics
import time

import requests

from tests.bench.figures import at_most, scaled
from tests.bench.server import Server
from tests.bench.work import UNBOUNDED_RPM, ask, throttler


def first_event(share):
    """One after the other, both on a kept connection; the answer takes 20 ms."""
    count = scaled(500, share)
    ours, theirs = [], []
    with Server(log_limit=1, latency=0.02) as server, requests.Session() as session:
        url = server.url + "/v1/messages"
        with throttler(server.url, rpm=UNBOUNDED_RPM) as throttle:
            throttle.preload()
            for _ in range(max(2, count)):
                ours.append(_seconds(lambda: throttle.stream(**ask())))
                theirs.append(_seconds(lambda: _lines(session, url)))
    added = (statistics.median(ours) - statistics.median(theirs)) * 1e6
    return [at_most("added to the first event, median", added, 500.0, "{:.0f} µs")]


def _seconds(opened):
    """Until the first event of what is opened; the rest is read, too."""
    before = time.perf_counter()
    stream = opened()
    next(stream)
    seconds = time.perf_counter() - before
    for _ in stream:
        pass
    return seconds


def _lines(session, url):
    headers = {"x-api-key": "not-a-key", "anthropic-version": "2023-06-01"}
    answer = session.post(url, json={**ask(), "stream": True}, headers=headers, stream=True)
    return (line for line in answer.iter_lines() if line.startswith(b"data:"))

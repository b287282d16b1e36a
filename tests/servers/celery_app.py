"""A Celery worker's app, whose tasks write down what they return."""

from __future__ import annotations

import json
import os

from celery import Celery

import claude_throttle.contrib.celery  # noqa: F401 - closes what the children leave
from tests.servers.work import report

app = Celery("tests", broker=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1


@app.task(name="work")
def work(nonce: str) -> None:
    """One report."""
    with open(os.environ["REPORTS"], "ab", buffering=0) as reports:
        reports.write(json.dumps(report(nonce)).encode() + b"\n")

"""A Celery app whose tasks ask Claude, and come back rather than wait."""

from __future__ import annotations

import os
import time

from celery import Celery

from claude_throttle import Throttler
from claude_throttle.contrib.celery import ClaudeTask
from tests.servers.asking import ask, echo, note

app = Celery("tests", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1
app.conf.task_default_queue = os.environ["QUEUE"]

throttler = Throttler(
    api_key="sk-ant-test",
    base_url=os.environ["FAKE_URL"],
    shared=os.environ["BROKER"],
    rpm=120,
    max_retries=0,
)


@app.task(base=ClaudeTask, bind=True, throttler=throttler, longest_wait=1.0, max_retries=0)
def question(self, text):
    """Notes how long it held up its process."""
    began = time.monotonic()
    try:
        return echo(self.ask_claude(**ask(text)))
    finally:
        note(f"held {time.monotonic() - began:.3f} {self.request.retries} {text}")


@app.task
def shout(text):
    """The next link of a chain."""
    return text.upper()


@app.task(base=ClaudeTask, bind=True, throttler=throttler, longest_wait=1.0)
def twice(self, text):
    """The second call of a run waits, however long that takes."""
    return [echo(self.ask_claude(**ask(f"{text} {n}"))) for n in range(2)]

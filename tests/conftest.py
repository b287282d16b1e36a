"""A fake API, a throttler that talks to it, and a clock that moves when told."""

from __future__ import annotations

import contextlib
from concurrent.futures import wait

import pytest

from claude_throttle import Throttler
from claude_throttle.testing import FakeClaude, ManualClock

MODEL = "claude-sonnet-5"


def ask(text="hello", **more):
    """Keywords of one call."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "raw": True,
        **more,
    }


def move_until_done(clock, futures, step=1.0):
    """Move time on, *step* seconds at a time, until all *futures* are done."""
    for _ in range(2000):
        if not wait(futures, 0.02).not_done:
            return
        clock.advance(step)
    raise AssertionError("they never ended")


def note_departures(throttler, model=MODEL):
    """The instants at which the worker lets calls leave, as they come."""
    pacer = throttler._process().room(model).pacer
    instants, take = [], pacer.take

    def noting(cost, now):
        instants.append(now)
        take(cost, now)

    pacer.take = noting
    return instants


def echo(message):
    """What the fake API says it was asked."""
    return message["content"][0]["text"].removeprefix("echo: ")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    """The machine's own keys and proxies must not leak into a test."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manual():
    return ManualClock()


@pytest.fixture
def fake():
    """``fake(**limits)`` starts a server; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(FakeClaude(**limits))


@pytest.fixture
def throttle(fake):
    """``throttle(server, **settings)`` makes a throttler; what is left of it is cut at the end."""
    made = []

    def make(server, **settings):
        settings.setdefault("rpm", 1e6)
        throttler = Throttler(api_key="sk-ant-test-key-0000", base_url=server.url, **settings)
        made.append(throttler)
        return throttler

    yield make
    for throttler in made:
        throttler.close(timeout=0, cancel_pending=True)

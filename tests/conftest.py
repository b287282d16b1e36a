"""A fake API, a throttler that talks to it, and a clock that moves when told."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from concurrent.futures import wait

import pytest
from hypothesis import HealthCheck, settings

from claude_throttle import Throttler
from claude_throttle.testing import FakeClaude, ManualClock

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

MODEL = "claude-sonnet-5"

# A shell's background job ignores Ctrl-C, and every program started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """What was skipped is said even to those who did not ask."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in sorted({report.longrepr[2] for report in skipped}):
        terminalreporter.write_line(f"NOT TESTED: {reason}", red=True, bold=True)


def ask(text="hello", **more):
    """Keywords of one call."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "raw": True,
        **more,
    }


#: Of the test that runs.
SERVERS, THROTTLERS = [], []


def move_until_done(clock, futures, step=1.0):
    """Move time on, *step* seconds at a time, until all *futures* are done."""
    for _ in range(2000):
        if not wait(futures, 0.02).not_done:
            return
        wait_for_the_wire()
        clock.advance(step)
    raise AssertionError("they never ended")


def wait_for_the_wire(seconds=0.25):
    """Until each request that left is with its server, and each answer with its caller.

    Else time would move while they are on their way: what left a second after another could arrive
    half a second after it. Not for longer than *seconds*: a permit() has no request to wait for.
    """
    never, before, quiet = threading.Event(), (), 0
    for _ in range(int(seconds * 1000)):
        now = out, held, _ = _look()
        # A moment longer: what comes back may let the next one leave.
        quiet = quiet + 1 if out == held and now == before else 0
        if quiet > 2:
            return
        before = now
        never.wait(0.001)


def _look():
    """Requests that are out, those that a server holds back, and all that ever came."""
    processes = (process for throttler in THROTTLERS for process in throttler._begun())
    connections = (one for server in SERVERS for one in list(server._connections))
    return (
        sum(process.limiter.in_use for process in processes),
        sum(connection._plan is not None for connection in connections),
        sum(len(server.arrivals) for server in SERVERS),
    )


def note_departures(throttler, noted=lambda cost, now: now, model=MODEL):
    """What is *noted* of each call the worker lets leave, the instant if nothing else."""
    pacer = throttler._process().model_group(model).pacer
    departures, take = [], pacer.take

    def noting(cost, now, answers=True):
        departures.append(noted(cost, now))
        return take(cost, now, answers)

    pacer.take = noting
    return departures


def echo(message):
    """What the fake API says it was asked."""
    return message["content"][0]["text"].removeprefix("echo: ")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    """The machine's own keys and proxies must not leak into a test."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _no_network(monkeypatch):
    """Whoever connects anywhere fails."""

    def connect(self, address):
        raise AssertionError(f"somebody connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def manual():
    return ManualClock()


@pytest.fixture
def fake():
    """``fake(**limits)`` starts a server; it ends with the test."""
    with contextlib.ExitStack() as stack:
        stack.callback(SERVERS.clear)

        def start(**limits):
            SERVERS.append(stack.enter_context(FakeClaude(**limits)))
            return SERVERS[-1]

        yield start


@pytest.fixture
def throttle(fake):
    """``throttle(server, **settings)`` makes a throttler; what is left of it is cut at the end."""

    def make(server, **settings):
        # A burst, so that pace binds nothing even while a manual clock stands still.
        settings = {"rpm": 1e6, "burst": 1000, **settings} if "rpm" not in settings else settings
        throttler = Throttler(api_key="sk-ant-test-key-0000", base_url=server.url, **settings)
        THROTTLERS.append(throttler)
        return throttler

    yield make
    while THROTTLERS:
        THROTTLERS.pop().close(timeout=0, cancel_pending=True)

"""A fake API, a throttler that talks to it, a clock that moves when told, and a Redis.

A Redis is named by CLAUDE_THROTTLE_TEST_REDIS_URL, else we start one: one per xdist worker, emptied
before each test. One that was named may hold other things, so each test uses an account of its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys

import pytest
from hypothesis import HealthCheck, settings

from claude_throttle import Throttler
from claude_throttle.testing import FakeClaude, ManualClock

# Before anything imports them: their asserts explain themselves, too.
pytest.register_assert_rewrite("tests.support")

from tests.support import compiling, needs  # noqa: E402
from tests.support.calls import KEY  # noqa: E402
from tests.support.redis_server import RedisServer, Sentinel  # noqa: E402
from tests.support.waiting import SERVERS, THROTTLERS  # noqa: E402
from tests.support.warm_programs import WarmParent  # noqa: E402

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40
)
settings.load_profile("patient")

compiling.compile_for_all()

# A shell's background job ignores Ctrl-C, and every program started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: How many modules were imported when the garbage collector was last told to leave alone what is
#: there: one number.
_MODULES_SEEN = [0]


def pytest_sessionstart(session):
    """Before the workers look for tests."""
    compiling.compile_share(session.config)


def pytest_collection_modifyitems(config, items):
    """What the installed release of the SDK lacks is not collected; see tests/support/needs.py."""
    lacking = [item for item in items if needs.lacks(item)]
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in set(lacking)]


def pytest_collection_finish():
    """What was collected lives to the end: the garbage collector need not look at it each time."""
    _leave_alone()


def pytest_runtest_teardown():
    """Nor at what a test imported, such as the SDK: some tests collect garbage a hundred times."""
    if len(sys.modules) > _MODULES_SEEN[0] + 100:
        _leave_alone()


def _leave_alone():
    gc.collect()
    gc.freeze()
    _MODULES_SEEN[0] = len(sys.modules)


def pytest_terminal_summary(terminalreporter):
    """What was skipped is said even to those who did not ask."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in sorted({report.longrepr[2] for report in skipped}):
        terminalreporter.write_line(f"NOT TESTED: {reason}", red=True, bold=True)


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
        throttler = Throttler(api_key=KEY, base_url=server.url, **settings)
        THROTTLERS.append(throttler)
        return throttler

    yield make
    while THROTTLERS:
        THROTTLERS.pop().close(timeout=0, cancel_pending=True)


@pytest.fixture(scope="session")
def _own_redis():
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_url(request):
    """The URL of a server; what the test finds there is not its own."""
    named = os.environ.get("CLAUDE_THROTTLE_TEST_REDIS_URL")
    if named:
        return named
    server = request.getfixturevalue("_own_redis")
    assert server.ask("FLUSHALL").startswith(b"+OK")
    return server.url


@pytest.fixture
def start_redis():
    """``start_redis(*options)``; all are killed when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(*options, program=None):
            server = RedisServer(*options, program=program)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def start_sentinel():
    """``start_sentinel(primary)``; all are killed when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(primary):
            server = Sentinel(primary)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="session")
def warm():
    """Runs programs in processes that have imported the SDK already."""
    parent = WarmParent()
    yield parent
    parent.close()

"""The pytest plugin of claude_throttle: ``claude_api``, ``claude_throttler``, ``claude_clock``.

pytest imports this at every start, in every project that has claude_throttle installed. So it is
outside the package, whose import costs 40 ms and which coverage tools must see being imported, and
imports it only in fixtures. PYTEST_DONT_REWRITE, since it may be loaded already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from claude_throttle import Clock, Throttler
    from claude_throttle.testing import ClaudeApi, ManualClock

#: Looks like a key; no server knows it.
KEY = "sk-ant-api03-claude-api-fixture"

#: Real seconds in which calls must be answered after a test.
PATIENCE_SECONDS = 5.0

#: Seconds by which a manual clock is moved on meanwhile, and the real seconds of each step.
STEP_SECONDS, PAUSE_SECONDS = 5.0, 0.01

#: Settings for tests that give no pace: no call waits.
UNLIMITED = {"rpm": 1e6, "burst": 1000}
_PACES = frozenset({"rpm", "rpd", "itpm", "otpm", "tpm", "tpd", "burst", "tier", "settings"})

#: Variables of a developer's machine that must not affect a test's calls.
_REMOVED = (
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_ADMIN_KEY",
    "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_THROTTLE_SHARED",
    "CLAUDE_THROTTLE_TESTING",
)

MARKERS = (
    'claude_throttler(clock="real", unanswered="fail", **settings): for the fixture '
    'claude_throttler: settings of claude_throttle.Throttler (rpm=50); clock="manual" lets time '
    'stand still until claude_clock.advance(seconds); unanswered="cancel" drops what is left at '
    "the end of the test.",
    "claude_api(**options): for the fixture claude_api: keywords of "
    "claude_throttle.testing.FakeClaude (rpm=50, latency=0.1).",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, for ``--strict-markers``."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def claude_clock(_claude_clock: Clock) -> ManualClock:
    """The clock of a test marked ``claude_throttler(clock="manual")``: ``advance(seconds)``."""
    from claude_throttle.testing import ManualClock

    if not isinstance(_claude_clock, ManualClock):
        _refuse('claude_clock needs a manual clock: mark the test claude_throttler(clock="manual")')
    return _claude_clock


@pytest.fixture
def claude_api(request: pytest.FixtureRequest, _claude_clock: Clock) -> Iterator[ClaudeApi]:
    """A fake Claude API on loopback, and environment variables that point to it.

    ``claude_api.answer("text")``, ``refuse(429, retry_after=2)``, ``script(…)``, ``latency``,
    ``asked``, ``prompts``, ``arrivals``. ``ANTHROPIC_API_KEY`` and ``ANTHROPIC_BASE_URL`` are set
    while the test runs, so a ``Throttler()`` or an ``anthropic.Anthropic()`` made in it talks to
    this server. Proxies and ``CLAUDE_THROTTLE_SHARED`` are not used.
    """
    from claude_throttle.testing import ClaudeApi

    options = _options(request, "claude_api")
    # Not the fixture monkeypatch: a test that undoes it would call the real API.
    api = ClaudeApi(clock=_claude_clock, **options)
    with api, pytest.MonkeyPatch.context() as environment:
        _point_to(api.url, environment)
        yield api


@pytest.fixture
def claude_throttler(
    request: pytest.FixtureRequest, claude_api: ClaudeApi, _claude_clock: Clock
) -> Iterator[Throttler]:
    """A Throttler that calls ``claude_api``; the marker of the same name has its settings.

    Without a quota among them it does not limit the pace. At the end of the test it is drained:
    calls have five seconds to be answered, and a manual clock is moved on meanwhile. Calls that are
    unanswered after that are cancelled, and the test fails; with ``unanswered="cancel"`` they are
    cancelled at once.
    """
    from claude_throttle import Throttler

    options = _options(request, "claude_throttler")
    options.pop("clock", None)
    unanswered = options.pop("unanswered", "fail")
    _require_one_of("unanswered", unanswered, ("fail", "cancel"))
    pace = {} if _PACES & set(options) else UNLIMITED
    settings = {"api_key": KEY, "base_url": claude_api.url, **pace, **options}
    throttler = Throttler(clock=_claude_clock, **settings)
    try:
        yield throttler
        left = _drained(throttler, _claude_clock) if unanswered == "fail" else 0
    finally:
        throttler.close(timeout=0, cancel_pending=True)
    if left:
        _refuse(
            f"claude_throttler: {left} of the test's calls had no answer {PATIENCE_SECONDS:g} s "
            "after its end, and were cancelled; if that is intended, mark the test "
            'claude_throttler(unanswered="cancel")'
        )


@pytest.fixture
def _claude_clock(request: pytest.FixtureRequest) -> Clock:
    """The clock that the fixtures of one test share."""
    kind = _options(request, "claude_throttler").get("clock", "real")
    _require_one_of("clock", kind, ("real", "manual"))
    if kind == "manual":
        from claude_throttle.testing import ManualClock

        return ManualClock()
    from claude_throttle import SYSTEM_CLOCK

    return SYSTEM_CLOCK


def _options(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """The keywords of all markers called *name*; those nearest to the test override others."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(name))):
        if marker.args:
            _refuse(f"the marker {name} takes keywords only, as in {name}(rpm=50)")
        options.update(marker.kwargs)
    return options


def _require_one_of(name: str, value: object, choices: tuple[str, str]) -> None:
    if value not in choices:
        first, second = choices
        _refuse(
            f'the marker claude_throttler({name}=…) must be "{first}" or "{second}", not {value!r}'
        )


def _refuse(why: str) -> NoReturn:
    pytest.fail(why, pytrace=False)


def _point_to(url: str, environment: pytest.MonkeyPatch) -> None:
    for name in _REMOVED:
        environment.delenv(name, raising=False)
    environment.setenv("ANTHROPIC_API_KEY", KEY)
    environment.setenv("ANTHROPIC_BASE_URL", url)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name)
        environment.setenv(name, f"127.0.0.1,{others}" if others else "127.0.0.1")


def _drained(throttler: Throttler, clock: Clock) -> int:
    """Finish all calls; return how many were not answered."""
    from claude_throttle import SYSTEM_CLOCK
    from claude_throttle.testing import ManualClock

    if not isinstance(clock, ManualClock):
        return throttler.drain(PATIENCE_SECONDS)
    import threading

    pause = threading.Event()  # never set
    give_up_at = SYSTEM_CLOCK.monotonic() + PATIENCE_SECONDS
    while left := throttler.drain(0):
        if SYSTEM_CLOCK.monotonic() > give_up_at:
            return left
        pause.wait(PAUSE_SECONDS)
        clock.advance(STEP_SECONDS)
    return 0

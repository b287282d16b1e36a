"""The pytest plugin of claude_throttle: ``claude_api``, ``claude_throttler``, ``claude_clock``.

pytest imports this at every start, in every project that has claude_throttle installed. So it
stands outside the package, whose import costs 40 ms, and loads that only in a fixture; and the
package stays unloaded until a coverage tool is there to watch it. PYTEST_DONT_REWRITE, since it may
be loaded already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from claude_throttle import Throttler
    from claude_throttle.core.threads.clock import Clock
    from claude_throttle.testing import ClaudeApi, ManualClock

#: Looks like a key and is none.
KEY = "sk-ant-api03-claude-api-fixture"

#: Real seconds that calls have to be answered in after a test.
PATIENCE_SECONDS = 5.0

#: Manual seconds by which time is moved on then, and the real ones that are given to each step.
STEP_SECONDS, PAUSE_SECONDS = 5.0, 0.01

#: So that pace binds nothing where a test told no pace.
UNBOUND = {"rpm": 1e6, "burst": 1000}
_PACES = frozenset({"rpm", "rpd", "itpm", "otpm", "tpm", "tpd", "burst", "tier", "settings"})

#: Where else a developer's machine, or the project's, would send a test's calls.
_ELSEWHERE = (
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
    """Markers must be known where pytest is strict about them."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def claude_clock(_claude_clock: Clock) -> ManualClock:
    """The clock of a test marked ``claude_throttler(clock="manual")``: ``advance(seconds)``."""
    from claude_throttle.testing import ManualClock

    if not isinstance(_claude_clock, ManualClock):
        _refuse('claude_clock moves by hand: mark the test claude_throttler(clock="manual")')
    return _claude_clock


@pytest.fixture
def claude_api(request: pytest.FixtureRequest, _claude_clock: Clock) -> Iterator[ClaudeApi]:
    """A fake Claude API on loopback, and an environment that leads there.

    ``claude_api.answer("text")``, ``refuse(429, retry_after=2)``, ``script(…)``, ``latency``,
    ``asked``, ``prompts``, ``arrivals``. ``ANTHROPIC_API_KEY`` and ``ANTHROPIC_BASE_URL`` are set
    while the test runs, so a ``Throttler()`` or an ``anthropic.Anthropic()`` made in it talks to
    this server; no proxy is asked, and no store of ``CLAUDE_THROTTLE_SHARED``.
    """
    from claude_throttle.testing import ClaudeApi

    options = _told(request, "claude_api")
    # Not the fixture monkeypatch: a test that undoes its own changes would be on the network.
    api = ClaudeApi(clock=_claude_clock, **options)
    with api, pytest.MonkeyPatch.context() as environment:
        _lead_to(api.url, environment)
        yield api


@pytest.fixture
def claude_throttler(
    request: pytest.FixtureRequest, claude_api: ClaudeApi, _claude_clock: Clock
) -> Iterator[Throttler]:
    """A Throttler that talks to ``claude_api``; the marker of the same name tells its settings.

    Told no pace, it keeps none. At the end it is drained: calls nobody waited for have five
    seconds to be answered, and a manual clock is moved on for them. What is unanswered then is cut
    off, and the test fails; or, with ``unanswered="cancel"``, all that is left is cut off at once.
    """
    from claude_throttle import Throttler

    options = _told(request, "claude_throttler")
    options.pop("clock", None)
    unanswered = options.pop("unanswered", "fail")
    _require_one_of("unanswered", unanswered, ("fail", "cancel"))
    pace = {} if _PACES & set(options) else UNBOUND
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
            "after its end, and were cut off; if that is meant, mark the test "
            'claude_throttler(unanswered="cancel")'
        )


@pytest.fixture
def _claude_clock(request: pytest.FixtureRequest) -> Clock:
    """What the fixtures of one test have in common."""
    kind = _told(request, "claude_throttler").get("clock", "real")
    _require_one_of("clock", kind, ("real", "manual"))
    if kind == "manual":
        from claude_throttle.testing import ManualClock

        return ManualClock()
    from claude_throttle.core.threads.clock import SYSTEM_CLOCK

    return SYSTEM_CLOCK


def _told(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """The keywords of all markers of that name; the one nearest to the test goes before."""
    told: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(name))):
        if marker.args:
            _refuse(f"the marker {name} takes keywords only, as in {name}(rpm=50)")
        told.update(marker.kwargs)
    return told


def _require_one_of(name: str, value: object, choices: tuple[str, str]) -> None:
    if value not in choices:
        first, second = choices
        _refuse(f'the marker claude_throttler({name}=…) is "{first}" or "{second}", not {value!r}')


def _refuse(why: str) -> NoReturn:
    pytest.fail(why, pytrace=False)


def _lead_to(url: str, environment: pytest.MonkeyPatch) -> None:
    for name in _ELSEWHERE:
        environment.delenv(name, raising=False)
    environment.setenv("ANTHROPIC_API_KEY", KEY)
    environment.setenv("ANTHROPIC_BASE_URL", url)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name)
        environment.setenv(name, f"127.0.0.1,{others}" if others else "127.0.0.1")


def _drained(throttler: Throttler, clock: Clock) -> int:
    """Finish what there is; how many calls had no end."""
    from claude_throttle.core.threads.clock import SYSTEM_CLOCK
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

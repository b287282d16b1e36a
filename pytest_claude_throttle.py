"""The pytest plugin of claude_throttle: ``claude_api``, ``claude_throttler``, ``claude_clock``.

pytest imports this at every start, in every project that has claude_throttle installed. So it is
outside the package, whose import costs 40 ms and which coverage tools must see being imported, and
imports it only in fixtures. PYTEST_DONT_REWRITE, since it may be loaded already.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Optional

import pytest

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from claude_throttle import Clock, Throttler
    from claude_throttle.testing import ClaudeApi, ManualClock

# What is promised; the hooks are pytest's.
__all__ = ["claude_api", "claude_clock", "claude_throttler", "pytest_configure"]

#: Looks like a key; no server knows it.
KEY = "sk-ant-api03-claude-api-fixture"

#: The API's own host.
HOST = "api.anthropic.com"

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
    "claude_live: the test may call the real Claude API, which claude_api_guard forbids.",
)

GUARD_HELP = (
    "If true (the default), no test reaches the real Claude API, but those marked claude_live, "
    "and where ANTHROPIC_API_KEY is missing, it is there before test modules are imported."
)


class RealCallRefused(RuntimeError):
    """A test was about to call the real API. No OSError, which clients would try again."""


class _Guard:
    """What keeps the tests of one pytest from the API: it does not resolve the API's hosts.

    All threads may resolve while a test's fixture sets :attr:`fake`: one attribute, no lock.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        host, port = _address(environ.get("ANTHROPIC_BASE_URL", ""))
        #: The base URL, if it is on this machine: calls to it are led, and never refused.
        self._local = (host, port) if _is_local(host) else None
        self._hosts = {HOST}
        if host and self._local is None:
            self._hosts.add(host)
        #: Host and port of the fake that is in the API's place.
        self.fake: Optional[tuple[str, int]] = None
        self._changes: Optional[pytest.MonkeyPatch] = None

    def begin(self) -> None:
        """Refuse; and where there is no key, set one that none knows.

        The base URL is the API's own: tests that mock requests or httpx mock that host.
        """
        self._changes = changes = pytest.MonkeyPatch()
        self.watch(changes)
        has_token = bool(os.environ.get("ANTHROPIC_AUTH_TOKEN"))
        if os.environ.get("ANTHROPIC_API_KEY") in (None, "", KEY) and not has_token:
            changes.setenv("ANTHROPIC_API_KEY", KEY)
            if not os.environ.get("ANTHROPIC_BASE_URL"):
                changes.setenv("ANTHROPIC_BASE_URL", f"https://{HOST}")
        if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
            # A proxy would resolve the name elsewhere.
            _bypass_proxies(changes, *sorted(self._hosts))

    def end(self) -> None:
        """Leave all as it was. Does nothing before begin()."""
        if self._changes is not None:
            self._changes.undo()
            self._changes = None

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Allow everything, if it had begun."""
        had_begun = self._changes is not None
        self.end()
        try:
            yield
        finally:
            if had_begun:
                self.begin()

    @contextlib.contextmanager
    def leading_to(self, url: str) -> Iterator[None]:
        """Lead to the fake at *url* what can be led there, and refuse the rest."""
        from claude_throttle.testing.interception import Interception

        parts, before = _split(url), self.fake
        with pytest.MonkeyPatch.context() as changes, Interception(url, self.is_api):
            self.fake = str(parts.hostname), int(parts.port or 80)
            self.watch(changes)
            try:
                yield
            finally:
                self.fake = before

    def is_api(self, host: str, port: Optional[int]) -> bool:
        """Whether *host* is the API's."""
        return host in self._hosts or (self.fake is not None and (host, port) == self._local)

    def watch(self, changes: pytest.MonkeyPatch) -> None:
        """Look at each name that this process resolves, as all of Python's clients do."""

        def watched(resolve: Any) -> Any:
            def look_first(host: Any, *rest: Any, **options: Any) -> Any:
                name = host.decode("latin-1") if isinstance(host, bytes) else str(host)
                name = name.rstrip(".").lower()
                if name in self._hosts:
                    raise RealCallRefused(self._refusal(name))
                return resolve(host, *rest, **options)

            return look_first

        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            changes.setattr(socket, name, watched(getattr(socket, name)))

    def _refusal(self, name: str) -> str:
        if self.fake is not None:
            return (
                f"claude_api is in use, so no request may leave for {name}, and this client cannot "
                "be led to the fake. Give it claude_api.url (ANTHROPIC_BASE_URL) as its base URL"
            )
        # Without a colon, behind which our own errors would look for the cause.
        return (
            f"no test may call the real Claude API ({name}). Use the fixture claude_api, which "
            "answers in its place. To call it all the same, mark the test claude_live, or set "
            "claude_api_guard = false in pytest's settings (pytest -o claude_api_guard=false)"
        )


_GUARD = pytest.StashKey[_Guard]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting ``claude_api_guard``."""
    parser.addini("claude_api_guard", GUARD_HELP, type="bool", default=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Begin before anything of the project is imported, by a conftest or by pytest-django."""
    _guard(early_config)
    yield


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, for ``--strict-markers``."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    _guard(config)  # a plugin that a conftest names is loaded late


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test that is marked ``claude_live`` call the API."""
    lifted = item.get_closest_marker("claude_live") is not None
    with _guard(item.config).lifted() if lifted else contextlib.nullcontext():
        yield


def _guard(config: pytest.Config) -> _Guard:
    """The guard of this pytest, which has begun unless the settings forbid it."""
    guard = config.stash.get(_GUARD, None)
    if guard is None:
        guard = config.stash[_GUARD] = _Guard(os.environ)
        if config.getini("claude_api_guard"):
            guard.begin()
            config.add_cleanup(guard.end)
    return guard


def _split(url: str) -> SplitResult:
    from urllib.parse import urlsplit  # not at every start of pytest

    return urlsplit(url)


def _address(url: str) -> tuple[str, Optional[int]]:
    """Host and port of a URL; an empty host where there is none."""
    try:
        parts = _split(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", None
    return (parts.hostname or "").rstrip("."), port


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _bypass_proxies(environment: pytest.MonkeyPatch, *hosts: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name)
        environment.setenv(name, ",".join([*hosts, others] if others else hosts))


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
    this server. So does one that was made before, at the API's own host, too; other requests to
    the API are refused. Proxies and ``CLAUDE_THROTTLE_SHARED`` are not used.
    """
    from claude_throttle.testing import ClaudeApi

    options = _options(request, "claude_api")
    # Not the fixture monkeypatch: a test that undoes it would call the real API.
    api = ClaudeApi(clock=_claude_clock, **options)
    with api, pytest.MonkeyPatch.context() as environment:
        _point_to(api.url, environment)
        with _guard(request.config).leading_to(api.url):
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
    _bypass_proxies(environment, "127.0.0.1")


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

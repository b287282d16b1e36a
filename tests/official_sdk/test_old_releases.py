"""What a release of the SDK that lacks something does instead; what is too old is said."""

from __future__ import annotations

import sys
import types

import anthropic
import pytest

from claude_throttle import ConfigurationError
from claude_throttle.transport import sdk
from tests.support.sdk_releases import CAPABILITIES
from tests.support.streams import ask

#: What each release has, by the notes of its changes.
SINCE = {"batches": (0, 41), "middleware": (0, 108)}
RELEASE = tuple(map(int, anthropic.__version__.split(".")[:2]))


@pytest.mark.parametrize("capability", SINCE)
def test_no_test_is_left_out_where_the_release_has_what_it_needs(capability):
    """A name that the SDK moved would leave out all of them, on any release."""
    assert CAPABILITIES[capability] == (SINCE[capability] <= RELEASE)


def test_without_middleware_the_door_that_works_is_named(fake, throttle, monkeypatch):
    """Before 0.108."""
    monkeypatch.delattr(anthropic, "Middleware", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        throttle(fake()).middleware()
    assert str(caught.value) == (
        f"anthropic {anthropic.__version__} takes no middleware (0.108 is the first that does); "
        "write anthropic.Anthropic(http_client=httpx.Client(transport=throttler.transport()))"
    )


# -- too old ---------------------------------------------------------------------------------------

TOO_OLD = ["0.15.1", "0.9.0", "0.3.11", "0.2.10", "0.15.0rc1"]


@pytest.mark.parametrize("version", ["0.16.0", "0.100.0", "1.0.0", "2.14.0", "10.1", "", "unknown"])
def test_a_release_that_works_or_is_unknown_is_not_refused(version):
    """Versions are no decimal fractions, and a patched one may call itself anything."""
    sdk.refuse_old(version)


@pytest.fixture(params=TOO_OLD)
def too_old(request, monkeypatch, tmp_path):
    """The version of an SDK that is installed, not imported yet, and too old."""
    folder = tmp_path / "anthropic"
    folder.mkdir()
    folder.joinpath("_version.py").write_text(f'__version__ = "{request.param}"')
    folder.joinpath("__init__.py").write_text("from ._version import __version__", "utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "anthropic"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in (("_is_loaded", False), ("_has_ended", False), ("_importer", None)):
        monkeypatch.setattr(sdk, name, value)
    sdk.installed_version.cache_clear()
    yield request.param
    sdk.installed_version.cache_clear()


def words(version):
    return (
        f"anthropic {version} is installed, and 0.16.0 is the oldest that claude_throttle works "
        "with: pip install 'anthropic>=0.16'"
    )


def test_a_release_that_is_too_old_is_refused_before_anything_is_sent(fake, throttle, too_old):
    """Nobody pays for an answer that cannot be given; each call says why."""
    server = fake()
    throttler = throttle(server)
    doors = [
        throttler.preload,
        throttler.middleware,
        lambda: throttler.call(**ask()),
        lambda: throttler.submit(**ask()).result(30),
        lambda: throttler.stream(**ask()),
    ]
    for door in doors:
        with pytest.raises(ConfigurationError) as caught:
            door()
        assert str(caught.value) == words(too_old)
    assert server.arrivals == []
    assert throttler.stats().in_flight == 0
    assert "anthropic" not in sys.modules


def test_what_needs_no_sdk_works_with_one_that_is_too_old(fake, throttle, too_old):
    """Dicts, permits."""
    throttler = throttle(fake())
    assert throttler.call(raw=True, **ask())["type"] == "message"
    with throttler.permit(model="m", max_tokens=1) as permit:
        permit.settle(usage={"input_tokens": 1, "output_tokens": 1})


def test_a_release_that_hides_its_version_is_refused_when_it_is_imported(monkeypatch):
    """As those before 0.3, which have no file for it."""
    monkeypatch.setitem(sys.modules, "anthropic", types.SimpleNamespace(__version__="0.2.10"))
    monkeypatch.setattr(sdk, "_is_loaded", False)
    with pytest.raises(ConfigurationError) as caught:
        sdk.load()
    assert str(caught.value) == words("0.2.10")

"""A project of its own, with the plugin installed as pip would install it."""

from __future__ import annotations

import pytest

from tests.support.plugin_projects import STRICT, install
from tests.support.programs import ROOT


@pytest.fixture
def project(pytester, monkeypatch):
    """A strict project; its pytest runs in a process of its own, and sees this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    install(pytester.path)
    pytester.makeini(STRICT)
    return pytester

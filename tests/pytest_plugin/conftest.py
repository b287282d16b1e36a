"""A project of its own, with the plugin installed as pip would install it."""

from __future__ import annotations

import pytest

from tests.support.plugin_projects import STRICT, install
from tests.support.programs import ROOT


@pytest.fixture
def project(pytester, monkeypatch):
    """A strict project whose pytest sees this checkout, in this process or in one of its own.

    Starting one costs two seconds: only what is about the start does.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    install(pytester.path)
    pytester.syspathinsert()
    pytester.makeini(STRICT)
    return pytester

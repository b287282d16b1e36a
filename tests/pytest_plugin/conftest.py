"""A project of its own, with the plugin installed as pip would install it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STRICT = """
[pytest]
addopts = --strict-markers --strict-config -p no:cacheprovider
filterwarnings = error
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A strict project; its pytest runs in a process of its own, and sees this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    _install(pytester.path)
    pytester.makeini(STRICT)
    return pytester


def _install(site):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    points = setup["options.entry_points"]["pytest11"]
    info = site / "claude_throttle-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: claude-throttle\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]{points}\n")
    # pytest wants to rewrite the asserts of all that comes with a plugin.
    files = ["claude_throttle/__init__.py", "pytest_claude_throttle.py"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))

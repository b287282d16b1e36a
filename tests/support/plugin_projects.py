"""Projects of users, with the pytest plugin installed as pip would install it."""

from __future__ import annotations

import configparser

from tests.support.programs import ROOT

STRICT = """
[pytest]
addopts = --strict-markers --strict-config -p no:cacheprovider
filterwarnings = error
"""


def install(site):
    """Write what pip writes beside a package, into the folder *site*."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    points = setup["options.entry_points"]["pytest11"]
    info = site / "claude_throttle_sdk-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: claude-throttle\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]{points}\n")
    # pytest wants to rewrite the asserts of all that comes with a plugin.
    files = ["claude_throttle/__init__.py", "pytest_claude_throttle.py"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))

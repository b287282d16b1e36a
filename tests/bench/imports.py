"""What ``import claude_throttle`` costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from tests.bench.figures import at_most, none_of, scaled
from tests.bench.server import ROOT

_TIMED = """
import sys, time
began = time.perf_counter()
{statement}
print(time.perf_counter() - began, int("anthropic" in sys.modules))
"""


#: Most of the package, and requests, are loaded with the first Throttler: it is shown, too.
_FIRST = "import claude_throttle; claude_throttle.Throttler()"


def importing(share):
    """In fresh interpreters, by turns with ``import requests``."""
    statements = ("import claude_throttle", "import requests", _FIRST)
    seconds, loaded = {one: [] for one in statements}, 0
    with tempfile.TemporaryDirectory() as bytecode:
        for one in statements:
            _time(one, bytecode)  # once, so that all is compiled, as an installed package is
        for _ in range(scaled(7, share, least=3)):
            for one in statements:
                took, anthropic = _time(one, bytecode)
                seconds[one].append(took)
                loaded += anthropic
    mine, usual, first = (statistics.median(seconds[one]) for one in statements)
    note = f"({mine * 1000:.0f} / {usual * 1000:.0f} ms; with a Throttler {first * 1000:.0f} ms)"
    return [
        at_most("against import requests", mine / usual, 1.3, "{:.2f}", note),
        none_of("times anthropic was loaded", loaded),
    ]


def _time(statement, bytecode):
    # A checkout may have no bytecode beside it, and the environment may forbid to write any.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _TIMED.format(statement=statement)]
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    ).stdout
    seconds, anthropic = out.split()
    return float(seconds), int(anthropic)

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
import {module}
print(time.perf_counter() - began, int("anthropic" in sys.modules))
"""


def importing(share):
    """In fresh interpreters, by turns with ``import requests``."""
    ours, theirs, loaded = [], [], 0
    with tempfile.TemporaryDirectory() as bytecode:
        for module in ("requests", "claude_throttle"):
            _import(module, bytecode)  # once, so that both are compiled, as an installed package is
        for _ in range(scaled(7, share, least=3)):
            seconds, anthropic = _import("claude_throttle", bytecode)
            ours.append(seconds)
            loaded += anthropic
            theirs.append(_import("requests", bytecode)[0])
    mine, usual = statistics.median(ours), statistics.median(theirs)
    note = f"({mine * 1000:.0f} / {usual * 1000:.0f} ms)"
    return [
        at_most("against import requests", mine / usual, 1.3, "{:.2f}", note),
        none_of("times anthropic was loaded", loaded),
    ]


def _import(module, bytecode):
    # A checkout may have no bytecode beside it, and the environment may forbid to write any.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _TIMED.format(module=module)]
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    ).stdout
    seconds, anthropic = out.split()
    return float(seconds), int(anthropic)

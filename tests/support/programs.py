"""Short Python programs, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: The checkout whose tests these are.
ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, sys, threading
from claude_throttle import *
def ask(text="hello", **more):
    messages = [dict(role="user", content=text)]
    return dict(model="m", max_tokens=9, messages=messages, raw=True, **more)
throttler = Throttler(api_key="k", base_url=sys.argv[1], rpm=6000, max_concurrency=2)
"""


def start(server, program):
    """A Python of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server, program):
    """Its output, after a good end."""
    process = start(server, program)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def run_alone(code):
    """The words that a program without a throttler prints; one that hangs fails here."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

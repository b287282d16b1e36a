"""Let the processes that share a quota go on, after "pause" or pause(everywhere=True).

--shared is the store that the programs use: sqlite:///path or redis://host:6379/0. Without it
CLAUDE_THROTTLE_SHARED is used. A process that called pause() itself stays paused.

Exit code: 0 they go on, 1 nobody is in the store, or it cannot be reached, 2 wrong usage, 130
interrupted.
"""

from __future__ import annotations

import argparse

import claude_throttle
from claude_throttle.cli import fleet

SUMMARY = "end the pause of all processes that share a quota"

add_arguments = fleet.add_store_arguments


def execute(arguments: argparse.Namespace) -> int:
    """Let all accounts of the store go on; return the exit code."""
    return fleet.steer(arguments, claude_throttle.resume_fleet, "free to go on")

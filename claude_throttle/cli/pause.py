"""Pause all processes that share a quota: they accept calls, and send none until "resume".

--shared is the store that the programs use: sqlite:///path or redis://host:6379/0. Without it
CLAUDE_THROTTLE_SHARED is used. It concerns every key in the store, and the key in
ANTHROPIC_API_KEY if there is one; processes that start later are paused, too. Calls on the wire are
answered. Processes hear of it within a second or two; "claude-throttle fleet" shows it.

Exit code: 0 paused, 1 nobody is in the store, or it cannot be reached, 2 wrong usage, 130
interrupted.
"""

from __future__ import annotations

import argparse

import claude_throttle
from claude_throttle.cli import fleet

SUMMARY = "pause all processes that share a quota"

add_arguments = fleet.add_store_arguments


def execute(arguments: argparse.Namespace) -> int:
    """Pause all accounts of the store; return the exit code."""
    return fleet.steer(arguments, claude_throttle.pause_fleet, "paused; resume lets them go on")

"""Show who shares a quota: processes, lanes, what waits, what is in flight, what is paused and why.

--shared names the store, as the programs have it: sqlite:///path or redis://host:6379/0. Without it
CLAUDE_THROTTLE_SHARED is used. Nothing is sent to the Claude API, and no key is needed.

Exit code: 0 somebody is there, 1 nobody is, or the store cannot be asked, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import claude_throttle
from claude_throttle.cli import quota_options
from claude_throttle.cli.exits import ALL_WELL, SOME_FAILED, CannotStart

SUMMARY = "show the processes that share a quota"

#: Seconds for the store to answer.
TIMEOUT_SECONDS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything ``fleet`` takes."""
    parser.add_argument(
        "--shared",
        metavar="URL",
        default=os.environ.get("CLAUDE_THROTTLE_SHARED"),
        help="the store; sqlite:///path or redis://host:6379/0",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--timeout",
        type=quota_options.amount,
        default=TIMEOUT_SECONDS,
        metavar="N",
        help=f"seconds for the store to answer ({TIMEOUT_SECONDS})",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    if not arguments.shared:
        raise CannotStart("name the store with --shared, or in CLAUDE_THROTTLE_SHARED")
    try:
        found = claude_throttle.fleet(arguments.shared, timeout=arguments.timeout)
    except claude_throttle.ConfigurationError as error:
        raise CannotStart(str(error)) from None
    except claude_throttle.ThrottleError as error:
        print(f"claude-throttle fleet: {error}", file=sys.stderr)
        return SOME_FAILED
    print(json.dumps(_plain(found)) if arguments.json else found)
    return ALL_WELL if found.members else SOME_FAILED


def _plain(found: claude_throttle.FleetState) -> dict[str, object]:
    return {
        "store": found.store,
        "members": [member._asdict() for member in found.members],
        "lanes": [lane._asdict() for lane in found.lanes],
    }

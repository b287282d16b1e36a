"""Show the processes that share a quota, and their lanes: calls that wait or are in flight, pauses.

--shared is the store that the programs use: sqlite:///path or redis://host:6379/0. Without it
CLAUDE_THROTTLE_SHARED is used. Nothing is sent to the Claude API, and no key is needed.

Exit code: 0 at least one process shares the quota, 1 none does, or the store cannot be reached,
2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from typing import Callable, Optional, TypeVar

import claude_throttle
from claude_throttle.cli import ALL_WELL, SOME_FAILED, CannotStart, quota_options

Answer = TypeVar("Answer")

SUMMARY = "show the processes that share a quota"

#: Seconds for the store to answer; a person is waiting.
TIMEOUT_SECONDS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``fleet``."""
    add_store_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which store to ask."""
    parser.add_argument(
        "--shared",
        metavar="URL",
        default=os.environ.get("CLAUDE_THROTTLE_SHARED"),
        help="the store; sqlite:///path or redis://host:6379/0",
    )
    parser.add_argument(
        "--timeout",
        type=quota_options.amount,
        default=TIMEOUT_SECONDS,
        metavar="N",
        help=f"seconds for the store to answer ({TIMEOUT_SECONDS})",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the fleet's state; return the exit code.

    Raises :class:`CannotStart` if no store is named, by option or environment.
    """
    found = _ask(arguments, claude_throttle.fleet)
    if found is None:
        return SOME_FAILED
    print(json.dumps(_plain(found)) if arguments.json else found)
    return ALL_WELL if found.members else SOME_FAILED


def steer(arguments: argparse.Namespace, act: Callable[..., tuple[str, ...]], outcome: str) -> int:
    """Pause or resume all accounts of the store; print the outcome, return the exit code."""
    # Inside an application it is given the application's settings.
    mine = getattr(arguments, "application_settings", None)
    accounts = _ask(arguments, partial(act, settings=mine))
    if accounts is None:
        return SOME_FAILED
    if not accounts:
        print(
            f"claude-throttle {arguments.command}: nobody is in the store, and there is no key, in "
            "ANTHROPIC_API_KEY or the settings, so there is nothing to steer",
            file=sys.stderr,
        )
        return SOME_FAILED
    names = ", ".join(account[:6] for account in accounts)
    print(f"account{'s' * (len(accounts) > 1)} {names}: all processes are {outcome}")
    return ALL_WELL


def _ask(arguments: argparse.Namespace, act: Callable[..., Answer]) -> Optional[Answer]:
    """The answer of the store; None, with a message on stderr, if it cannot be reached."""
    if not arguments.shared:
        raise CannotStart("name the store with --shared, or in CLAUDE_THROTTLE_SHARED")
    try:
        return act(arguments.shared, timeout=arguments.timeout)
    except claude_throttle.ConfigurationError as error:
        raise CannotStart(str(error)) from None
    except claude_throttle.ThrottleError as error:
        print(f"claude-throttle {arguments.command}: {error}", file=sys.stderr)
        return None


def _plain(found: claude_throttle.FleetState) -> dict[str, object]:
    return {
        "store": found.store,
        "members": [member._asdict() for member in found.members],
        "lanes": [lane._asdict() for lane in found.lanes],
        "paused": found.paused,
    }

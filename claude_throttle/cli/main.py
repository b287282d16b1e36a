"""``claude-throttle``: the parser, and the way to each command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Optional, Protocol

from claude_throttle._version import __version__
from claude_throttle.cli import demo, fleet, limits, run, serve_fake
from claude_throttle.cli.exits import INTERRUPTED, SOME_FAILED, WRONG_USAGE, CannotStart

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


class CommandModule(Protocol):
    """What a module of a command has."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""
        ...

    def execute(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code."""
        ...


COMMANDS: dict[str, CommandModule] = {
    "demo": demo,
    "run": run,
    "limits": limits,
    "fleet": fleet,
    "serve-fake": serve_fake,
}


def build_parser() -> argparse.ArgumentParser:
    """All commands with all their arguments."""
    parser = argparse.ArgumentParser(
        prog="claude-throttle",
        description="All of a Claude API quota, without a 429.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_commands(parser, COMMANDS)
    return parser


def add_commands(parser: argparse.ArgumentParser, names: Iterable[str]) -> Subparsers:
    """Those of :data:`COMMANDS`, for this parser or an application's own."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        command = COMMANDS[name]
        command.add_arguments(
            commands.add_parser(
                name,
                help=command.SUMMARY,
                description=command.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return commands


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit code, never raises ``SystemExit``."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:
        # argparse has said what it had to say.
        return int(end.code or 0)
    return run_command(arguments)


def run_command(arguments: argparse.Namespace) -> int:
    """``arguments.command``; returns the exit code. Says on stderr why it could not start."""
    try:
        code = COMMANDS[arguments.command].execute(arguments)
        sys.stdout.flush()
    except CannotStart as reason:
        print(f"claude-throttle {arguments.command}: {reason}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        _forget_stdout()
        return SOME_FAILED
    except KeyboardInterrupt:
        print(f"claude-throttle {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _forget_stdout() -> None:
    # The reader, such as head, has gone. Python would complain at exit of what is still buffered.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

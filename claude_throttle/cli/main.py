"""``claude-throttle``: the parser and the dispatch to each command.

Each command is a module with ``SUMMARY``, ``add_arguments()`` and ``execute()``; its docstring is
its ``--help`` text. Here, in one place, exceptions become exit codes and messages on stderr, so
that no command prints a traceback for a mistake of its user.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Optional, Protocol

from claude_throttle._version import __version__
from claude_throttle.cli import (
    INTERRUPTED,
    SOME_FAILED,
    WRONG_USAGE,
    CannotStart,
    demo,
    fleet,
    limits,
    pause,
    resume,
    run,
    serve_fake,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


class CommandModule(Protocol):
    """The interface of a command's module, whose docstring is the text of its ``--help``."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        ...

    def execute(self, arguments: argparse.Namespace) -> int:
        """Run the command; return the exit code."""
        ...


#: In the order in which ``--help`` lists them.
COMMANDS: dict[str, CommandModule] = {
    "demo": demo,
    "run": run,
    "limits": limits,
    "fleet": fleet,
    "pause": pause,
    "resume": resume,
    "serve-fake": serve_fake,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="claude-throttle",
        description="All of a Claude API quota, without a 429.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_commands(parser, COMMANDS)
    return parser


def add_commands(parser: argparse.ArgumentParser, names: Iterable[str]) -> Subparsers:
    """Add the commands *names* of :data:`COMMANDS` to *parser*, which may be an application's."""
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
    """Run one command; return the exit code. Never raises ``SystemExit``."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:
        # argparse has printed its message.
        return int(end.code or 0)
    return run_command(arguments)


def run_command(arguments: argparse.Namespace) -> int:
    """Run ``arguments.command``; return the exit code. Errors are printed on stderr.

    Where no logging is set up, Python would print the package's warnings between the command's own
    words for the same events: only errors, which are bugs, are let through. A warning of a setting
    is printed as the command's own, without the line of the source that gave it.
    """
    log = logging.getLogger("claude_throttle")
    level = log.level
    if not log.hasHandlers():
        log.setLevel(logging.ERROR)
    formatted = warnings.formatwarning
    warnings.formatwarning = partial(_as_words_of, arguments.command)
    try:
        return _run_command(arguments)
    finally:
        warnings.formatwarning = formatted
        log.setLevel(level)


def _as_words_of(command: str, message: object, *_where: object, **_line: object) -> str:
    return f"claude-throttle {command}: {message}\n"


def _run_command(arguments: argparse.Namespace) -> int:
    """Run the command, and turn its exceptions into messages and exit codes.

    stdout is flushed here, because a full disk or a closed pipe often shows only then, and at the
    exit of the interpreter it would be too late for an exit code.
    """
    try:
        code = COMMANDS[arguments.command].execute(arguments)
        sys.stdout.flush()
    except CannotStart as reason:
        print(f"claude-throttle {arguments.command}: {reason}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        _discard_stdout()
        return SOME_FAILED
    except KeyboardInterrupt:
        # Under "python -m", CPython takes an interrupt that came within exec(), as where an import
        # makes a named tuple, for unhandled, and ends by the signal. An eval() makes it forget.
        eval("None")  # noqa: S307
        print(f"claude-throttle {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _discard_stdout() -> None:
    """Send what is left in stdout's buffer nowhere."""
    # The reader, such as head, has ended. Python would report at exit that it cannot flush.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

"""The command line, lent to an application: the same commands, told by the application's settings.

``limits`` and ``run`` take ``--throttler NAME``, and what else ``claude-throttle`` gives them;
``status`` shows each throttler as it is told, and who shares its quota.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import claude_throttle
from claude_throttle import Throttler
from claude_throttle.cli import exits
from claude_throttle.cli.main import add_commands, carry_out
from claude_throttle.contrib.throttlers import DEFAULT, Throttlers

#: Told by the settings of one throttler.
TOLD = ("limits", "run")

STATUS = "show the throttlers that the settings tell, and who shares their quotas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """To *parser*, an application's own."""
    commands = add_commands(parser, (*TOLD, "serve-fake"))
    commands.add_parser("status", help=STATUS, description=STATUS)
    for name in TOLD:
        commands.choices[name].add_argument(
            "--throttler",
            default=DEFAULT,
            metavar="NAME",
            help=f"whose settings ({DEFAULT}); arguments given here go before them",
        )


def execute(arguments: argparse.Namespace, throttlers: Throttlers) -> int:
    """``arguments.command``; returns the exit code. Says on stderr why it could not start."""
    try:
        if arguments.command == "status":
            return _show(throttlers)
        if arguments.command in TOLD:
            arguments.application_settings = throttlers.options(arguments.throttler)
    except claude_throttle.ConfigurationError as error:
        print(f"claude-throttle {arguments.command}: {error}", file=sys.stderr)
        return exits.WRONG_USAGE
    except KeyboardInterrupt:
        print(f"claude-throttle {arguments.command}: interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    return carry_out(arguments)


def _show(throttlers: Throttlers) -> int:
    code = exits.ALL_WELL
    for name in throttlers:
        try:
            lines = list(_about(throttlers[name]))
        except claude_throttle.ConfigurationError:
            raise
        except claude_throttle.ThrottleError as error:
            lines, code = [str(error)], exits.SOME_FAILED
        print(f"{name}: {throttlers[name]!r}")
        print("".join(f"  {line}".rstrip() + "\n" for line in lines), end="")
    return code


def _about(throttler: Throttler) -> Iterator[str]:
    settings = throttler.settings
    if settings.api_key is None and settings.auth_token is None and not settings.testing:
        yield "no API key: set ANTHROPIC_API_KEY"
    if settings.shared is None:
        yield "shared with nobody: each process uses the whole quota, unseen from here"
    else:
        yield from str(claude_throttle.fleet(settings.shared)).splitlines()

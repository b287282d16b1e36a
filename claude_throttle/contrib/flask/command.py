"""``flask claude-throttle …``: the command line, told by the application's configuration."""

from __future__ import annotations

import argparse

import click
from flask.cli import AppGroup

from claude_throttle.contrib.throttlers import Throttlers

#: What each does, in ``flask claude-throttle --help``. Their modules are loaded by their use.
COMMANDS = {
    "status": "Show the throttlers, and who shares their quotas.",
    "limits": "Show what the API allows, after one cheap call.",
    "run": "Send the requests of a file, and write down the answers.",
    "serve-fake": "Serve a fake Claude API that enforces quotas.",
}


def group(throttlers: Throttlers) -> AppGroup:
    """The commands of an application with these *throttlers*."""
    found = AppGroup("claude-throttle", help="All of a Claude API quota, without a 429.")
    for name, summary in COMMANDS.items():
        _add(found, name, summary, throttlers)
    return found


def _add(found: AppGroup, name: str, summary: str, throttlers: Throttlers) -> None:
    # Its own parser reads all that follows the name, --help included.
    all_of_it = {"ignore_unknown_options": True, "allow_interspersed_args": False}

    @found.command(name, help=summary, add_help_option=False, context_settings=all_of_it)
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def carry_out(context: click.Context, words: tuple[str, ...]) -> None:
        from claude_throttle import ApplicationCommands  # argparse and more: no web server needs it

        above = context.parent.command_path if context.parent is not None else None
        parser = argparse.ArgumentParser(prog=above)
        commands = ApplicationCommands(throttlers, throttlers.options)
        commands.add_arguments(parser)
        context.exit(commands.execute(parser.parse_args([name, *words])))

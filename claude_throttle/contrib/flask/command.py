"""``flask claude-throttle …``: the command line, configured by the application.

Flask's commands are click's, ours argparse's: click passes all words on unread, and argparse parses
them, so that both commands have the same options and help texts.
"""

from __future__ import annotations

import argparse

import click
from flask.cli import AppGroup

from claude_throttle.contrib.throttlers import Throttlers

#: Summaries in ``flask claude-throttle --help``; the command line is imported when one is used.
COMMANDS = {
    "status": "Show the throttlers, and the processes that share their quotas.",
    "limits": "Show the limits of your key, after one cheap call.",
    "run": "Send the requests of a file, and save the answers.",
    "pause": "Pause all processes that share a throttler's store.",
    "resume": "End that pause.",
    "serve-fake": "Serve a fake Claude API that enforces quotas.",
}


def command_group(throttlers: Throttlers) -> AppGroup:
    """The command group of an application with these *throttlers*."""
    group = AppGroup("claude-throttle", help="All of a Claude API quota, without a 429.")
    for name, summary in COMMANDS.items():
        _add(group, name, summary, throttlers)
    return group


def _add(commands: AppGroup, name: str, summary: str, throttlers: Throttlers) -> None:
    # argparse reads everything after the name, --help included.
    pass_through = {"ignore_unknown_options": True, "allow_interspersed_args": False}

    @commands.command(name, help=summary, add_help_option=False, context_settings=pass_through)
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def run(context: click.Context, words: tuple[str, ...]) -> None:
        # Imported here: a web server does not need it.
        from claude_throttle.cli.application import ApplicationCommands

        prog = context.parent.command_path if context.parent is not None else None
        parser = argparse.ArgumentParser(prog=prog)
        application = ApplicationCommands(throttlers, throttlers.options)
        application.add_arguments(parser)
        context.exit(application.execute(parser.parse_args([name, *words])))

"""``manage.py claude_throttle status|limits|run|pause|resume|serve-fake``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from claude_throttle.cli.application import ApplicationCommands
from claude_throttle.contrib.django import throttlers
from claude_throttle.contrib.django.checks import TAG

COMMANDS = ApplicationCommands(throttlers, throttlers.options)


class Command(BaseCommand):
    """The commands of ``claude-throttle``, configured by the setting CLAUDE_THROTTLE.

    From a shell the exit codes are 0, 1 (some calls failed), 2 (wrong usage) and 130 (Ctrl-C).
    ``call_command()`` raises ``CommandError`` with the exit code as ``returncode``, and writes to
    its ``stdout=`` and ``stderr=``.
    """

    help = (
        "Shows the throttlers and their limits, pauses their processes, sends a file of requests, "
        "serves a fake API."
    )
    #: Only ours: others of the project may query a database.
    requires_system_checks = [TAG]  # noqa: RUF012 - Django's own type

    _from_shell = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the commands, with ``--throttler NAME``."""
        COMMANDS.add_arguments(parser)

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Run from a shell."""
        self._from_shell = True
        super().run_from_argv(argv)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raise ``SystemExit`` or ``CommandError`` with the exit code unless it is 0."""
        arguments = _own_arguments(options)
        with contextlib.ExitStack() as stack:
            if not self._from_shell:
                self._redirect_output(stack)
            code = COMMANDS.execute(arguments)
        if code and self._from_shell:
            raise SystemExit(code)
        if code:
            raise CommandError(f"{arguments.command} ended with {code}", returncode=code)

    def _redirect_output(self, stack: contextlib.ExitStack) -> None:
        """Send what the commands print to the streams that ``call_command()`` was given."""
        # Django's streams end each write with a line break; print() writes its own.
        self.stdout.ending = self.stderr.ending = ""
        stack.enter_context(contextlib.redirect_stdout(self.stdout))
        stack.enter_context(contextlib.redirect_stderr(self.stderr))


def _own_arguments(options: dict[str, Any]) -> argparse.Namespace:
    """*options* without those that every Django command has, such as --verbosity."""
    theirs = vars(BaseCommand().create_parser("", "").parse_args([]))
    theirs = {*theirs, *BaseCommand.base_stealth_options}
    return argparse.Namespace(**{k: v for k, v in options.items() if k not in theirs})

"""``manage.py claude_throttle status|limits|run|serve-fake``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from claude_throttle import ApplicationCommands
from claude_throttle.contrib.django import throttlers
from claude_throttle.contrib.django.checks import TAG

COMMANDS = ApplicationCommands(throttlers, throttlers.options)


class Command(BaseCommand):
    """The command line of claude_throttle, told by CLAUDE_THROTTLE.

    From a shell its exit codes are those of ``claude-throttle``: 0, 1 (some calls failed), 2 (it
    could not start), 130 (Ctrl-C). ``call_command()`` raises ``CommandError`` with that as its
    ``returncode``, and writes to ``stdout=`` and ``stderr=``.
    """

    help = "Shows the throttlers and their limits, sends a file of requests, serves a fake API."
    #: Not those of the whole project: they may ask a database.
    requires_system_checks = [TAG]  # noqa: RUF012 - as Django has it

    _from_shell = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Those of claude-throttle, and ``--throttler NAME``."""
        COMMANDS.add_arguments(parser)

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """From a shell."""
        self._from_shell = True
        super().run_from_argv(argv)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Ends by ``SystemExit`` or ``CommandError`` unless all went well."""
        arguments = _without_djangos(options)
        with contextlib.ExitStack() as stack:
            if not self._from_shell:
                self._write_to_ours(stack)
            code = COMMANDS.execute(arguments)
        if code and self._from_shell:
            raise SystemExit(code)
        if code:
            raise CommandError(f"{arguments.command} ended with {code}", returncode=code)

    def _write_to_ours(self, stack: contextlib.ExitStack) -> None:
        # They end each write with a line break, print() writes its own.
        self.stdout.ending = self.stderr.ending = ""
        stack.enter_context(contextlib.redirect_stdout(self.stdout))
        stack.enter_context(contextlib.redirect_stderr(self.stderr))


def _without_djangos(options: dict[str, Any]) -> argparse.Namespace:
    """What the command line itself has asked for: --verbosity is nothing it knows."""
    theirs = vars(BaseCommand().create_parser("", "").parse_args([]))
    theirs = {*theirs, *BaseCommand.base_stealth_options}
    return argparse.Namespace(**{k: v for k, v in options.items() if k not in theirs})

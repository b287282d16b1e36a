"""The command line inside an application: the same commands, configured by its own settings.

``manage.py claude_throttle`` and ``flask claude-throttle`` are built from it. It knows no
framework: it gets the throttlers as a mapping, and their options from a function, so that the
commands use the application's quotas and store instead of a second, unthrottled configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import claude_throttle
from claude_throttle import Throttler, cli
from claude_throttle.cli.main import add_commands, run_command

#: Commands that make a Throttler of their own.
CONFIGURED = ("limits", "run")

#: Commands that act on all processes of a throttler's store: one of this process has no effect.
STEERING = ("pause", "resume")

DEFAULT = "default"

STATUS = "show the throttlers of the settings, and the processes that share their quotas"


class ApplicationCommands:
    """The commands of ``claude-throttle`` for an application with throttlers of its own.

    ``limits`` and ``run`` take ``--throttler NAME`` beside their other arguments and use that
    throttler's options, ``pause`` and ``resume`` its store and its key; ``status`` shows every
    throttler and the processes that share its quota; ``serve-fake`` is unchanged. *throttlers*
    maps names to throttlers; *options* returns the keyword arguments of ``Throttler`` for a name,
    and may raise :class:`ConfigurationError`.
    Django's and Flask's commands are made of it; another framework's can be::

        from claude_throttle.cli.application import ApplicationCommands

        commands = ApplicationCommands({"default": throttler}, lambda name: {"rpm": 50})
        commands.add_arguments(parser)
        sys.exit(commands.execute(parser.parse_args()))
    """

    def __init__(
        self, throttlers: Mapping[str, Throttler], options: Callable[[str], Mapping[str, Any]]
    ) -> None:
        self._throttlers = throttlers
        self._options = options

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the commands and their arguments to *parser*, an application's own."""
        commands = add_commands(parser, (*CONFIGURED, *STEERING, "serve-fake"))
        commands.add_parser("status", help=STATUS, description=STATUS)
        for name in STEERING:
            commands.choices[name].set_defaults(shared=None)
            commands.choices[name].add_argument(
                "--everywhere",
                action="store_true",
                help="all processes that share the store, as it does in any case",
            )
        for name in (*CONFIGURED, *STEERING):
            commands.choices[name].add_argument(
                "--throttler",
                default=DEFAULT,
                metavar="NAME",
                help=f"whose settings ({DEFAULT}); arguments given here override them",
            )

    def execute(self, arguments: argparse.Namespace) -> int:
        """Run ``arguments.command``; return the exit code: 0, 1, 2 or 130, as in a shell.

        Writes to ``sys.stdout`` and ``sys.stderr``. Does not raise for wrong settings or Ctrl-C.
        """
        try:
            if arguments.command == "status":
                return self._show()
            if arguments.command in CONFIGURED:
                arguments.application_settings = self._options(arguments.throttler)
            elif arguments.command in STEERING:
                self._aim(arguments)
        except claude_throttle.ConfigurationError as error:
            print(f"claude-throttle {arguments.command}: {error}", file=sys.stderr)
            return cli.WRONG_USAGE
        except KeyboardInterrupt:
            print(f"claude-throttle {arguments.command}: interrupted", file=sys.stderr)
            return cli.INTERRUPTED
        return run_command(arguments)

    def _aim(self, arguments: argparse.Namespace) -> None:
        """Have *arguments* name the store and the key of their throttler."""
        name = arguments.throttler
        if name not in self._throttlers:
            self._options(name)  # says which there are
        settings = self._throttlers[name].settings
        arguments.shared = arguments.shared or settings.shared
        arguments.application_settings = settings
        if not arguments.shared:
            raise claude_throttle.ConfigurationError(
                f"the throttler {name!r} shares no store, so its processes cannot be reached: set "
                "shared= in its settings, or name the store with --shared"
            )

    def _show(self) -> int:
        """Print every throttler and its fleet; one whose store fails does not hide the others.

        Wrong settings are raised all the same: they concern the configuration, not one store.
        """
        code = cli.ALL_WELL
        for name in self._throttlers:
            throttler = self._throttlers[name]
            try:
                lines = list(_status_of(throttler))
            except claude_throttle.ConfigurationError:
                raise
            except claude_throttle.ThrottleError as error:
                lines, code = [str(error)], cli.SOME_FAILED
            print(f"{name}: {throttler!r}")
            print("".join(f"  {line}".rstrip() + "\n" for line in lines), end="")
        return code


def _status_of(throttler: Throttler) -> Iterator[str]:
    """Lines about one throttler. Makes no call to Claude; may ask the shared store."""
    settings = throttler.settings
    if settings.api_key is None and settings.auth_token is None and not settings.testing:
        yield "no API key: set ANTHROPIC_API_KEY"
    if settings.shared is None:
        yield "not shared: each process uses the whole quota, and other processes are not visible"
    else:
        yield from str(claude_throttle.fleet(settings.shared)).splitlines()

"""The warnings of ``manage.py check --deploy``.

Each is about something that works on the developer's machine: a key in the source, a second worker
process, a wait that is longer than gunicorn's patience. Without signs of gunicorn nothing is said
about workers; a check that guesses would soon be silenced.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning  # noqa: A004 - its name there

from claude_throttle import Settings
from claude_throttle.contrib.django import SETTING
from claude_throttle.contrib.gunicorn_options import Workers, gunicorn_workers
from claude_throttle.contrib.throttlers import DEFAULT

#: Options that must not stand in a repository.
SECRETS = ("api_key", "auth_token", "admin_key")

#: Characters of the shortest text that is taken for a secret: a test's own key may be written down.
SHORTEST_SECRET = 16

#: Options of each throttler, by its name.
Named = Mapping[str, Mapping[str, Any]]


def warnings(named: Named) -> Iterator[CheckMessage]:
    """Warnings about settings that have no error."""
    made = {name: _settings(options) for name, options in named.items()}
    for name, settings in made.items():
        yield from _about_keys(name, settings)
        yield from _about_written_keys(name, named[name])
        if settings.testing:
            yield _warning(4, f"{_at(name)} is in testing mode: it makes no call.", LEAVE_TESTING)
    workers = gunicorn_workers()
    if workers is not None:
        yield from _about_waiting(made[DEFAULT], workers)
        yield from _about_sharing(made if workers.several else {})


def _settings(options: Mapping[str, Any]) -> Settings:
    return Settings.from_env({k: v for k, v in options.items() if k != "on_event"})


def _at(name: str) -> str:
    return f"{SETTING}[{name!r}]"


def _warning(number: int, message: str, hint: str) -> CheckMessage:
    return Warning(message, hint=hint, id=f"claude_throttle.W{number:03}")


LEAVE_TESTING = "Remove testing, or CLAUDE_THROTTLE_TESTING from the environment."

KEY = (
    "Set ANTHROPIC_API_KEY where this runs, or api_key in the settings, from your secret store. "
    "(If only this check runs without it: SILENCED_SYSTEM_CHECKS.)"
)


def _about_keys(name: str, settings: Settings) -> Iterator[CheckMessage]:
    # The clients of a cloud's platform bring their own credentials.
    if not (settings.has_key or settings.testing or settings.calls_elsewhere):
        yield _warning(1, f"{_at(name)} has no API key, and the environment has none.", KEY)


WRITTEN = "Every reader of the source has it. Read it from the environment, and replace it."


def _about_written_keys(name: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    for option in SECRETS:
        place = _where_written(options.get(option))
        if place is not None:
            yield _warning(2, f"{_at(name)}: {option} is written in {place}.", WRITTEN)


def _where_written(secret: Any) -> Optional[str]:
    """File and line in which *secret* stands in quotes, in the modules the settings consist of.

    Those are the settings module and what was imported from its package. The text is searched, not
    parsed: a secret from the environment, a file or a secret store is not there. The place is named
    in the warning, the secret is not.
    """
    if not isinstance(secret, str) or len(secret.strip()) < SHORTEST_SECRET:
        return None
    quoted = re.compile(f"[\"'] *{re.escape(secret.strip())} *[\"']")
    # None where settings.configure() was called.
    settings_module = django_settings.SETTINGS_MODULE or "__main__"
    package = settings_module.rpartition(".")[0] or settings_module
    for name, module in sorted(sys.modules.items()):
        if name == settings_module or f"{name}.".startswith(f"{package}."):
            path = getattr(module, "__file__", None) or ""
            for number, line in enumerate(linecache.getlines(path), 1):
                if quoted.search(line) and not line.lstrip().startswith("#"):
                    return f"{path}, line {number}"
    return None


def _about_waiting(settings: Settings, workers: Workers) -> Iterator[CheckMessage]:
    """Warn if a call may wait longer than gunicorn lets a sync worker be busy.

    The worker is killed while the call is in flight: the visitor gets an error, and the answer is
    paid for and lost. Threaded workers report that they are alive meanwhile, and are not concerned.
    """
    if settings.testing or workers.alive_while_waiting or not workers.timeout_seconds:
        return
    killed_after = workers.timeout_seconds
    if settings.timeout is not None and settings.timeout < killed_after:
        return
    waits = "without limit" if settings.timeout is None else f"{settings.timeout:g} s"
    yield _warning(
        3,
        f"{_at(DEFAULT)} may wait {waits} for the quota and the answer, but gunicorn kills a sync "
        f"worker after {killed_after:g} s: the visitor gets a 500, and the call that was sent is "
        "billed.",
        "Run gunicorn with --worker-class gthread --threads 8, or set timeout below "
        f"{killed_after:g}: then DeadlineExceeded is raised, which the middleware turns into 503.",
    )


def _about_sharing(made: Mapping[str, Settings]) -> Iterator[CheckMessage]:
    """Warn of throttlers that do not share their quota although there are several processes."""
    unshared = [name for name, it in made.items() if it.shared is None and not it.testing]
    if unshared:
        yield _warning(
            5,
            f"{', '.join(map(_at, unshared))}: there are several worker processes, and each uses "
            "the whole quota.",
            'Set shared="sqlite:///…" on one machine, shared="redis://…" on several. (If the '
            "quotas are already divided by the processes: SILENCED_SYSTEM_CHECKS.)",
        )

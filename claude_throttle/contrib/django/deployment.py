"""What ``manage.py check --deploy`` warns of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004 - its name there

from claude_throttle import Settings
from claude_throttle.contrib.django import SETTING
from claude_throttle.contrib.gunicorn_options import Workers, gunicorn_workers
from claude_throttle.contrib.throttlers import DEFAULT

#: By their names: what was told.
Named = Mapping[str, Mapping[str, Any]]


def warnings(named: Named) -> Iterator[CheckMessage]:
    """Of settings that have no error."""
    made = {name: _settings(options) for name, options in named.items()}
    for name, settings in made.items():
        yield from _about_keys(name, settings)
        if settings.testing:
            yield _warning(4, f"{_at(name)} is in testing mode: it makes no call.", UNTEST)
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


UNTEST = "Leave testing out, and CLAUDE_THROTTLE_TESTING out of the environment."

KEY = (
    "Set ANTHROPIC_API_KEY where this runs, or api_key in the settings to what your secret store "
    "has. (If only this check runs without it: SILENCED_SYSTEM_CHECKS.)"
)


def _about_keys(name: str, settings: Settings) -> Iterator[CheckMessage]:
    if settings.api_key is None and settings.auth_token is None and not settings.testing:
        yield _warning(1, f"{_at(name)} has no API key, and the environment has none.", KEY)


def _about_waiting(settings: Settings, workers: Workers) -> Iterator[CheckMessage]:
    if settings.testing or workers.alive_while_waiting or not workers.timeout_seconds:
        return
    patience = workers.timeout_seconds
    if settings.timeout is not None and settings.timeout < patience:
        return
    waits = "for ever" if settings.timeout is None else f"{settings.timeout:g} s"
    yield _warning(
        3,
        f"{_at(DEFAULT)} may wait {waits} for the quota and the answer, but gunicorn kills a sync "
        f"worker after {patience:g} s: the visitor gets a 500, and what was sent is paid for.",
        f"Run gunicorn with --worker-class gthread --threads 8, or set timeout below {patience:g}: "
        "then DeadlineExceeded is raised, which the middleware answers with 503.",
    )


def _about_sharing(made: Mapping[str, Settings]) -> Iterator[CheckMessage]:
    alone = [name for name, told in made.items() if told.shared is None and not told.testing]
    if alone:
        yield _warning(
            5,
            f"{', '.join(map(_at, alone))}: several worker processes, and each takes the whole "
            "quota for its own.",
            'Give them shared="sqlite:///…" on one machine, shared="redis://…" on many. (If the '
            "quotas told are already divided: SILENCED_SYSTEM_CHECKS.)",
        )

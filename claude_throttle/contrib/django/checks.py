"""System checks of the setting CLAUDE_THROTTLE.

``manage.py check`` finds errors; ``manage.py check --deploy`` warns of what works in development
but not in production. No message contains a key, or a value that was given for one. The checks make
settings but no Throttler: they run before most commands, also where no store can be reached.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from django.core.checks import CheckMessage, Error, register

from claude_throttle import ConfigurationError, Settings
from claude_throttle.contrib.django import SETTING, WrongSettings, deployment, read_setting
from claude_throttle.contrib.throttlers import DEFAULT, OPTIONS, options_of

#: For ``manage.py check --tag`` and for commands that need only these checks.
TAG = "claude_throttle"

SHAPE = 'CLAUDE_THROTTLE = {"default": {"rpm": 50}}; without it the limits are learned'


@register(TAG)
def check_settings(**_given: Any) -> list[CheckMessage]:
    """E001 to E004: a throttler cannot be made.

    E001 shape of the setting, E002 unknown option, E003 bad value, E004 bad ``shared=``. One
    message for each throttler and problem, so that a project sees all of them at once.
    """
    try:
        named = read_setting()
    except WrongSettings as error:
        return [Error(str(error), hint=SHAPE, id="claude_throttle.E001")]
    found = [message for name in named for message in _wrong(name, named[name])]
    if DEFAULT not in named:
        message = f"{SETTING} has no {DEFAULT!r}, which is used where no name is given."
        found.insert(0, Error(message, hint=SHAPE, id="claude_throttle.E001"))
    return found


@register(TAG, deploy=True)
def check_deployment(**_given: Any) -> list[CheckMessage]:
    """W001 to W005: the settings work, but are not fit for production.

    W001 no key, W002 a key written in the source, W003 waits that gunicorn would end, W004 testing
    mode, W005 several processes that each use the whole quota.
    """
    if check_settings():
        return []  # warnings assume valid settings
    named = read_setting()
    return list(deployment.warnings({name: options_of(named[name]) for name in named}))


def _wrong(name: str, options: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    """The errors of one throttler's options.

    Unknown options are left out when the others are checked: one typing error must not hide a
    second.
    """
    where = f"{SETTING}[{name!r}]"
    unknown = [option for option in options if str(option).lower() not in OPTIONS]
    for option in unknown:
        close = difflib.get_close_matches(str(option).lower(), OPTIONS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The options are {', '.join(OPTIONS)}."
        message = f"{where}: {str(option)[:40]!r} is not an option."
        yield Error(message, hint=hint, id="claude_throttle.E002")
    yield from _rejected(where, {k: v for k, v in options.items() if k not in unknown})


def _rejected(where: str, settings: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """The errors of values. The store is judged separately, because its remedy is another one."""
    hint = "The guide settings.md of claude_throttle explains every option."
    if len({option.lower() for option in settings}) < len(settings):
        message = f"{where} has an option twice, in lower and in upper case."
        yield Error(message, hint="Keep one of them.", id="claude_throttle.E003")
    try:
        options = options_of(settings)
        listener = options.pop("on_event", None)
        if listener is not None and not callable(listener):
            raise ConfigurationError("on_event must be a function, or the dotted path of one")
        without_store, complete = _error_of({**options, "shared": None}), _error_of(options)
    except ConfigurationError as error:
        yield Error(f"{where}: {error}.", hint=hint, id="claude_throttle.E003")
        return
    if without_store is not None:
        yield Error(f"{where}: {without_store}.", hint=hint, id="claude_throttle.E003")
    elif complete is not None:
        yield Error(f"{where}: {complete}.", hint=STORE, id="claude_throttle.E004")


STORE = (
    'One machine: "sqlite:////var/lib/project/claude.db"; many: "redis://host:6379/0". '
    "Leave it out if a single process calls Claude."
)


def _error_of(options: Mapping[str, Any]) -> Optional[ConfigurationError]:
    """The error that *options*, completed from the environment, would raise; None if none."""
    try:
        Settings.from_env(options)
    except ConfigurationError as error:
        return error
    return None

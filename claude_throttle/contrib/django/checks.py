"""System checks: what the settings say, held against what can work.

``manage.py check`` finds errors, ``manage.py check --deploy`` warns of what is fine on a desk and
not in production. No message holds a key, or anything else that was told for one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage, Error, register

from claude_throttle import ConfigurationError, Settings
from claude_throttle.contrib.django import SETTING, WrongSettings, deployment, told
from claude_throttle.contrib.throttlers import DEFAULT, OPTIONS, options_of

TAG = "claude_throttle"

SHAPE = 'CLAUDE_THROTTLE = {"default": {"rpm": 50}}; leave it out to have the limits learned'


@register(TAG)
def check_settings(**_given: Any) -> list[CheckMessage]:
    """E001 to E004: no throttler could be made."""
    try:
        named = told()
    except WrongSettings as error:
        return [Error(str(error), hint=SHAPE, id="claude_throttle.E001")]
    found = [message for name in named for message in _wrong(name, named[name])]
    if DEFAULT not in named:
        message = f"{SETTING} has no {DEFAULT!r}, which is used where no name is given."
        found.insert(0, Error(message, hint=SHAPE, id="claude_throttle.E001"))
    return found


@register(TAG, deploy=True)
def check_deployment(**_given: Any) -> list[CheckMessage]:
    """W001 to W005: it would work, but not as it should in production."""
    if check_settings():
        return []  # one thing after the other
    named = told()
    return list(deployment.warnings({name: options_of(named[name]) for name in named}))


def _wrong(name: str, options: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    where = f"{SETTING}[{name!r}]"
    unknown = [option for option in options if str(option).lower() not in OPTIONS]
    for option in unknown:
        close = difflib.get_close_matches(str(option).lower(), OPTIONS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(OPTIONS)}."
        message = f"{where}: {str(option)[:40]!r} is no option."
        yield Error(message, hint=hint, id="claude_throttle.E002")
    yield from _unworkable(where, {k: v for k, v in options.items() if k not in unknown})


def _unworkable(where: str, told: Mapping[str, Any]) -> Iterator[CheckMessage]:
    hint = "The README of claude_throttle explains every option."
    if len({option.lower() for option in told}) < len(told):
        message = f"{where} tells an option twice, in lower and in upper case."
        yield Error(message, hint="Keep one of them.", id="claude_throttle.E003")
    try:
        options = options_of(told)
        listener = options.pop("on_event", None)
        if listener is not None and not callable(listener):
            raise ConfigurationError("on_event must be a function, or the dotted path of one")
        store = _refused({**options, "shared": None}), _refused(options)
    except ConfigurationError as error:
        yield Error(f"{where}: {error}.", hint=hint, id="claude_throttle.E003")
        return
    rest, whole = store
    if rest is not None:
        yield Error(f"{where}: {rest}.", hint=hint, id="claude_throttle.E003")
    elif whole is not None:
        yield Error(f"{where}: {whole}.", hint=STORE, id="claude_throttle.E004")


STORE = (
    'One machine: "sqlite:////var/lib/project/claude.db"; many: "redis://host:6379/0". '
    "Leave it out if a single process calls Claude."
)


def _refused(options: Mapping[str, Any]) -> object:
    """Why they cannot work, if they cannot; the environment counts, too."""
    try:
        Settings.from_env(options)
    except ConfigurationError as error:
        return error
    return None

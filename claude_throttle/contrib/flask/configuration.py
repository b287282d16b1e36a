"""What an application's configuration tells: ``CLAUDE_THROTTLE_*``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

from flask import Config

from claude_throttle import ConfigurationError, Settings, UnknownSetting
from claude_throttle.contrib.throttlers import DEFAULT, OPTIONS, Told

PREFIX = "CLAUDE_THROTTLE_"

#: Where the others are told, by name.
NAMED = "CLAUDE_THROTTLE_THROTTLERS"

#: Whether refusals are answered by us, True or False.
HANDLE_ERRORS = "CLAUDE_THROTTLE_HANDLE_ERRORS"

#: What a text or a number means for a flag, whatever its case: as in the environment.
_FLAG_WORDS = {"1": True, "true": True, "0": False, "false": False}

_FLAGS = tuple(field.name for field in dataclasses.fields(Settings) if field.type == "bool")


def told(config: Config) -> Told:
    """Options by name, texts (as ``from_prefixed_env()`` leaves them) read as in the environment.

    An empty text tells nothing. Raises :class:`ConfigurationError` for a key, or an option of a
    named throttler, that means nothing, with the closest one.
    """
    mine = config.get_namespace(PREFIX)
    named = mine.pop("throttlers", None) or {}
    mine.pop("handle_errors", None)
    for name in mine:
        if name not in OPTIONS:
            _refuse_key(name)
    return {DEFAULT: _read(PREFIX, mine), **_named(named)}


def check(config: Config) -> bool:
    """Raise :class:`ConfigurationError` for what cannot work; return whether to handle errors.

    A listener named by its path is not imported: it may need the application that is being made.
    """
    for name, options in told(config).items():
        settings = {key: value for key, value in options.items() if key != "on_event"}
        try:
            Settings.from_env(settings)
        except ConfigurationError as error:
            raise type(error)(f"{_source(name)}: {error}") from error
    handle_errors = config.get(HANDLE_ERRORS, True)
    return handle_errors == "" or _flag(HANDLE_ERRORS, handle_errors)


def _named(named: Any) -> Told:
    if not isinstance(named, Mapping):
        raise ConfigurationError(
            f'{NAMED} must be like {{"batch": {{"rpm": 10}}}}, not {type(named).__name__}'
        )
    if DEFAULT in named:
        raise ConfigurationError(
            f"{NAMED} has {DEFAULT!r}: that one is told by {PREFIX}RPM and the like"
        )
    return {name: _options(name, options) for name, options in named.items()}


def _options(name: Any, options: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        raise ConfigurationError(f"{NAMED}: a throttler's name must be text, not {name!r:.40}")
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f'{_source(name)} must be like {{"rpm": 10}}, not {type(options).__name__}'
        )
    lowered = {str(key).lower(): value for key, value in options.items()}
    for key in lowered:
        if key not in OPTIONS:
            hint = _closest(key, OPTIONS)
            raise UnknownSetting(f"{_source(name)} has {key!r}, which is no setting{hint}")
    return _read(f"{_source(name)} ", lowered)


def _read(prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """*prefix* is put before a setting's name in an error."""
    said = {key: value for key, value in options.items() if value != ""}
    return {
        key: _value(f"{prefix}{key.upper() if prefix == PREFIX else key}", key, value)
        for key, value in said.items()
    }


def _value(source: str, key: str, value: Any) -> Any:
    if key in _FLAGS:
        return _flag(source, value)
    return Settings.parse_value(key, value, source) if isinstance(value, str) else value


def _flag(source: str, value: Any) -> bool:
    """``FLASK_CLAUDE_THROTTLE_TESTING=1`` arrives as a number."""
    found = _FLAG_WORDS.get(str(value).strip().lower())
    if found is None:
        raise ConfigurationError(f"{source} must be True or False, not {value!r:.80}")
    return found


def _source(name: object) -> str:
    return f"{PREFIX}*" if name == DEFAULT else f"{NAMED}[{name!r}]"


def _refuse_key(name: str) -> NoReturn:
    hint = _closest(name, (*OPTIONS, "throttlers", "handle_errors"), str.upper, PREFIX)
    raise UnknownSetting(f"{PREFIX}{name.upper()} is no setting{hint}")


def _closest(name: str, names: Any, case: Any = str, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{case(close[0])}?" if close else ""

"""The keys of ``app.config``: ``CLAUDE_THROTTLE_*``.

Turns them into keyword arguments of ``Throttler``, without making one. The trap is a typing error
in a key: Flask ignores unknown keys, and the throttler would silently run without that quota. So
every key with the prefix must be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from flask import Config

from claude_throttle import ConfigurationError, Settings, UnknownSetting
from claude_throttle.contrib.throttlers import DEFAULT, OPTIONS, NamedOptions
from claude_throttle.contrib.unavailable import API_ERRORS

PREFIX = "CLAUDE_THROTTLE_"

#: The options of the other throttlers, by name.
NAMED = "CLAUDE_THROTTLE_THROTTLERS"

#: Whether the extension answers refusals with 503: True or False.
HANDLE_ERRORS = "CLAUDE_THROTTLE_HANDLE_ERRORS"

#: Keys that are not options of a throttler.
_OTHER_KEYS = ("throttlers", "handle_errors", "handle_api_errors")

#: What a text or a number means for a flag, whatever its case: as in the environment.
_FLAG_WORDS = {"1": True, "true": True, "0": False, "false": False}

_FLAGS = tuple(field.name for field in dataclasses.fields(Settings) if field.type == "bool")


def read_config(config: Config) -> NamedOptions:
    """The options of each throttler, by name.

    Strings, as ``from_prefixed_env()`` leaves them, are read as environment variables are; an empty
    one counts as missing. Raises :class:`ConfigurationError` for an unknown key or option, and
    suggests the closest one.
    """
    mine = config.get_namespace(PREFIX)
    named = mine.pop("throttlers", None) or {}
    for name in _OTHER_KEYS:
        mine.pop(name, None)
    for name in mine:
        if name not in OPTIONS:
            _refuse_key(name)
    return {DEFAULT: _read(PREFIX, mine), **_named(named)}


class Handled(NamedTuple):
    """Which refusals are answered with 503."""

    errors: bool
    #: Those of the API, too.
    api_errors: bool


def check(config: Config) -> Handled:
    """Raise :class:`ConfigurationError` for wrong options; return which errors to handle.

    A listener given by its dotted name is not imported: it may need the unfinished application.
    """
    for name, options in read_config(config).items():
        settings = {key: value for key, value in options.items() if key != "on_event"}
        try:
            Settings.from_env(settings)
        except ConfigurationError as error:
            raise type(error)(f"{_source(name)}: {error}") from error
    return Handled(*[_is_on(config, name) for name in (HANDLE_ERRORS, API_ERRORS)])


def _is_on(config: Config, name: str) -> bool:
    value = config.get(name, True)
    return value == "" or _flag(name, value)


def _named(named: Any) -> NamedOptions:
    """The options of ``CLAUDE_THROTTLE_THROTTLERS``, by name. "default" has keys of its own."""
    if not isinstance(named, Mapping):
        raise ConfigurationError(
            f'{NAMED} must be like {{"batch": {{"rpm": 10}}}}, not {type(named).__name__}'
        )
    if DEFAULT in named:
        raise ConfigurationError(
            f"{NAMED} has {DEFAULT!r}: that one is configured by {PREFIX}RPM and similar keys"
        )
    return {name: _options(name, options) for name, options in named.items()}


def _options(name: Any, options: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        raise ConfigurationError(f"{NAMED}: a throttler's name must be a string, not {name!r:.40}")
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f'{_source(name)} must be like {{"rpm": 10}}, not {type(options).__name__}'
        )
    lowered = {str(key).lower(): value for key, value in options.items()}
    for key in lowered:
        if key not in OPTIONS:
            hint = _closest(key, OPTIONS)
            raise UnknownSetting(f"{_source(name)} has {key!r}, which is not a setting{hint}")
    return _read(f"{_source(name)} ", lowered)


def _read(prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """*options* with their strings parsed; *prefix* precedes a setting's name in an error."""
    given = {key: value for key, value in options.items() if value != ""}
    return {
        key: _value(f"{prefix}{key.upper() if prefix == PREFIX else key}", key, value)
        for key, value in given.items()
    }


def _value(source: str, key: str, value: Any) -> Any:
    """*value* as the setting's type. Text is parsed as from the environment.

    Anything else is kept as it is; ``Settings`` checks its type.
    """
    if key in _FLAGS:
        return _flag(source, value)
    return Settings.parse_value(key, value, source) if isinstance(value, str) else value


def _flag(source: str, value: Any) -> bool:
    """True or False; ``FLASK_CLAUDE_THROTTLE_TESTING=1`` arrives as a number."""
    found = _FLAG_WORDS.get(str(value).strip().lower())
    if found is None:
        raise ConfigurationError(f"{source} must be True or False, not {value!r:.80}")
    return found


def _source(name: object) -> str:
    return f"{PREFIX}*" if name == DEFAULT else f"{NAMED}[{name!r}]"


def _refuse_key(name: str) -> NoReturn:
    hint = _closest(name, (*OPTIONS, *_OTHER_KEYS), str.upper, PREFIX)
    raise UnknownSetting(f"{PREFIX}{name.upper()} is not a setting{hint}")


def _closest(name: str, names: Any, case: Any = str, prefix: str = "") -> str:
    meant = Settings.meant_by(name, names)
    if meant in OPTIONS or meant in names:
        return f"; did you mean {prefix}{case(meant)}?"
    return f": {meant}" if meant else ""

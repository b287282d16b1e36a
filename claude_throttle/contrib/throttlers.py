"""Named throttlers, made from an application's settings: what Django and Flask have in common.

A web application is set up before its server forks, and used by many threads afterwards. So a
throttler is made when it is first used, not at import, and the same one is given to all threads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from claude_throttle import ConfigurationError, Settings, Throttler

#: The throttler of programs that give no name.
DEFAULT = "default"

#: The options that the settings may have.
OPTIONS = (*Settings.__dataclass_fields__, "on_event")

#: Options of ``Throttler``, in lower or upper case, by the throttler's name.
NamedOptions = Mapping[str, Mapping[str, Any]]


class NoSuchThrottler(ConfigurationError, KeyError):
    """The settings have no throttler of that name."""

    # KeyError's own would show the text in quotes.
    __str__ = Exception.__str__


class Throttlers(Mapping[str, Throttler]):
    """``throttlers["batch"]``: one throttler of each name for the process, made on first use.

    Thread-safe and fork-safe: concurrent threads get the same throttler, no lock is held, and no
    thread is started. ``for name in throttlers`` gives the names without making any throttler.
    Raises :class:`NoSuchThrottler` for an unknown name, and
    :class:`claude_throttle.ConfigurationError` for options that are wrong.
    """

    def __init__(self, read: Callable[[], NamedOptions], source: str = "CLAUDE_THROTTLE") -> None:
        """*read* returns the current options; *source* is their name in error messages."""
        self._read = read
        self._source = source
        self._made: dict[str, Throttler] = {}

    def __getitem__(self, name: str) -> Throttler:
        made = self._made.get(name)
        if made is None:
            mine = Throttler(**self.options(name))
            # Of two threads that come here one throttler is kept; the other one has no threads yet.
            # self._made is looked up after that: reset() may have replaced it meanwhile.
            made = self._made.setdefault(name, mine)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, name: object) -> bool:
        return name in self._read()

    def made(self) -> dict[str, Throttler]:
        """The throttlers made so far, in this process or in the one it was forked from."""
        return dict(self._made)

    def options(self, name: str) -> dict[str, Any]:
        """The keyword arguments of ``Throttler`` for *name*."""
        named = self._read()
        if name not in named:
            close = difflib.get_close_matches(str(name), map(str, named), n=1)
            there = ", ".join(map(repr, named)) or "none"
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NoSuchThrottler(f"{self._source} has no {name!r}; it has {there}{hint}")
        return options_of(named[name])

    def reset(self) -> None:
        """Close all throttlers and make new ones on next use. Cancels unsent calls. For tests."""
        made, self._made = self._made, {}
        for throttler in made.values():
            throttler.close(timeout=0, cancel_pending=True)


def options_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``Throttler``: names in lower case, the listener imported."""
    options = {str(name).lower(): value for name, value in settings.items()}
    listener = options.get("on_event")
    if isinstance(listener, str):
        options["on_event"] = _import(listener)
    return options


def _import(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # importing its module runs arbitrary code
        raise ConfigurationError(f"on_event={dotted!r} cannot be imported: {error}") from error

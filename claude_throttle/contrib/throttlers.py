"""Throttlers by name, as an application's settings tell them; what Django and Flask are given."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from claude_throttle import ConfigurationError, Settings, Throttler

#: The one that a program means that names none.
DEFAULT = "default"

#: What ``Throttler`` may be told there.
OPTIONS = (*Settings.__dataclass_fields__, "on_event")

#: By name: options of ``Throttler``, in lower or upper case.
Told = Mapping[str, Mapping[str, Any]]


class NoSuchThrottler(ConfigurationError, KeyError):
    """A name that the settings do not have."""

    # KeyError's would show the text in quotes.
    __str__ = Exception.__str__


class Throttlers(Mapping[str, Throttler]):
    """``throttlers["batch"]``: one for the whole process, made when it is first asked for.

    Thread-safe and fork-safe: however many threads ask at once get the same one, no lock is held,
    and making one starts no thread. ``for name in throttlers`` names them without making any.
    Raises :class:`NoSuchThrottler`, and :class:`claude_throttle.ConfigurationError` for options
    that cannot work.
    """

    def __init__(self, read: Callable[[], Told], source: str = "CLAUDE_THROTTLE") -> None:
        """*read* is called each time, so that what it reads may change; *source* is its name."""
        self._read = read
        self._source = source
        self._made: dict[str, Throttler] = {}

    def __getitem__(self, name: str) -> Throttler:
        made = self._made.get(name)
        if made is None:
            mine = Throttler(**self.options(name))
            # Two threads may both come here: one throttler is kept, the other has not begun. Looked
            # up only now: there may have been a reset() meanwhile.
            made = self._made.setdefault(name, mine)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, name: object) -> bool:
        return name in self._read()

    def made(self) -> dict[str, Throttler]:
        """Those that were asked for in this process, or in the one it was forked from."""
        return dict(self._made)

    def options(self, name: str) -> dict[str, Any]:
        """What ``Throttler`` is given for *name*."""
        told = self._read()
        if name not in told:
            close = difflib.get_close_matches(str(name), map(str, told), n=1)
            there = ", ".join(map(repr, told)) or "none"
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NoSuchThrottler(f"{self._source} has no {name!r}; it has {there}{hint}")
        return options_of(told[name])

    def reset(self) -> None:
        """Forget all; what they had not sent is cancelled. For tests that change settings."""
        made, self._made = self._made, {}
        for throttler in made.values():
            throttler.close(timeout=0, cancel_pending=True)


def options_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``Throttler``: names in lower case, a listener by its dotted name."""
    options = {str(name).lower(): value for name, value in told.items()}
    listener = options.get("on_event")
    if isinstance(listener, str):
        options["on_event"] = _import(listener)
    return options


def _import(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever its module does when it is imported
        raise ConfigurationError(f"on_event={dotted!r} cannot be imported: {error}") from error

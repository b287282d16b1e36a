"""For Django: the throttlers that the settings tell.

``INSTALLED_APPS = ["claude_throttle.contrib.django", …]`` brings system checks and the command
``manage.py claude_throttle``; :mod:`.middleware` answers refusals with 503, :mod:`.urls` has a
status page for staff. Nothing is read, made or started before it is used.

``CLAUDE_THROTTLE = {"default": {"rpm": 50}, "batch": {…}}`` has the keywords of ``Throttler``, in
lower or upper case, for each name. Without it there is "default", which learns its limits and has
its key from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.connection import ConnectionProxy

from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib.throttlers import DEFAULT, NoSuchThrottler, Throttlers

__all__ = ["throttler", "throttlers", "MissingThrottler", "WrongSettings"]

SETTING = "CLAUDE_THROTTLE"

#: Where the setting is missing.
UNTOLD: dict[str, dict[str, Any]] = {DEFAULT: {}}


class WrongSettings(ConfigurationError, ImproperlyConfigured):
    """The setting is not what throttlers could be made of; a system check says so, too."""


class MissingThrottler(NoSuchThrottler, ImproperlyConfigured):
    """A name that the setting does not have; the message names the closest one."""


class DjangoThrottlers(Throttlers):
    """:class:`Throttlers` whose mistakes are Django's ``ImproperlyConfigured``, too."""

    def options(self, name: str) -> dict[str, Any]:
        """What ``Throttler`` is given for *name*."""
        try:
            return super().options(name)
        except NoSuchThrottler as error:
            raise MissingThrottler(str(error)) from None


class _Default(ConnectionProxy):
    """Looks the throttler up at each use, so that it may be imported before it can be made."""

    def __repr__(self) -> str:
        return repr(throttlers[DEFAULT])

    def __hash__(self) -> int:
        return hash(throttlers[DEFAULT])  # equal to it, and so alike as a key


def told() -> Mapping[str, Mapping[str, Any]]:
    """The setting. Raises :class:`WrongSettings` unless it names dicts."""
    found = getattr(settings, SETTING, UNTOLD)
    if not isinstance(found, Mapping):
        raise WrongSettings(f"{SETTING} must be a dict of dicts, not {type(found).__name__}")
    for name, options in found.items():
        if not isinstance(name, str):
            raise WrongSettings(f"{SETTING}: a throttler's name must be text, not {name!r:.40}")
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            raise WrongSettings(f"{SETTING}[{name!r}] must be a dict of options, not {kind}")
    return found


def _forget(*, setting: str, **_rest: Any) -> None:
    if setting == SETTING:
        throttlers.reset()


#: ``throttlers["batch"]``; one of each name in a process, for all its threads.
throttlers = DjangoThrottlers(told, SETTING)

#: ``throttlers["default"]``.
throttler: Throttler = _Default(throttlers, DEFAULT)

# Sent by override_settings() and its relatives alone.
setting_changed.connect(_forget, dispatch_uid="claude_throttle.contrib.django")

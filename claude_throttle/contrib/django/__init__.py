"""Django: throttlers that are configured in the settings.

``INSTALLED_APPS = ["claude_throttle.contrib.django", …]`` adds system checks and the command
``manage.py claude_throttle``. :mod:`.middleware` turns refusals into 503 responses; :mod:`.urls`
has a status page for staff. Nothing is read, made or started before its first use.

``CLAUDE_THROTTLE = {"default": {"rpm": 50}, "batch": {…}}`` holds the keyword arguments of
``Throttler``, in lower or upper case, for each name. Without the setting there is one throttler,
"default", which learns its limits and takes its key from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib.throttlers import DEFAULT, NoSuchThrottler, Throttlers

__all__ = ["throttler", "throttlers", "MissingThrottler", "WrongSettings"]

SETTING = "CLAUDE_THROTTLE"

#: The value of a setting that is missing.
MISSING: dict[str, dict[str, Any]] = {DEFAULT: {}}


class WrongSettings(ConfigurationError, ImproperlyConfigured):
    """The setting has the wrong shape; a system check reports it, too.

    It is a ``ConfigurationError`` and an ``ImproperlyConfigured``, so either way of handling it
    works.
    """


class MissingThrottler(NoSuchThrottler, ImproperlyConfigured):
    """The setting has no throttler of that name; the message suggests the closest one."""


class DjangoThrottlers(Throttlers):
    """:class:`Throttlers` whose errors are Django's ``ImproperlyConfigured``, too."""

    def options(self, name: str) -> dict[str, Any]:
        """The keyword arguments of ``Throttler`` for *name*."""
        try:
            return super().options(name)
        except NoSuchThrottler as error:
            raise MissingThrottler(str(error)) from None


class _Default:
    """A proxy that looks the throttler up at each use: importing it does not need the settings.

    As Django's own ConnectionProxy, which 3.2 is the first to have.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(throttlers[DEFAULT], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(throttlers[DEFAULT], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(throttlers[DEFAULT], name)

    def __eq__(self, other: object) -> bool:
        return bool(throttlers[DEFAULT] == other)

    def __repr__(self) -> str:
        return repr(throttlers[DEFAULT])

    def __hash__(self) -> int:
        return hash(throttlers[DEFAULT])  # it equals the throttler, so it must hash like it


def read_setting() -> Mapping[str, Mapping[str, Any]]:
    """The setting CLAUDE_THROTTLE. Raises :class:`WrongSettings` unless it is a dict of dicts."""
    found = getattr(settings, SETTING, MISSING)
    if not isinstance(found, Mapping):
        raise WrongSettings(f"{SETTING} must be a dict of dicts, not {type(found).__name__}")
    for name, options in found.items():
        if not isinstance(name, str):
            raise WrongSettings(f"{SETTING}: a throttler's name must be a string, not {name!r:.40}")
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            raise WrongSettings(f"{SETTING}[{name!r}] must be a dict of options, not {kind}")
    return found


def _on_setting_changed(*, setting: str, **_rest: Any) -> None:
    """Close the throttlers when a test overrides their setting; the next use reads it anew."""
    if setting == SETTING:
        throttlers.reset()


#: ``throttlers["batch"]``: one throttler of each name in a process, for all its threads.
throttlers = DjangoThrottlers(read_setting, SETTING)

#: A proxy for ``throttlers["default"]``.
throttler: Throttler = cast(Throttler, _Default())

if django.VERSION < (3, 2):  # newer ones find it themselves, and complain of this
    default_app_config = "claude_throttle.contrib.django.apps.ClaudeThrottleConfig"

# Only override_settings() and its relatives send this signal.
setting_changed.connect(_on_setting_changed, dispatch_uid="claude_throttle.contrib.django")

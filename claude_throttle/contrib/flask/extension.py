"""The extension: ``ClaudeThrottle(app)``.

It holds no state of its own: one extension object may serve several applications, and everything of
one application is in ``app.extensions``, where Flask's proxies find it.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Optional, cast
from weakref import WeakValueDictionary, ref

from flask import Blueprint, Flask, current_app, has_app_context
from werkzeug.local import LocalProxy

from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib.flask import command, configuration, refusals, status_page
from claude_throttle.contrib.gunicorn_options import visible_workers
from claude_throttle.contrib.throttlers import DEFAULT, Throttlers

logger = logging.getLogger("claude_throttle")

#: The key in ``app.extensions`` that holds all state of an application.
EXTENSION = "claude_throttle"


#: The applications of this process that have a ClaudeThrottle, by id(), while they are in use.
_applications: WeakValueDictionary[int, Flask] = WeakValueDictionary()

#: The application whose request this thread has begun to answer last.
_last_application: ContextVar[Optional[ref[Flask]]] = ContextVar("claude_throttle", default=None)

NONE = (
    "Working outside of application context, and no application of this process has a "
    "ClaudeThrottle yet: call ClaudeThrottle(app), or init_app(app) in its factory, before this"
)
SEVERAL = (
    "Working outside of application context, and {} applications of this process have a "
    "ClaudeThrottle: {}. In a generator: wrap it in stream_with_context(), or take "
    "throttler = claude.throttlers(app)['default'] before the response begins. In a thread, a job "
    "or a script: use that, or `with app.app_context():` around the call."
)


class OutsideOfContext(ConfigurationError, RuntimeError):
    """It cannot be told which application's throttler is meant; the message says how to say it."""


class AppThrottlers(Throttlers):
    """The throttlers of one application. Warns once if its processes do not share their quota.

    Thread-safe and fork-safe, as :class:`Throttlers` is.
    """

    def __init__(self, app: Flask) -> None:
        super().__init__(lambda: configuration.read_config(app.config), configuration.NAMED)
        # Emptied by the first thread that checks: list.pop() is atomic.
        self._unchecked = [True]

    def __getitem__(self, name: str) -> Throttler:
        throttler = super().__getitem__(name)
        if self._unchecked and throttler.settings.shared is None and not throttler.settings.testing:
            self._warn_if_several(name)
        return throttler

    def _warn_if_several(self, name: str) -> None:
        """Log a warning, once per application and process, if its workers do not share a quota."""
        try:
            self._unchecked.pop()
        except IndexError:  # another thread was first
            return
        workers = visible_workers()
        if workers > 1:
            logger.warning(
                "%d workers, and each uses the whole quota of %r: set %s",
                *(workers, name, _key_of_shared(name)),
            )


def _key_of_shared(name: str) -> str:
    where = f"{configuration.NAMED}[{name!r}]['shared']"
    return f"{configuration.PREFIX}SHARED" if name == DEFAULT else where


class ClaudeThrottle:
    """The Flask extension: ``ClaudeThrottle(app)``, or ``init_app(app)`` in a factory.

    It is configured in ``app.config``. ``CLAUDE_THROTTLE_RPM = 50`` and similar keys, one for each
    setting and for ``on_event`` (a function, or its dotted name), are the default throttler's.
    ``CLAUDE_THROTTLE_THROTTLERS = {"batch": {"rpm": 10}}`` defines others, which inherit nothing.
    Missing values come from the environment, as for any ``Throttler``.

    The configuration is checked by ``init_app``, and read again when a throttler is first used:
    changes until then count. Both raise :class:`claude_throttle.ConfigurationError`.

    Each application has throttlers of its own, shared by all its threads. A throttler starts no
    thread before its first call, so servers may fork after the import. It is not closed with a
    request: submitted calls continue, and are finished when the process exits.
    """

    def __init__(self, app: Optional[Flask] = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add throttlers, ``flask claude-throttle`` and error handlers to *app*.

        With ``CLAUDE_THROTTLE_HANDLE_ERRORS = False`` in its configuration it adds no handlers,
        with ``CLAUDE_THROTTLE_HANDLE_API_ERRORS = False`` none for refusals of the API.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(f"application {app.name!r} already has a ClaudeThrottle")
        handled = configuration.check(app.config)
        throttlers = app.extensions[EXTENSION] = AppThrottlers(app)
        _applications[id(app)] = app
        app.before_request(partial(_remember, ref(app)))
        app.cli.add_command(command.command_group(throttlers))
        if handled.errors:
            refusals.handle(app, handled.api_errors)

    def __getitem__(self, name: str) -> Throttler:
        """``throttle["batch"]`` of the current application."""
        return self.throttlers()[name]

    def throttlers(self, app: Optional[Flask] = None) -> AppThrottlers:
        """The throttlers of *app*, by name; of the current application if it is left out.

        Without an application context, the only application of the process is meant, or else the
        one whose request this thread answered last. If that leaves several,
        :class:`OutsideOfContext` says how to name one.
        """
        return _of(_current_app() if app is None else app)

    def reset(self, app: Optional[Flask] = None) -> None:
        """Close the throttlers of *app*, cancel their unsent calls, and make new ones on next use.

        For tests that change the configuration.
        """
        self.throttlers(app).reset()

    def status_blueprint(
        self,
        *,
        allow: Callable[[], Any],
        url_prefix: Optional[str] = "/claude-throttle",
        name: str = "claude_throttle",
    ) -> Blueprint:
        """A blueprint with a page that shows the throttlers of the application that registers it.

        *allow* is called before each response, in the request: a true value shows the page, a
        response (or a tuple that makes one) is returned instead of it, a false value means 403. A
        string, a dict or a method is taken for a mistake and raises TypeError. ``data.json``
        beside the page is sent if *allow* returns a true value, otherwise 403. Nothing is cached.
        """
        return status_page.blueprint(allow, url_prefix, name, lambda: self.throttlers())


def _of(app: Flask) -> AppThrottlers:
    try:
        return cast(AppThrottlers, app.extensions[EXTENSION])
    except KeyError:
        raise ConfigurationError(
            f"application {app.name!r} has no ClaudeThrottle: call ClaudeThrottle(app), or "
            "init_app(app) in its factory"
        ) from None


def _remember(app: ref[Flask]) -> None:
    _last_application.set(app)


def _current_app() -> Flask:
    """The current application.

    Outside of any context: the only one of this process; or else the one whose request this thread
    answered last, since the generator of a response runs after its view.
    """
    if has_app_context():
        return current_app  # the proxy will do: only its attribute extensions is read
    found = _living()
    if len(found) > 1:
        last = _last_application.get()
        found = [app for app in found if last is not None and last() is app] or found
    if len(found) > 1:
        gc.collect()  # an application that is used no more is part of cycles
        found = _living()
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(repr(app.name) for app in found))
    raise OutsideOfContext(SEVERAL.format(len(found), names) if found else NONE)


def _living() -> list[Flask]:
    # One atomic step: another thread may be making an application.
    return [app for ref in _applications.valuerefs() if (app := ref()) is not None]


#: The throttlers of the current application, by name; see _current_app() for code outside of any
#: application context.
current_throttlers = cast(AppThrottlers, LocalProxy(lambda: _of(_current_app())))

#: The default throttler of the current application, likewise.
current_throttler = cast(Throttler, LocalProxy(lambda: _of(_current_app())[DEFAULT]))

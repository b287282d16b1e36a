"""``ClaudeThrottle``: what an application is given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Optional, cast

from flask import Blueprint, Flask, current_app
from werkzeug.local import LocalProxy

from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib.flask import command, configuration, refusals, status_page
from claude_throttle.contrib.gunicorn_options import visible_workers
from claude_throttle.contrib.throttlers import DEFAULT, Throttlers

logger = logging.getLogger("claude_throttle")

#: The key in ``app.extensions``; what is there is the application's whole state.
EXTENSION = "claude_throttle"


class AppThrottlers(Throttlers):
    """Those of one application. Says once if its processes cannot see each other's calls."""

    def __init__(self, app: Flask) -> None:
        super().__init__(lambda: configuration.told(app.config), configuration.NAMED)
        #: Emptied by the first who looks.
        self._to_warn = [True]

    def __getitem__(self, name: str) -> Throttler:
        throttler = super().__getitem__(name)
        if self._to_warn and throttler.settings.shared is None and not throttler.settings.testing:
            self._warn(name)
        return throttler

    def _warn(self, name: str) -> None:
        try:
            self._to_warn.pop()
        except IndexError:  # another thread was faster
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
    """Gives applications their throttlers: ``ClaudeThrottle(app)``, or ``init_app`` in a factory.

    ``app.config`` tells them. ``CLAUDE_THROTTLE_RPM = 50`` and the like, one key for each setting
    and for ``on_event`` (a function, or its dotted name), are the default throttler's;
    ``CLAUDE_THROTTLE_THROTTLERS = {"batch": {"rpm": 10}}`` tells others, which inherit nothing.
    The environment fills in what is left out, as for any ``Throttler``.

    Configuration is checked by ``init_app``, and read again when a throttler is first asked for:
    what is changed until then counts. Both raise :class:`claude_throttle.ConfigurationError`.

    Each application has throttlers of its own, for all its threads; nothing is kept here. A
    throttler starts no thread before its first call, so that servers may fork after the import,
    and is not closed with a request: what was submitted goes on, and is finished at exit.
    """

    def __init__(self, app: Optional[Flask] = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add throttlers, ``flask claude-throttle`` and error handlers to *app*. Once for each.

        ``CLAUDE_THROTTLE_HANDLE_ERRORS = False``, before this, leaves the handlers out.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(f"application {app.name!r} has a ClaudeThrottle already")
        handle_errors = configuration.check(app.config)
        throttlers = app.extensions[EXTENSION] = AppThrottlers(app)
        app.cli.add_command(command.group(throttlers))
        if handle_errors:
            refusals.handle(app)

    def __getitem__(self, name: str) -> Throttler:
        """``throttle["batch"]`` of the current application."""
        return self.throttlers()[name]

    def throttlers(self, app: Optional[Flask] = None) -> AppThrottlers:
        """Those of *app*, by name; without, of the current one. For threads without a context.

        Raises RuntimeError outside of an application context.
        """
        # The proxy is as good: only its extensions are looked at.
        return _of(app if app is not None else current_app)

    def reset(self, app: Optional[Flask] = None) -> None:
        """Forget the throttlers of *app*, and cancel what they have not sent.

        For tests that change the configuration: the next use reads it anew.
        """
        self.throttlers(app).reset()

    def status_blueprint(
        self,
        *,
        allow: Callable[[], Any],
        url_prefix: Optional[str] = "/claude-throttle",
        name: str = "claude_throttle",
    ) -> Blueprint:
        """A page that shows the throttlers of whichever application it is registered with.

        *allow* is asked before each answer, in the request: something true shows the page, a
        response (or a tuple that makes one) is given instead, something false is 403. A text, a
        dict or a method is no verdict, and raises TypeError. Its ``data.json`` is shown or 403.
        Nothing is ever cached.
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


#: Of the current application, by name. Outside of a context: RuntimeError.
current_throttlers = cast(AppThrottlers, LocalProxy(lambda: _of(current_app)))

#: The default one of the current application.
current_throttler = cast(Throttler, LocalProxy(lambda: _of(current_app)[DEFAULT]))

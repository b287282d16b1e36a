"""The blueprint of the status page.

The page shows the state of an account, so there is no default for who may see it: *allow* must be
given. The trap is a function that is true by mistake (a method that was not called, a coroutine, a
redirect's text): such values raise TypeError instead of opening the page to everyone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Optional

from flask import Blueprint, Response, abort, current_app, jsonify, make_response
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from claude_throttle import ConfigurationError, Throttler
from claude_throttle.contrib import status

#: Neither the page nor a refusal may be shown to the next user of a browser.
NEVER_CACHED = "no-store"

#: Types that a view may return as the content of a page.
BODIES = (str, bytes, dict, list)


def blueprint(
    allow: Callable[[], Any],
    url_prefix: Optional[str],
    name: str,
    throttlers: Callable[[], Mapping[str, Throttler]],
) -> Blueprint:
    """See ``ClaudeThrottle.status_blueprint``."""
    if not callable(allow):
        raise ConfigurationError(
            f"allow= must be a function that returns whether to show the page, not {allow!r}; "
            "allow=lambda: True shows it to everyone"
        )
    found = Blueprint(name, __name__, url_prefix=url_prefix)

    @found.get("/")
    def page() -> Response:
        refusal = _refusal(allow)
        return refusal if refusal is not None else _page()

    @found.get("/data.json")
    def data() -> Response:
        if _refusal(allow, as_page=False) is None:
            return _data(throttlers())
        return make_response(jsonify(error="you may not see this"), 403)

    @found.after_request
    def keep_nowhere(response: Response) -> Response:
        response.headers["Cache-Control"] = NEVER_CACHED
        return response

    return found


def _refusal(allow: Callable[[], Any], as_page: bool = True) -> Optional[Response]:
    """None if *allow* permits the request; it may be ``async``, as a view may be.

    Otherwise its own response, or 403; for ``data.json`` always a plain 403, which the page's
    script understands better than a redirect to a login page.
    """
    verdict = current_app.ensure_sync(allow)()
    _require_verdict(verdict)
    if isinstance(verdict, (BaseResponse, HTTPException, tuple)):
        return make_response(verdict)
    if verdict:
        return None
    return abort(403) if as_page else make_response("", 403)


def _require_verdict(verdict: Any) -> None:
    """Raise TypeError for values that are probably true by mistake."""
    if inspect.iscoroutine(verdict):
        verdict.close()  # it will not be awaited
    if inspect.isroutine(verdict) or inspect.isawaitable(verdict):
        raise TypeError(f"allow= returned {verdict!r}, which has to be called first")
    # It may be a user's name, or a login page.
    if verdict and isinstance(verdict, BODIES):
        raise TypeError(
            f"allow= returned a {type(verdict).__name__}: return True, False, or a response "
            "(flask.make_response, flask.redirect)"
        )


def _page() -> Response:
    return Response(status.page(), headers=status.page_headers())


def _data(throttlers: Mapping[str, Throttler]) -> Response:
    return Response(json.dumps(status.data(throttlers)), headers=status.data_headers())

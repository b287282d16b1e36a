"""The status page, as a blueprint."""

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

#: Nobody keeps the page, nor a refusal to show it, for the next who sits here.
NEVER_CACHED = "no-store"

#: What a view may return for a page.
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
            f"allow= must be a function that says who may see the page, not {allow!r}; "
            "allow=lambda: True shows it to everybody"
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
    """None for whoever may see it. A function that may be ``async`` is run as a view would be."""
    verdict = current_app.ensure_sync(allow)()
    _require_a_verdict(verdict)
    if isinstance(verdict, (BaseResponse, HTTPException, tuple)):
        return make_response(verdict)
    if verdict:
        return None
    return abort(403) if as_page else make_response("", 403)


def _require_a_verdict(verdict: Any) -> None:
    """What is true only by a slip would show the page to everybody."""
    if inspect.iscoroutine(verdict):
        verdict.close()  # nobody will await it
    if inspect.isroutine(verdict) or inspect.isawaitable(verdict):
        raise TypeError(f"allow= returned {verdict!r}, which says nothing until it is called")
    # Perhaps a user's name, perhaps a page that asks for one.
    if verdict and isinstance(verdict, BODIES):
        raise TypeError(
            f"allow= returned a {type(verdict).__name__}: return True, False, or a response "
            "(flask.make_response, flask.redirect)"
        )


def _page() -> Response:
    return Response(status.page(), headers=status.page_headers())


def _data(throttlers: Mapping[str, Throttler]) -> Response:
    return Response(json.dumps(status.data(throttlers)), headers=status.data_headers())

"""503 responses, as JSON or as a page, for refused calls.

The trap is Flask's choice of a handler: it prefers the one for the most specific class, so our
handlers for four errors would hide one that the application registered for ``ThrottleError``.
:func:`answer` therefore looks for the application's own handler first.

Refusals of the API have classes of the official SDK, whose import takes a second or two, so no
handler is registered for them but one for ``Exception``: it changes nothing for other errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Union

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from jinja2 import TemplateNotFound
from werkzeug.exceptions import HTTPException

from claude_throttle import ThrottleError
from claude_throttle.contrib.unavailable import (
    REFUSALS,
    STATUS,
    TEMPLATE,
    Unavailable,
    is_refusal,
    prefers_page,
    unavailable,
)


def handle(app: Flask, api_errors: bool) -> None:
    """Register handlers for refusals that the application has no handler for.

    *api_errors*: for refusals of the API, too.
    """
    theirs = app.error_handler_spec[None][None]
    for refusal in REFUSALS:
        if refusal not in theirs:
            app.register_error_handler(refusal, answer)
    if api_errors and Exception not in theirs:
        app.register_error_handler(Exception, answer_api_refusal)


def answer(error: ThrottleError) -> ResponseReturnValue:
    """A 503 response with ``Retry-After``: a page if ``Accept`` prefers one, otherwise JSON."""
    theirs = _handler_of_the_application(error)
    if theirs is not None:
        response_of_theirs: ResponseReturnValue = current_app.ensure_sync(theirs)(error)
        return response_of_theirs
    return _response(unavailable(error))


def answer_api_refusal(error: Exception) -> Union[ResponseReturnValue, HTTPException]:
    """A 503 response to a refusal of the API; everything else goes on as without a handler."""
    if isinstance(error, HTTPException):
        return error  # such as a 404: it is the response
    if not is_refusal(error):
        raise error
    return _response(unavailable(error))


def _response(content: Unavailable) -> Response:
    as_page = prefers_page(kind for kind, quality in request.accept_mimetypes if quality > 0)
    response = make_response(_page(content) if as_page else jsonify(content.json), STATUS)
    response.headers.update(content.headers)
    response.headers["Vary"] = "Accept"
    return response


def _handler_of_the_application(error: ThrottleError) -> Optional[Callable[[Any], Any]]:
    """A handler that the application has for a base class of *error*; Flask prefers ours to it."""
    handlers = current_app.error_handler_spec[None][None]
    for kind in type(error).__mro__:
        theirs: Any = handlers.get(kind)
        if theirs not in (None, answer) and issubclass(kind, ThrottleError):
            found: Callable[[Any], Any] = theirs
            return found
    return None


def _page(content: Unavailable) -> str:
    """The application's template for the page if there is one, otherwise ours."""
    try:
        current_app.jinja_env.get_template(TEMPLATE)
    except TemplateNotFound:
        return content.html
    return render_template(TEMPLATE, unavailable=content)

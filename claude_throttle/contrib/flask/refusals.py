"""503 responses, as JSON or as a page, for refused calls.

The trap is Flask's choice of a handler: it prefers the one for the most specific class, so our
handlers for four errors would hide one that the application registered for ``ThrottleError``.
:func:`answer` therefore looks for the application's own handler first.

Refusals of the API have classes of the official SDK, whose import takes a second or two, so no
handler is registered for them but one for ``Exception``: it changes nothing for other errors.

A view that catches all exceptions hides a refusal behind a 500. So what calls raise is watched
while a request is answered, and such a 500 becomes a 503.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Optional, Union

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from jinja2 import TemplateNotFound
from werkzeug.exceptions import HTTPException

from claude_throttle import ErrorWatch, ThrottleError
from claude_throttle.contrib.unavailable import (
    REFUSALS,
    STATUS,
    TEMPLATE,
    Unavailable,
    caught_refusal,
    prefers_page,
    refusal_of,
    unavailable,
)

#: Where a request keeps what was raised while it is answered.
WATCH = "claude_throttle.watch"

#: Headers that tell of the body that is replaced.
OF_A_BODY = ("Content-Encoding", "Content-Disposition", "Content-Range", "ETag", "Last-Modified")


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
    app.before_request(_watch)
    app.after_request(partial(_unmask, api_errors))


def _watch() -> None:
    request.environ[WATCH] = ErrorWatch()


def _unmask(api_errors: bool, response: Response) -> Response:
    """Make a 503 of a 500 that a refusal has caused: one that the view, or a handler, caught.

    The response stays the same object, with the cookies and headers that others gave it.
    """
    watch = request.environ.pop(WATCH, None)
    if watch is None:  # an earlier function refused the request
        return response
    # Flask answers an exception that nobody caught while it handles it.
    error = caught_refusal(watch, api_errors, raised=sys.exc_info()[1])
    if error is not None and response.status_code == 500:
        _replace(response, _response(unavailable(error)))
    return response


def _replace(response: Response, by: Response) -> None:
    for name in OF_A_BODY:
        response.headers.pop(name, None)
    response.set_data(by.get_data())
    response.status = by.status
    response.vary.update(by.vary)
    response.headers.update({k: v for k, v in by.headers.items() if k != "Vary"})


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
    refusal = refusal_of(error)
    if refusal is None:
        raise error
    return _response(unavailable(refusal))


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

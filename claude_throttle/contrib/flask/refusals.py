"""503 for calls that were refused before they were sent, in the words the client reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from flask import Flask, current_app, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from jinja2 import TemplateNotFound

from claude_throttle import ThrottleError
from claude_throttle.contrib.unavailable import (
    REFUSALS,
    STATUS,
    TEMPLATE,
    Unavailable,
    prefers_page,
    unavailable,
)


def handle(app: Flask) -> None:
    """Answer refusals, unless the application does."""
    theirs = app.error_handler_spec[None][None]
    for refusal in REFUSALS:
        if refusal not in theirs:
            app.register_error_handler(refusal, answer)


def answer(error: ThrottleError) -> ResponseReturnValue:
    """503 and Retry-After; a page for whoever names HTML, no less than JSON; JSON for all others.

    So a browser gets a page, and ``*/*``, which ``fetch()``, curl and ``requests`` send, gets JSON.
    """
    theirs = _handler_of_the_application(error)
    if theirs is not None:
        told: ResponseReturnValue = current_app.ensure_sync(theirs)(error)
        return told
    said = unavailable(error)
    as_page = prefers_page(kind for kind, quality in request.accept_mimetypes if quality > 0)
    response = make_response(_page(said) if as_page else jsonify(said.json), STATUS)
    response.headers.update(said.headers)
    response.headers["Vary"] = "Accept"
    return response


def _handler_of_the_application(error: ThrottleError) -> Optional[Callable[[Any], Any]]:
    """One for what several of these have in common: Flask found ours, which is closer."""
    handlers = current_app.error_handler_spec[None][None]
    for kind in type(error).__mro__:
        theirs: Any = handlers.get(kind)
        if theirs not in (None, answer) and issubclass(kind, ThrottleError):
            found: Callable[[Any], Any] = theirs
            return found
    return None


def _page(said: Unavailable) -> str:
    try:
        current_app.jinja_env.get_template(TEMPLATE)
    except TemplateNotFound:
        return said.html
    return render_template(TEMPLATE, unavailable=said)

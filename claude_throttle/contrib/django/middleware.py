"""503 responses with ``Retry-After`` for refused calls: for the whole site, or for single views.

What the response contains is decided in :mod:`claude_throttle.contrib.unavailable`, which Flask
uses, too. Refusals of the API after all retries become a 503, too, unless
``CLAUDE_THROTTLE_HANDLE_API_ERRORS = False`` in the settings leaves them to the application.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from functools import wraps
from typing import Any, Callable, Optional, TypeVar, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.exceptions import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils.deprecation import MiddlewareMixin

from claude_throttle.contrib.unavailable import (
    API_ERRORS,
    STATUS,
    TEMPLATE,
    Unavailable,
    is_refusal,
    prefers_page,
    unavailable,
)

View = TypeVar("View", bound=Callable[..., Any])


class ThrottleErrorMiddleware(MiddlewareMixin):
    """Turns ``QueueFull``, ``DeadlineExceeded``, ``CircuitOpen`` and ``AccountSuspended`` into 503.

    Refusals of the API become one, too, after all retries: those that
    :func:`claude_throttle.api_refusal` knows. The body is a page if ``Accept`` prefers one,
    otherwise JSON. Put it last in MIDDLEWARE, so that it is the first to see a view's exception. It
    works in asynchronous chains. It sees what a view raises before it returns its response, so a
    streaming view should open its stream before that. With ATOMIC_REQUESTS the view's transaction
    is rolled back.
    """

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> Optional[HttpResponse]:
        """The 503 for a refusal; None for other exceptions."""
        return refused(request, exception) if _is_handled(exception) else None


def refusals_as_503(view: View) -> View:
    """Decorate one view, synchronous or not; for class-based views use ``method_decorator``.

    With ATOMIC_REQUESTS the transaction is marked for rollback, as after any exception of a view.
    """
    if inspect.iscoroutinefunction(view):
        return cast(View, wraps(view)(_awaiting(view)))

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            response = view(request, *args, **kwargs)
        except Exception as error:
            if not _is_handled(error):
                raise
            _roll_back(getattr(answer, "_non_atomic_requests", ()))
            return refused(request, error)
        # An asynchronous class's dispatch() is a plain function that returns a coroutine.
        return _finished(request, response) if inspect.isawaitable(response) else response

    return cast(View, answer)


def _awaiting(view: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return await _finished(request, view(request, *args, **kwargs))

    return answer


async def _finished(request: HttpRequest, response: Any) -> Any:
    try:
        return await response
    except Exception as error:
        if not _is_handled(error):
            raise
        # A project's template may query the database for the user: not in the event loop.
        return await sync_to_async(refused, thread_sensitive=True)(request, error)


def _roll_back(non_atomic: Collection[str]) -> None:
    """Mark the transactions of ATOMIC_REQUESTS for rollback, unless the view opted out."""
    # Django would commit, as it sees a response and no exception. In the middleware the exception
    # has already passed through the transaction.
    for connection in connections.all():
        if connection.alias in non_atomic:  # marked by @transaction.non_atomic_requests
            continue
        if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
            connection.set_rollback(True)


def _is_handled(error: BaseException) -> bool:
    return is_refusal(error, getattr(settings, API_ERRORS, True))


def refused(request: HttpRequest, error: BaseException) -> HttpResponse:
    """The 503 response to a refusal. Logs the error; the response reveals nothing of it."""
    answer = unavailable(error)
    response = _response(request, answer)
    for name, value in answer.headers.items():
        response[name] = value
    return response


def _response(request: HttpRequest, answer: Unavailable) -> HttpResponse:
    if not prefers_page(f"{kind.main_type}/{kind.sub_type}" for kind in request.accepted_types):
        return JsonResponse(answer.json, status=STATUS)
    try:
        template = get_template(TEMPLATE)
    except TemplateDoesNotExist:
        return HttpResponse(answer.html, status=STATUS)
    return HttpResponse(template.render({"unavailable": answer}, request), status=STATUS)

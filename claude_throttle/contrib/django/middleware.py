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

from claude_throttle import ErrorWatch
from claude_throttle.contrib.unavailable import (
    API_ERRORS,
    STATUS,
    TEMPLATE,
    RefusedVisit,
    Unavailable,
    caught_refusal,
    prefers_page,
    refusal_of,
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

    A 500 of a view becomes a 503, too, if a call of the same request was refused so: the view has
    caught the exception. A thread that the view starts does not count.
    """

    def process_request(self, request: HttpRequest) -> None:
        """Watch what calls raise, until there is a response."""
        request._claude_watch = ErrorWatch()

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> Optional[HttpResponse]:
        """The 503 for a refusal; None for other exceptions."""
        refusal = _refusal_of(exception)
        if refusal is not None:
            return refused(request, refusal)
        request._claude_raised = exception
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """The 503 in place of a 500 that a refusal has caused."""
        found = request.__dict__
        watch, raised = found.pop("_claude_watch", None), found.pop("_claude_raised", None)
        return response if watch is None else _instead(request, response, watch, raised)


def refusals_as_503(view: View) -> View:
    """Decorate one view, synchronous or not; for class-based views use ``method_decorator``.

    With ATOMIC_REQUESTS the transaction is marked for rollback, as after any exception of a view.
    """
    if inspect.iscoroutinefunction(view):
        return cast(View, wraps(view)(_awaiting(view)))

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        watch = ErrorWatch()
        try:
            response = view(request, *args, **kwargs)
        except Exception as error:
            refusal = _refusal_of(error)
            if refusal is None:
                raise
            _roll_back(getattr(answer, "_non_atomic_requests", ()))
            return refused(request, refusal)
        # An asynchronous class's dispatch() is a plain function that returns a coroutine.
        if inspect.isawaitable(response):
            return _finished(request, response)
        return _instead(request, response, watch)

    return cast(View, answer)


def _awaiting(view: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return await _finished(request, view(request, *args, **kwargs))

    return answer


async def _finished(request: HttpRequest, response: Any) -> Any:
    watch = ErrorWatch()
    # A project's template may query the database for the user: not in the event loop.
    try:
        found = await response
    except Exception as error:
        refusal = _refusal_of(error)
        if refusal is None:
            raise
        return await sync_to_async(refused, thread_sensitive=True)(request, refusal)
    return await sync_to_async(_instead, thread_sensitive=True)(request, found, watch)


def _roll_back(non_atomic: Collection[str]) -> None:
    """Mark the transactions of ATOMIC_REQUESTS for rollback, unless the view opted out."""
    # Django would commit, as it sees a response and no exception. In the middleware the exception
    # has already passed through the transaction.
    for connection in connections.all():
        if connection.alias in non_atomic:  # marked by @transaction.non_atomic_requests
            continue
        if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
            connection.set_rollback(True)


def _instead(
    request: HttpRequest,
    response: HttpResponse,
    watch: ErrorWatch,
    raised: Optional[BaseException] = None,
) -> HttpResponse:
    """The response to send: a 503 if *response* is a 500 because of a refusal."""
    error = caught_refusal(watch, getattr(settings, API_ERRORS, True), raised)
    if error is None or getattr(response, "status_code", None) != 500:
        return response
    return refused(request, error)


def _refusal_of(error: BaseException) -> Optional[RefusedVisit]:
    return refusal_of(error, getattr(settings, API_ERRORS, True))


def refused(request: HttpRequest, error: object) -> HttpResponse:
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

"""What the tests' project serves; what it asks is in the query."""

from __future__ import annotations

import os

from django.http import HttpResponse, StreamingHttpResponse
from django.utils.decorators import method_decorator
from django.views import View

from claude_throttle import (
    AccountSuspended,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    QueueFull,
)
from claude_throttle.contrib.django import throttler
from claude_throttle.contrib.django.middleware import refusals_as_503
from tests.support.calls import ask
from tests.support.sdk_errors import status_error

ERRORS = {
    "queue": QueueFull("10 calls of key 7 wait", retry_after=2.1),
    "deadline": DeadlineExceeded("it took 3 s"),
    "circuit": CircuitOpen("the API keeps failing", retry_after=4.0),
    "account": AccountSuspended("the spend limit of key 7", reason="spend", retry_after=60.0),
    "mistake": ConfigurationError("burst= is wrong"),
}

#: What makes those of the SDK, whose import takes each worker a second of CPU.
API_ERRORS = {
    "busy": lambda: status_error(529, "key 7 is busy", {"retry-after": "30"}),
    "refused": lambda: status_error(401, "key 7 is refused"),
}


def error_named(name):
    """An exception of ours or of the SDK."""
    return API_ERRORS[name]() if name in API_ERRORS else ERRORS[name]


def fail(request, name):
    """Raises it."""
    raise error_named(name)


async def fail_later(request, name):
    """The same, in an event loop."""
    raise error_named(name)


plain = refusals_as_503(fail)
awaited = refusals_as_503(fail_later)


@method_decorator(refusals_as_503, name="dispatch")
class Page(View):
    """A class."""

    def get(self, request, name):
        """Raises it."""
        raise error_named(name)


def call(request):
    """An answer."""
    timeout = float(request.GET.get("timeout", "20"))
    answer = throttler.call(**ask(request.GET["text"]), timeout=timeout)
    response = HttpResponse(answer["content"][0]["text"])
    response["X-Worker"] = os.getpid()
    return response


def stream(request):
    """The same, as it is written."""
    opened = throttler.stream(**ask(request.GET["text"]), timeout=20)

    def words():
        with opened:
            yield from opened.text_stream

    return StreamingHttpResponse(words(), content_type="text/plain")

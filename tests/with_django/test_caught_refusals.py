"""Views that catch all exceptions and answer with a 500: the visitor is told 503 all the same."""

from __future__ import annotations

import asyncio

import anthropic
import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponseServerError, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from claude_throttle.contrib.django import throttler
from claude_throttle.contrib.django.middleware import refusals_as_503
from claude_throttle.testing import Reply
from tests.support.calls import ask

BUSY = Reply(429, {"retry-after": "7"}, "rate_limit_error")


def caught(request):
    try:
        throttler.call(**ask())
    except Exception as error:
        return JsonResponse({"error": str(error)}, status=500)
    return JsonResponse({})


async def caught_later(request):
    try:
        await sync_to_async(throttler.call)(**ask())
    except Exception as error:
        return JsonResponse({"error": str(error)}, status=500)


def rolled_into_another(request):
    try:
        throttler.call(**ask())
    except Exception as error:
        raise RuntimeError("no answer today") from error


def got_over(request):
    try:
        throttler.call(**ask())
    except anthropic.RateLimitError:
        pass
    raise KeyError("bug")


def failed(request):
    return HttpResponseServerError("failed")


urlpatterns = [
    path("caught", caught),
    path("caught-later", caught_later),
    path("rolled", rolled_into_another),
    path("got-over", got_over),
    path("failed", failed),
]


@pytest.fixture
def site(told):
    """Its browser shows a 500 where a view raises."""
    told(default={"max_retries": 0})
    with override_settings(ROOT_URLCONF=__name__):
        yield Client(raise_request_exception=False)


def judged(response):
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "rate_limited"
    assert response["Retry-After"] == "7"


@pytest.mark.parametrize("where", ["caught", "caught-later", "rolled"])
def test_a_refusal_that_a_view_caught_is_503(site, told, where):
    """Returned as a 500, in an event loop too, or rolled into another exception."""
    told.server.script(BUSY)
    judged(site.get(f"/{where}"))


def test_it_is_in_an_asynchronous_chain(site, told):
    told.server.script(BUSY)
    judged(asyncio.run(AsyncClient().get("/caught-later")))
    told.server.script(BUSY)
    judged(asyncio.run(AsyncClient().get("/caught")))


def test_it_is_by_the_decorator(site, told):
    """For views of both kinds."""
    request = RequestFactory().get("/")
    told.server.script(BUSY, BUSY)
    for answer in (
        refusals_as_503(caught)(request),
        asyncio.run(refusals_as_503(caught_later)(request)),
    ):
        assert answer.status_code == 503
        assert answer["Retry-After"] == "7"


def test_a_500_that_no_refusal_caused_stays(site, told):
    """A wrong request, a bug after a refusal that was dealt with, the request after a refusal."""
    told.server.script(Reply(400), BUSY, BUSY)
    assert site.get("/caught").status_code == 500
    assert site.get("/got-over").status_code == 500
    judged(site.get("/caught"))
    assert site.get("/failed").status_code == 500


def test_the_setting_leaves_those_of_the_api(site, told):
    told.server.script(BUSY)
    with override_settings(CLAUDE_THROTTLE_HANDLE_API_ERRORS=False):
        assert site.get("/caught").status_code == 500

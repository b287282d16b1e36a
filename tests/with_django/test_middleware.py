"""Refusals become 503: by the middleware, by the decorator, in both kinds of chains."""

from __future__ import annotations

import asyncio
import logging
import re

import anthropic
import pytest
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from claude_throttle import ConfigurationError, QueueFull
from claude_throttle.contrib.django import middleware
from claude_throttle.contrib.django.middleware import refusals_as_503
from claude_throttle.testing import Stall
from tests.support.calls import ask
from tests.support.waiting import wait_until
from tests.with_django import views

BROWSER = {"HTTP_ACCEPT": "text/html,application/xhtml+xml,*/*;q=0.8"}
MIDDLEWARE = ["claude_throttle.contrib.django.middleware.ThrottleErrorMiddleware"]

#: By the middleware: in a view, in an asynchronous one. By the decorator: three kinds of views.
WAYS = ("/fail", "/fail-later", "/plain", "/awaited", "/page")
BY_DECORATOR = WAYS[2:]


def judged(response, kind, seconds):
    assert response.status_code == 503
    assert response["Retry-After"] == str(seconds)
    assert response["Cache-Control"] == "no-store"
    assert response.json()["error"]["type"] == kind
    assert response.json()["error"]["retry_after"] == seconds
    assert response.json()["error"]["passing"] is (kind != "account_suspended")
    assert b"key 7" not in response.content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "kind", "seconds"),
    [
        ("queue", "queue_full", 3),
        ("deadline", "deadline_exceeded", 5),
        ("circuit", "circuit_open", 4),
        ("account", "account_suspended", 60),
    ],
)
def test_the_four(client, way, name, kind, seconds):
    """503, when to ask again, and which of them it is; nothing of what is inside."""
    judged(client.get(f"{way}/{name}"), kind, seconds)


@pytest.mark.parametrize("way", WAYS)
def test_refusals_of_the_api_are_503_unless_a_setting_leaves_them(client, way):
    judged(client.get(f"{way}/busy"), "overloaded", 30)
    refused = client.get(f"{way}/refused")
    assert refused.json()["error"] == {
        "type": "account_refused",
        "message": refused.json()["error"]["message"],
        "passing": False,
        "retry_after": 5,
    }
    with override_settings(CLAUDE_THROTTLE_HANDLE_API_ERRORS=False):
        with pytest.raises(anthropic.APIStatusError):
            client.get(f"{way}/busy")
        judged(client.get(f"{way}/queue"), "queue_full", 3)


@pytest.mark.parametrize("way", WAYS)
def test_others_are_left_alone(client, way):
    """A mistake of the program is none of the visitor's."""
    with pytest.raises(ConfigurationError):
        client.get(f"{way}/mistake")


@pytest.mark.parametrize("way", WAYS)
def test_in_an_asynchronous_chain(way):
    """The same, whatever kind the view is."""
    with override_settings(MIDDLEWARE=MIDDLEWARE):
        response = asyncio.run(AsyncClient().get(f"{way}/queue"))
        judged(response, "queue_full", 3)


def test_an_asynchronous_views_page_may_ask_the_database(monkeypatch):
    """Who the visitor is, say: nobody may do that in the event loop."""
    in_the_loop, real = [], middleware.refused

    def refused(request, error):
        try:
            in_the_loop.append(asyncio.get_running_loop())
        except RuntimeError:
            in_the_loop.append(None)
        return real(request, error)

    monkeypatch.setattr(middleware, "refused", refused)
    with override_settings(MIDDLEWARE=[]):
        judged(asyncio.run(AsyncClient().get("/awaited/queue")), "queue_full", 3)
    assert in_the_loop == [None]


@pytest.mark.parametrize("way", BY_DECORATOR)
def test_the_decorator_needs_no_middleware(client, way):
    """And the other way round, no view needs the decorator."""
    with override_settings(MIDDLEWARE=[]):
        judged(client.get(f"{way}/queue"), "queue_full", 3)
        with pytest.raises(QueueFull):
            client.get("/fail/queue")


def test_a_page_for_people(client, caplog):
    """With words, without anything from elsewhere; the log has the rest."""
    with caplog.at_level(logging.INFO, "claude_throttle"):
        response = client.get("/fail/queue", **BROWSER)
    assert response.status_code == 503
    assert response["Retry-After"] == "3"
    assert response["Content-Type"].startswith("text/html")
    page = response.content.decode()
    assert "try again in 3 seconds" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "key 7" not in page
    assert "key 7" in caplog.text


def test_an_account_problem_is_no_passing_limit(client):
    """Nobody is told to come back in a minute."""
    page = client.get("/fail/account", **BROWSER).content.decode()
    assert "trying again will not help" in page
    assert "Out of order" in page


def test_head(client):
    """The same without a body."""
    response = client.head("/fail/queue", **BROWSER)
    assert (response.status_code, response["Retry-After"]) == (503, "3")
    assert response.content == b""


OWN = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "OPTIONS": {
        "loaders": [
            (
                "django.template.loaders.locmem.Loader",
                {"claude_throttle/unavailable.html": "Ours: {{ unavailable.kind }}"},
            )
        ]
    },
}


def test_a_projects_own_page(client):
    """It has the answer as ``unavailable``."""
    with override_settings(TEMPLATES=[OWN]):
        assert client.get("/fail/queue", **BROWSER).content == b"Ours: queue_full"


@pytest.mark.parametrize("templates", [[], [{**OWN, "OPTIONS": {}}]])
def test_without_a_template(client, templates):
    """Ours needs no engine."""
    with override_settings(TEMPLATES=templates):
        response = client.get("/fail/queue", **BROWSER)
    assert response.status_code == 503
    assert response["Content-Type"].startswith("text/html")
    assert b"<p>This service is busy. Please try again in 3 seconds.</p>" in response.content


class Elsewhere:
    """Another middleware, which answers itself."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        from django.http import HttpResponse

        return HttpResponse("mine", status=418)


def test_who_comes_first_answers():
    """An exception that another middleware has handled does not come to ours."""
    with override_settings(MIDDLEWARE=[*MIDDLEWARE, f"{__name__}.Elsewhere"]):
        assert Client().get("/fail/queue").status_code == 418
    with override_settings(MIDDLEWARE=[f"{__name__}.Elsewhere", *MIDDLEWARE]):
        assert Client().get("/fail/queue").status_code == 503


def test_what_goes_well_goes_on(client, told):
    """Answers, and streams, pass untouched."""
    told(default={})
    assert client.get("/call?text=hello").content == b"echo: hello"
    response = client.get("/stream?text=hello")
    assert b"".join(response.streaming_content) == b"echo: hello"
    assert refusals_as_503(views.stream)(RequestFactory().get("/?text=a")).streaming


def test_a_stream_that_nobody_reads(client, told):
    """HEAD wants no body: what was opened for it is let go."""
    told(default={"max_concurrency": 1})
    for _ in range(3):
        assert client.head("/stream?text=hello").status_code == 200
    assert client.get("/call?text=next").content == b"echo: next"


def test_a_stream_that_is_refused(client, told):
    """It was opened in the view, so that there is still something to say."""
    told(default={"max_queue": 1, "max_concurrency": 1})
    told.server.script(Stall())
    views.throttler.submit(**ask("first"))
    wait_until(lambda: len(told.server.arrivals) > 0)
    views.throttler.submit(**ask("second"))
    response = client.get("/stream?text=third")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "queue_full"
    told.server.release_stalled()


def test_a_deadline_of_the_view(client, told):
    """``timeout=`` is what makes a visitor wait no longer."""
    told(default={"rpm": 1, "burst": 1})
    assert client.get("/call?text=one").status_code == 200
    response = client.get("/call?text=two&timeout=0.2")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "deadline_exceeded"
    assert 1 <= int(response["Retry-After"]) <= 60


urlpatterns = [path("keep/<way>", lambda request, way: KEEPING[way](request))]


def _keep(request):
    from django.contrib.auth.models import Group

    Group.objects.create(name="half done")
    raise views.ERRORS["queue"]


KEEPING = {"middleware": _keep, "decorator": refusals_as_503(_keep)}


@pytest.mark.usefixtures("_tables")
@pytest.mark.parametrize("way", sorted(KEEPING))
def test_a_refused_views_transaction_is_rolled_back(client, way):
    """ATOMIC_REQUESTS sees a response, not an error, where the decorator answered."""
    from django.contrib.auth.models import Group
    from django.db import connection

    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with override_settings(ROOT_URLCONF=__name__):
            assert client.get(f"/keep/{way}").status_code == 503
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert not Group.objects.filter(name="half done").exists()


def test_a_decorated_view_keeps_its_name():
    """And its mark of being asynchronous."""
    assert views.plain.__name__ == "fail"
    assert asyncio.iscoroutinefunction(views.awaited)
    assert not asyncio.iscoroutinefunction(views.plain)

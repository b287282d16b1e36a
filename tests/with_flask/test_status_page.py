"""The status page, for those who may see it."""

from __future__ import annotations

import pytest
from flask import abort, redirect, request
from werkzeug.exceptions import Unauthorized

from claude_throttle import ConfigurationError
from claude_throttle.contrib import status
from tests.support.calls import KEY

PAGE, DATA = "/claude-throttle/", "/claude-throttle/data.json"


@pytest.fixture
def client(make_app):
    """``client(allow, **told)`` looks at an application that has the page."""

    def look(allow, url_prefix="/claude-throttle", **told):
        app = make_app(API_KEY=KEY, THROTTLERS={"batch": {"rpm": 10}}, **told)
        app.register_blueprint(app.claude.status_blueprint(allow=allow, url_prefix=url_prefix))
        app.add_url_rule("/login", view_func=lambda: "who are you?")
        return app.test_client()

    return look


def test_the_page_and_its_data(client):
    """As the one who draws it says, never kept, and without a key."""
    looking = client(lambda: True)
    page, data = looking.get(PAGE), looking.get(DATA)
    assert (page.status_code, page.data, page.mimetype) == (200, status.page(), "text/html")
    assert (data.status_code, data.mimetype) == (200, "application/json")
    assert len(data.json["throttlers"]) == 2
    assert KEY not in data.text
    for response, headers in ((page, status.page_headers()), (data, status.data_headers())):
        assert headers.items() <= dict(response.headers).items()
        assert response.headers.getlist("Content-Type") == [response.headers["Content-Type"]]
        assert response.headers["Cache-Control"] == "no-store"


def test_its_address_ends_with_a_slash(client):
    """Else it would look for its data in the wrong place."""
    response = client(lambda: True, "/intern/claude").get("/intern/claude")
    assert (response.status_code, response.location) == (308, "http://localhost/intern/claude/")


def test_at_the_address_it_is_registered_with(make_app):
    """As with any blueprint; and for two applications, each sees its own."""
    apps = [make_app("one"), make_app("two", THROTTLERS={"batch": {}})]
    blueprint = apps[0].claude.status_blueprint(allow=lambda: True)
    for app in apps:
        app.register_blueprint(blueprint, url_prefix="/else/where")
    found = [app.test_client().get("/else/where/data.json").json for app in apps]
    assert [len(data["throttlers"]) for data in found] == [1, 2]


@pytest.mark.parametrize("verdict", [False, None, 0, "", []], ids=repr)
def test_whoever_may_not_see_it(client, verdict):
    """403, as a page or as JSON, kept by nobody."""
    looking = client(lambda: verdict)
    page, data = looking.get(PAGE), looking.get(DATA)
    assert (page.status_code, page.mimetype) == (403, "text/html")
    assert (data.status_code, data.json) == (403, {"error": "you may not see this"})
    assert page.headers["Cache-Control"] == data.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("give", "code"),
    [
        (lambda: redirect("/login"), 302),
        (lambda: ("who are you?", 401, {"WWW-Authenticate": "Basic"}), 401),
        (lambda: Unauthorized(), 401),
        (lambda: abort(404), 404),
    ],
)
def test_a_response_is_given_instead(client, give, code):
    """A way to a login, say. Whoever only fetches the data is refused."""
    looking = client(give)
    assert looking.get(PAGE).status_code == code
    data = looking.get(DATA)
    assert data.status_code == (404 if code == 404 else 403)
    assert data.headers["Cache-Control"] == "no-store"


def test_each_request_is_asked_about(client):
    """In its own context."""
    looking = client(lambda: request.headers.get("X-User") == "ada")
    for user, code in (("ada", 200), ("eve", 403), ("ada", 200)):
        assert looking.get(DATA, headers={"X-User": user}).status_code == code
    assert looking.head(PAGE).status_code == 403
    assert looking.post(PAGE).status_code == 405


@pytest.mark.parametrize("verdict", ["please log in", b"no", {"error": "no"}, ["no"]], ids=repr)
def test_a_page_is_no_verdict(client, verdict):
    """A view might return it to whoever is not logged in; the status would be shown instead."""
    looking = client(lambda: verdict)
    looking.application.testing = True
    for path in (PAGE, DATA):
        with pytest.raises(TypeError, match=r"return True, False, or a response"):
            looking.get(path)


class User:
    """As login extensions have them."""

    def is_admin(self):
        return False


async def nobody():
    """Asked by an application that is async."""
    return False


@pytest.mark.parametrize("give", [lambda: User().is_admin, lambda: nobody()])
def test_what_was_not_called_is_no_verdict(client, give):
    """It would be true for everybody."""
    looking = client(give)
    looking.application.testing = True
    for path in (PAGE, DATA):
        with pytest.raises(TypeError, match="has to be called first"):
            looking.get(path)


def test_an_async_function_is_no_yes(client):
    """It is run, as an async view is, or cannot be; a coroutine alone is true."""
    assert client(nobody).get(PAGE).status_code in (403, 500)


@pytest.mark.parametrize("allow", [True, None, "admin"])
def test_somebody_must_say_who_may(make_app, allow):
    """There is no page without."""
    claude = make_app().claude
    with pytest.raises(ConfigurationError, match="must be a function that returns whether"):
        claude.status_blueprint(allow=allow)
    with pytest.raises(TypeError, match="allow"):
        claude.status_blueprint()

"""503 where a call was refused before it was sent, in the words the client reads."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import anthropic
import pytest
from flask import Blueprint, Flask
from werkzeug.exceptions import Conflict

from claude_throttle import (
    AccountSuspended,
    CircuitOpen,
    Closed,
    DeadlineExceeded,
    QueueFull,
    ThrottleError,
)
from claude_throttle.contrib.flask import ClaudeThrottle
from claude_throttle.contrib.unavailable import REFUSALS
from claude_throttle.testing import KEY_REFUSED, Reply, Stall
from tests.support.sdk_errors import status_error
from tests.support.waiting import wait_until

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECRET = "acme-inc may spend $500"


@pytest.fixture
def raising(make_app):
    """``raising(error, accept, **told)`` is the answer of a view that raises it."""

    def get(error, accept="*/*", prepare=lambda app: None, **told):
        app = make_app(API_KEY="sk-ant-test", **told)
        prepare(app)

        @app.get("/")
        def view():
            raise error

        return app.test_client().get("/", headers={"Accept": accept} if accept else {})

    return get


@pytest.mark.parametrize(
    ("error", "kind", "seconds"),
    [
        (QueueFull(SECRET, retry_after=2.5), "queue_full", 3),
        (DeadlineExceeded(SECRET), "deadline_exceeded", 5),
        (CircuitOpen(SECRET, retry_after=30), "circuit_open", 30),
        (AccountSuspended(SECRET, reason="spend limit"), "account_suspended", 5),
    ],
)
def test_each_is_503(raising, error, kind, seconds):
    """With when to ask again, and nothing of what is inside."""
    response = raising(error)
    assert (response.status_code, response.json["error"]["type"]) == (503, kind)
    assert response.headers["Retry-After"] == str(seconds)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["error"]["passing"] is (kind != "account_suspended")
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("application/xhtml+xml", True),
        ("text/html, application/json", True),
        ("text/html;q=0.5, application/json", False),
        ("application/json, text/plain, */*", False),
        ("*/*", False),
        ("text/html;q=0, */*", False),
        ("image/png", False),
        ("", False),
    ],
)
def test_a_page_for_whoever_names_html(raising, accept, page):
    """And JSON for programs, which name it or nothing."""
    response = raising(QueueFull("", retry_after=7), accept)
    assert response.mimetype == ("text/html" if page else "application/json")
    assert "try again in 7 seconds" in response.text
    assert response.headers["Vary"] == "Accept"


def test_the_page_tells_an_account_from_a_passing_limit(raising):
    """It stands by itself, in light and dark, on a telephone."""
    busy, broken = (raising(error("", retry_after=9), BROWSER).text for error in REFUSALS[::3])
    assert "Busy for the moment" in busy
    assert "Out of order" in broken
    assert "Busy" not in broken
    for page in (busy, broken):
        assert 'lang="en"' in page
        assert 'name="viewport"' in page
        assert "prefers-color-scheme: dark" in page
        assert "<script" not in page
        assert "http" not in page
        assert "$" not in page


def test_a_template_of_the_application(raising, tmp_path):
    """With its context processors."""
    folder = tmp_path / "templates" / "claude_throttle"
    folder.mkdir(parents=True)
    page = "{{ shop }}: {{ unavailable.kind }} {{ unavailable.retry_after }}"
    (folder / "unavailable.html").write_text(page)

    def prepare(app):
        app.context_processor(lambda: {"shop": "<Shop>"})

    assert raising(QueueFull("", retry_after=7), BROWSER, prepare).text == (
        "&lt;Shop&gt;: queue_full 7"
    )
    assert raising(QueueFull(""), "*/*", prepare).json


def test_what_a_template_misses_is_not_hidden(raising, tmp_path):
    """A page that is there and broken is a mistake of the application's."""
    folder = tmp_path / "templates" / "claude_throttle"
    folder.mkdir(parents=True)
    (folder / "unavailable.html").write_text('{% extends "nowhere.html" %}')
    assert raising(QueueFull(""), BROWSER).status_code == 500


@pytest.mark.parametrize("kind", [QueueFull, ThrottleError])
def test_the_applications_own_handlers_go_first(raising, kind):
    """For one refusal, or for all that we raise; registered after ours."""
    response = raising(
        QueueFull(""), prepare=lambda app: app.register_error_handler(kind, lambda error: "theirs")
    )
    assert response.text == "theirs"


def test_one_that_was_there_before_stays():
    """As for any error handler of Flask's, the application has the last word."""
    app = Flask("shop")
    app.register_error_handler(QueueFull, lambda error: "theirs")
    ClaudeThrottle(app)
    app.add_url_rule("/<name>", "raise", lambda name: _raise(name))
    assert app.test_client().get("/QueueFull").text == "theirs"
    assert app.test_client().get("/CircuitOpen").status_code == 503


def _raise(name):
    raise {"QueueFull": QueueFull, "CircuitOpen": CircuitOpen}[name]("")


def test_one_of_a_blueprint_goes_first(make_app):
    """For its own views."""
    app = make_app(API_KEY="sk-ant-test")
    part = Blueprint("part", __name__)
    part.register_error_handler(ThrottleError, lambda error: "the part's")
    part.add_url_rule("/part", "view", lambda: _raise("QueueFull"))
    app.register_blueprint(part)
    app.add_url_rule("/whole", "view", lambda: _raise("QueueFull"))
    assert app.test_client().get("/part").text == "the part's"
    assert app.test_client().get("/whole").status_code == 503


def test_one_for_everything_does_not(raising):
    """It knows nothing of 503."""

    def prepare(app):
        app.register_error_handler(Exception, lambda error: ("all", 500))

    assert raising(QueueFull(""), prepare=prepare).status_code == 503
    assert raising(Closed(""), prepare=prepare).text == "all"


def test_it_can_be_left_out(raising):
    """Then they are errors as any other."""
    for told in (False, "false", 0):
        assert raising(QueueFull(""), HANDLE_ERRORS=told).status_code == 500
    for told in (True, "True", 1, ""):
        assert raising(QueueFull(""), HANDLE_ERRORS=told).status_code == 503


def test_mistakes_of_the_program_are_not_hidden(raising):
    """Closed, a wrong call: nobody should be told to come back."""
    assert raising(Closed("")).status_code == 500


def test_what_the_api_refuses_is_logged_where_it_must_be(raising, caplog):
    """An account's problem is an error, for whoever runs it."""
    with caplog.at_level(logging.INFO, "claude_throttle"):
        raising(AccountSuspended(SECRET, reason="spend limit"), BROWSER)
    assert [(r.levelname, SECRET in r.getMessage()) for r in caplog.records] == [("ERROR", True)]


def test_a_full_queue(fake, asking_app):
    """One is out, one waits, the third is told."""
    server = fake()
    server.script(Stall())
    app = asking_app(server, MAX_QUEUE=1, MAX_CONCURRENCY=1)
    with ThreadPoolExecutor(2) as pool:
        try:
            out = [pool.submit(app.test_client().get, "/default")]
            wait_until(lambda: len(server.arrivals) == 1)
            out.append(pool.submit(app.test_client().get, "/default"))
            throttler = app.claude.throttlers(app)["default"]
            wait_until(lambda: throttler.stats().waiting == 1)
            response = app.test_client().get("/default")
        finally:
            server.release_stalled()
    assert (response.status_code, response.json["error"]["type"]) == (503, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    assert [future.result().status_code for future in out] == [200, 200]


def test_a_deadline(fake, asking_app):
    """Also when it passes on the wire."""
    server = fake()
    server.script(Stall())
    response = asking_app(server).test_client().post("/default?timeout=0.2")
    server.release_stalled()
    assert (response.status_code, response.json["error"]["type"]) == (503, "deadline_exceeded")


def test_a_suspended_account(fake, asking_app):
    """The first caller meets the API's own refusal, the next meet ours."""
    server = fake()
    server.script(KEY_REFUSED)
    client = asking_app(server).test_client()
    first = client.get("/default")
    assert (first.status_code, first.json["error"]["type"]) == (503, "account_refused")
    assert first.json["error"]["passing"] is False
    response = client.get("/default", headers={"Accept": BROWSER})
    assert response.status_code == 503
    assert "Out of order" in response.text


def test_a_refusal_of_the_api_is_503_with_its_own_pause(fake, asking_app):
    """After all retries; a setting leaves it to the application, as a mistake always is."""
    server = fake()
    client = asking_app(server, MAX_RETRIES=0).test_client()
    server.script(Reply(429, {"retry-after": "7"}, "rate_limit_error"))
    response = client.get("/default")
    assert (response.status_code, response.json["error"]["type"]) == (503, "rate_limited")
    assert response.headers["Retry-After"] == "7"
    assert client.get("/nowhere/at/all").status_code == 404
    left = asking_app(server, name="left", MAX_RETRIES=0, HANDLE_API_ERRORS=False).test_client()
    server.script(Reply(529, {}, "overloaded_error"))
    assert left.get("/default").status_code == 500


def test_a_handler_of_the_application_for_the_sdks_errors_goes_first(raising):
    error = status_error(429, headers={"retry-after": "1"})

    def prepare(app):
        app.register_error_handler(anthropic.RateLimitError, lambda error: ("mine", 418))

    assert raising(error, prepare=prepare).status_code == 418
    assert raising(error).status_code == 503


def test_other_errors_go_their_way_as_without_us(raising):
    """A mistake, an error of the API about one call, an HTTP error, each with a handler or none."""
    for error in (KeyError("x"), status_error(400), status_error(500)):
        assert raising(error).status_code == 500
        teapot = raising(
            error, prepare=lambda app: app.register_error_handler(500, lambda error: ("tea", 500))
        )
        assert teapot.text == "tea"
    assert raising(Conflict()).status_code == 409

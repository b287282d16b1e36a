"""Views that catch all exceptions and answer with a 500: the visitor is told 503 all the same."""

from __future__ import annotations

import importlib

import anthropic
import pytest
import requests
from flask import abort, jsonify

from claude_throttle.contrib.flask import current_throttler
from claude_throttle.testing import Reply, Reset
from tests.support.calls import KEY, ask
from tests.support.needs import needs

BUSY = Reply(429, {"retry-after": "7"}, "rate_limit_error")

REQUEST = {k: v for k, v in ask().items() if k != "raw"}


@needs("middleware")
def by_middleware(max_retries=0):
    door = {"middleware": [current_throttler.middleware()]}
    _by_sdk(max_retries, **door)


def by_transport(max_retries=0):
    transport = current_throttler.transport()
    if hasattr(anthropic, "DefaultHttpxClient"):
        http_client = anthropic.DefaultHttpxClient(transport=transport)
    else:  # before 0.34
        http_client = importlib.import_module("httpx").Client(transport=transport)
    _by_sdk(max_retries, http_client=http_client)


@needs("middleware")
def by_counting_transport(max_retries):
    """Releases of long ago do not tell the server how often they have sent a request."""
    by_transport(max_retries)


def _by_sdk(max_retries, **door):
    url = current_throttler.settings.base_url
    with anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=max_retries, **door) as client:
        client.messages.create(**REQUEST)


def by_session():
    address = current_throttler.settings.base_url
    with requests.Session() as session:
        session.mount(address, current_throttler.adapter())
        headers = {"x-api-key": KEY}
        session.post(f"{address}/v1/messages", json=REQUEST, headers=headers).raise_for_status()


def by_stream():
    with current_throttler.stream(**ask()) as stream:
        list(stream)


def by_exception():
    raise current_throttler.submit(**ask()).exception()


def by_call():
    current_throttler.call(**ask())


def by_future():
    current_throttler.submit(**ask()).result()


def by_map():
    list(current_throttler.map([ask()]))


SDK = [by_middleware, by_transport]
CALLS = [by_call, by_stream, by_session, *SDK]


def returned(error):
    return jsonify(error=str(error)), 500


def aborted(error):
    abort(500)


def raised(error):
    raise RuntimeError("no answer today") from error


def handled(error):
    raise error  # to a handler of the application for everything


@pytest.fixture
def visit(asking_app):
    """``visit(call, fail)`` is the response of a view that calls, and catches what is raised."""

    def visit(call, fail=returned, prepare=lambda app: None, **told):
        app = asking_app(visit.server, **{"MAX_RETRIES": 0, **told})
        prepare(app)

        @app.get("/caught")
        def view():
            try:
                call()
            except Exception as error:
                return fail(error)
            return "well"

        visit.client = app.test_client()
        return visit.client.get("/caught")

    visit.server = None
    return visit


def kind(response):
    assert response.status_code == 503
    assert response.headers["Cache-Control"] == "no-store"
    return response.json["error"]["type"], response.headers["Retry-After"]


@pytest.mark.parametrize("call", [*CALLS, by_future, by_exception, by_map])
def test_a_refusal_of_the_api_that_a_view_caught_is_503(visit, fake, call):
    """Whatever asked: also where it is the SDK, or the view, that makes an exception of it."""
    visit.server = fake()
    visit.server.script(BUSY)
    assert kind(visit(call)) == ("rate_limited", "7")
    assert len(visit.server.arrivals) == 1


def test_a_refusal_after_which_a_session_sent_again_is_not_the_end(visit, fake):
    """The answer came: the view's own bug is one."""
    visit.server = fake()
    visit.server.script(Reply(429, {"retry-after-ms": "1"}, "rate_limit_error"))

    def call():
        with current_throttler.session() as session:
            address = f"{current_throttler.settings.base_url}/v1/messages"
            session.post(address, json=REQUEST, headers={"x-api-key": KEY}).raise_for_status()
        raise ValueError("a bug of the view's own")

    assert visit(call, MAX_RETRIES=1).status_code == 500
    assert len(visit.server.arrivals) == 2


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_of_ours_that_a_view_caught_is_503(visit, call):
    """Nothing was sent: the account is suspended since another call."""

    def prepare(app):
        app.server.script(Reply(401, {}, "authentication_error"))
        with app.app_context(), pytest.raises(anthropic.AuthenticationError):
            current_throttler.call(**ask())

    response = visit(call, prepare=prepare)
    assert response.status_code == 503
    assert response.json["error"]["type"] in ("account_suspended", "account_refused")
    assert response.json["error"]["passing"] is False


@pytest.mark.parametrize("fail", [returned, aborted, raised, handled])
def test_however_the_view_says_500(visit, fake, fail):
    """By its response, by abort(), by another exception, by a handler for all of them."""
    visit.server = fake()
    visit.server.script(BUSY)

    def prepare(app):
        if fail is handled:
            app.register_error_handler(Exception, lambda error: ("failed", 500))

    assert kind(visit(by_call, fail, prepare)) == ("rate_limited", "7")


@pytest.mark.parametrize("call", SDK)
def test_a_lost_connection_under_the_sdk_is_503(visit, fake, call):
    visit.server = fake()
    visit.server.script(Reset())
    assert kind(visit(call))[0] == "no_connection"


def test_what_the_response_had_of_others_stays(visit, fake):
    """CORS headers and cookies; not those of the body that is gone."""
    visit.server = fake()
    visit.server.script(BUSY)

    def prepare(app):
        @app.after_request
        def add(response):
            response.headers.update({"Access-Control-Allow-Origin": "*", "ETag": "x"})
            response.set_cookie("basket", "full")
            return response

    response = visit(by_call, prepare=prepare)
    assert kind(response)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "basket=full" in response.headers["Set-Cookie"]
    assert "ETag" not in response.headers
    assert response.content_length == len(response.data)


def test_a_500_that_no_refusal_caused_stays(visit, fake):
    """A wrong request; an error of the API after which a call may be billed."""
    visit.server = fake()
    visit.server.script(Reply(400), Reply(500))
    assert visit(by_call).status_code == 500
    assert visit(by_call).status_code == 500


def test_a_refusal_of_the_last_request_counts_no_more(visit, fake):
    """Its visitor was told of it."""
    visit.server = fake()
    visit.server.script(BUSY)

    def prepare(app):
        app.add_url_rule("/failed", "failed", lambda: ("failed", 500))

    assert visit(by_call, prepare=prepare).status_code == 503
    assert visit.client.get("/failed").status_code == 500


def test_a_bug_after_a_refusal_that_was_dealt_with_is_a_500(visit, fake):
    visit.server = fake()
    visit.server.script(BUSY)

    def call():
        with pytest.raises(anthropic.RateLimitError):
            current_throttler.call(**ask())
        raise KeyError("bug")

    def reraise(error):
        raise error

    assert visit(call, reraise).status_code == 500


@pytest.mark.parametrize("door", [by_middleware, by_counting_transport])
def test_a_refusal_that_the_sdk_got_over_is_none(visit, fake, door):
    """The 500 is about something else."""
    visit.server = fake()
    visit.server.script(Reply(529, {"retry-after-ms": "1"}, "overloaded_error"))

    def call():
        door(max_retries=1)
        raise KeyError("bug")

    assert visit(call).status_code == 500
    assert len(visit.server.arrivals) == 2


@pytest.mark.parametrize("setting", ["HANDLE_ERRORS", "HANDLE_API_ERRORS"])
def test_what_the_settings_leave_to_the_application_is_left(visit, fake, setting):
    visit.server = fake()
    visit.server.script(BUSY)
    assert visit(by_call, **{setting: False}).status_code == 500

"""The wire's edges through a real Throttler; ``responses`` plays the server.

``responses`` asks the retries whether to go on, but does not wait between attempts: what is judged
here is what is sent, what comes of an answer, and what never leaves. Waiting is judged elsewhere.
"""

from __future__ import annotations

import gzip
import json
import pickle
import traceback

import anthropic
import pytest
import requests
import responses

from claude_throttle import BrokenAnswer, CallFailed, CallSucceeded, InvalidCall, Throttler
from tests.support.played_server import ANSWER, ASK, KEY, URL, answer, failure, refuse
from tests.support.sdk_releases import error_class

# -- answers ---------------------------------------------------------------------------------------


def test_an_answer_is_a_message_or_a_dict(server, make):
    """The SDK's type, or with raw=True what the server said; and it is counted."""
    answer(server, headers={"request-id": "req_1"})
    events = []
    throttler = make(on_event=events.append)
    message = throttler.submit(**ASK).result(60)
    assert isinstance(message, anthropic.types.Message)
    assert (message.content[0].text, message._request_id) == ("hello", "req_1")
    assert throttler.submit(**ASK, raw=True).result(60) == ANSWER
    stats = throttler.stats()
    assert (stats.succeeded, stats.input_tokens, stats.cache_read_input_tokens) == (2, 6, 10)
    assert [e.request_id for e in events if isinstance(e, CallSucceeded)] == ["req_1"] * 2


def test_an_answer_without_usage_is_an_answer(server, make):
    """A gateway may leave it out; the estimate stays booked."""
    answer(server, body=json.dumps({k: v for k, v in ANSWER.items() if k != "usage"}))
    throttler = make()
    assert "usage" not in throttler.submit(**ASK, raw=True).result(60)
    assert throttler.stats().input_tokens == 0


def test_an_answer_with_impossible_usage_is_an_answer(server, make):
    """It was paid for; JSON allows numbers that no float can hold."""
    body = json.dumps({**ANSWER, "usage": {"input_tokens": 10**400, "output_tokens": 1}})
    answer(server, body=body)
    assert make().submit(**ASK, raw=True).result(60)["content"] == ANSWER["content"]


def test_a_compressed_answer_is_unpacked(server, make):
    """requests leaves that to whoever reads the raw stream."""
    body = gzip.compress(json.dumps(ANSWER).encode())
    answer(server, body=body, headers={"Content-Encoding": "gzip"})
    assert make().submit(**ASK, raw=True).result(60) == ANSWER


WHOLE = json.dumps(ANSWER).encode()

BROKEN = {
    "half": (WHOLE[: len(WHOLE) // 2], {}, "not a JSON object"),
    "empty": (b"", {}, "0 bytes that are not a JSON object"),
    "page": (b"<html>Log in</html>", {"Content-Type": "text/html"}, "not a JSON object"),
    "other object": (b'{"ok": true}', {}, "not a message"),
    "error with 200": (b'{"type": "error", "error": {}}', {}, "not a message"),
    "bad gzip": (WHOLE, {"Content-Encoding": "gzip"}, "broke off"),
    "cut gzip": (gzip.compress(WHOLE)[:40], {"Content-Encoding": "gzip"}, "200 with"),
    "cut short": (WHOLE, {"Content-Length": "99999"}, "200 with"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_half_an_answer_is_an_error_that_says_so(server, make, case):
    """Never half a message, never sent again: it may be billed."""
    body, headers, words = BROKEN[case]
    answer(server, body=body, headers={"request-id": "req_7", **headers})
    error = failure(make(), raw=True)
    assert isinstance(error, BrokenAnswer)
    assert (error.status, error.request_id) == (200, "req_7")
    assert words in str(error)
    assert len(server.calls) == 1


# -- refusals --------------------------------------------------------------------------------------


def test_an_overload_is_tried_again(server, make):
    """529 is the API's word for it; the same bytes go again."""
    refuse(server, 529)
    refuse(server, 529)
    answer(server)
    throttler = make()
    assert throttler.submit(**ASK, raw=True).result(60) == ANSWER
    assert len({call.request.body for call in server.calls}) == 1
    assert len(server.calls) == 3


def test_after_the_last_try_the_servers_own_error(server, make):
    """One send and max_retries more; the SDK's class, with what the server said."""
    refuse(server, 529, request_id="req_3")
    error = failure(make(max_retries=2))
    assert isinstance(error, anthropic.APIStatusError)
    assert type(error).__name__ == error_class("OverloadedError").__name__
    assert (error.status_code, error.request_id) == (529, "req_3")
    assert error.body["type"] == "error"
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "code", "headers", "expected"),
    [
        (401, None, {}, "AuthenticationError"),
        (400, None, {"retry_after": "1"}, "BadRequestError"),
        (413, None, {"retry_after": "1"}, "RequestTooLargeError"),
        (429, None, {"x_should_retry": "false"}, "RateLimitError"),
        (429, "enforced_spend_limit_reached", {"retry_after": "1"}, "RateLimitError"),
        (500, None, {"x_should_retry": "false"}, "InternalServerError"),
        (204, None, {}, "APIStatusError"),
    ],
)
def test_what_waiting_does_not_mend_is_not_sent_again(
    server, make, status, code, headers, expected
):
    """One send, one error."""
    refuse(server, status, code, **headers)
    events = []
    error = failure(make(on_event=events.append))
    assert isinstance(error, error_class(expected))
    assert len(server.calls) == 1
    assert [e.status for e in events if isinstance(e, CallFailed)] == [status]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_never_followed(server, make, status):
    """requests would carry the key to another host."""
    elsewhere = "https://evil.example/v1/messages"
    server.add(responses.POST, URL, status=status, headers={"Location": elsewhere})
    for method in (responses.GET, responses.POST):
        server.add(method, elsewhere, json=ANSWER)
    error = failure(make())
    assert isinstance(error, anthropic.APIStatusError)
    assert error.status_code == status
    assert [call.request.url for call in server.calls] == [URL]


def test_no_answer_is_the_sdks_connection_error(server, make):
    """Nothing of urllib3's or requests' own comes out."""
    server.add(responses.POST, URL, body=requests.ConnectionError("no route"))
    error = failure(make())
    assert isinstance(error, anthropic.APIConnectionError)
    assert "1 attempt: " in str(error)
    assert "no route" in str(error)


# -- secrets ---------------------------------------------------------------------------------------


def shown(error):
    """All that a log, a debugger or a pickle shows of an error."""
    trace = traceback.format_exception(type(error), error, error.__traceback__)
    seen = [*trace, str(error), repr(error), repr(vars(error)), repr(error.__context__)]
    response = getattr(error, "response", None)
    if response is not None:
        seen += [repr(vars(response)), repr(vars(response.request)), response.text]
    return "".join(seen) + pickle.dumps(error, 0).decode("latin-1")


SECRETS = (KEY, "ask-the-oracle", "cookie-secret", "header-secret")


@pytest.mark.parametrize("status", [200, 302, 401, 429, 500, 529, None])
def test_no_error_holds_a_key_or_a_prompt(server, make, status):
    """Whatever the server did."""
    if status is None:
        server.add(responses.POST, URL, body=requests.ConnectionError("gone"))
    else:
        headers = {"Set-Cookie": "id=cookie-secret"}
        server.add(responses.POST, URL, body="nonsense", status=status, headers=headers)
    ask = {**ASK, "messages": [{"role": "user", "content": "ask-the-oracle"}]}
    throttler = make(default_headers={"X-Auth": "header-secret"}, max_retries=0)
    error = throttler.submit(**ask).exception(timeout=60)
    assert error is not None
    text = shown(error) + repr(throttler) + repr(throttler.settings) + repr(throttler.stats())
    assert not [secret for secret in SECRETS if secret in text]


def test_a_header_that_cannot_be_sent_is_not_shown():
    """A pasted line break in a key of one call's own; refused before any connection is made."""
    with Throttler(api_key=KEY, base_url="http://127.0.0.1:9", max_retries=0) as throttler:
        with pytest.raises(InvalidCall, match="x-api-key") as caught:
            throttler.submit(**ASK, extra_headers={"x-api-key": f"{KEY}\nx"})
    assert KEY not in shown(caught.value)


def test_a_throttler_cannot_be_pickled():
    """It would take the key along; the message says what to do instead."""
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(Throttler(api_key=KEY))

"""What stands in front of the API refuses one request: that call fails, and nobody else."""

from __future__ import annotations

import json

import anthropic
import pytest

from claude_throttle import CircuitOpened, Suspended
from claude_throttle.testing import Garbage, Reply, firewall_page
from claude_throttle.transport.verdicts import classify
from tests.support.calls import ask, echo

WALL = 1795262400.0

PAGES = {
    "cloudflare": b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>",
    "akamai": b"<HTML><HEAD><TITLE>Access Denied</TITLE></HEAD><BODY>Reference #18.2</BODY></HTML>",
    "nginx": b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<hr>nginx\r\n</html>",
    "squid": b'<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN"><html>ERR_ACCESS_DENIED</html>',
    "zscaler": b"\n  <html><title>Zscaler</title>Your organization has blocked this site</html>",
    "aws waf": b'{"message":"Forbidden"}',
    "api gateway": b'{"message":"Missing Authentication Token"}',
    "envoy": b"RBAC: access denied",
    "istio": b"Jwt is missing",
    "nothing": b"",
    "blanks": b" \r\n ",
    "litellm": b'{"error":{"message":"Authentication Error, ","type":"auth_error","code":"401"}}',
    "openrouter": b'{"error":{"message":"Insufficient credits","code":402},"user_id":"u"}',
    "fastapi": b'{"detail":"Not authenticated"}',
    "problem json": b'{"type":"about:blank","title":"Forbidden","status":403}',
    "error as text": b'{"type":"error","error":"forbidden"}',
    "error without type": b'{"type":"error","error":{"message":"This organization is disabled"}}',
    "error of another type": b'{"type":"failure","error":{"type":"permission_error"}}',
    "a list": b'[{"error":{"code":403,"status":"PERMISSION_DENIED"}}]',
    "a number": b"403",
    "half a json": b'{"type":"error","error":{"type":"permission_err',
    "binary": b"\x00\xff\xfe",
}

SINGLE = (400, 401, 402, 403, 404, 405, 406, 407, 410, 413, 421, 422, 426, 431, 451, 495)


@pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)
def test_what_is_not_the_api_s_own_concerns_one_call(body):
    for status in SINGLE:
        said = classify(status, {"content-type": "text/html", "server": "x"}, body, WALL)
        assert (said.retry, said.feedback.cause, said.feedback.account) == (False, "", None)
        assert not said.pauses_lane


@pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)
def test_a_middleman_s_time_out_is_tried_again_and_opens_no_circuit(body):
    said = classify(408, {}, body, WALL)
    assert (said.retry, said.feedback.cause) == (True, "")


@pytest.mark.parametrize("name", ["cloudflare", "akamai", "nginx", "squid", "zscaler"])
def test_a_page_is_no_word_of_the_api_whatever_headers_it_has(name):
    headers = {"request-id": "req_1", "anthropic-organization-id": "o"}
    assert classify(403, headers, PAGES[name], WALL).feedback.account is None


def test_openai_s_format_is_not_the_api_s():
    body = b'{"error":{"message":"no key","type":"invalid_request_error","code":"invalid_api_key"}}'
    assert classify(401, {}, body, WALL).feedback.account is None


ENVELOPE = json.dumps({"type": "error", "error": {"type": "permission_error"}}).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, ENVELOPE),
        ({"content-type": "text/html"}, ENVELOPE),
        ({"request-id": "req_011"}, b""),
        ({"request-id": "req_011"}, b"upstream said no"),
        ({"anthropic-organization-id": "o"}, b"{}"),
        ({"Anthropic-Ratelimit-Requests-Limit": "50"}, b""),
    ],
)
@pytest.mark.parametrize("status", [401, 402, 403])
def test_the_api_s_own_refusals_are_believed(status, headers, body):
    assert classify(status, headers, body, WALL).feedback.account is not None


@pytest.mark.parametrize(
    "header", ["x-request-id", "cf-ray", "x-amzn-requestid", "apim-request-id"]
)
def test_another_s_request_id_is_not_the_api_s(header):
    assert classify(401, {header: "req_1"}, b"", WALL).feedback.account is None
    assert classify(401, {"request-id": "8f3b-uuid"}, b"", WALL).feedback.account is None


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (firewall_page(), anthropic.PermissionDeniedError),
        (Garbage(b"", 401), anthropic.AuthenticationError),
        (Garbage(b'{"message":"Not Found"}', 404), anthropic.NotFoundError),
        (Garbage(b"<html>", 400), anthropic.BadRequestError),
        (Garbage(b"no", 451), anthropic.APIStatusError),
        (Reply(405, {"request-id": None}, body=b"{}"), anthropic.APIStatusError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value.status),
)
def test_fifty_bad_calls_of_a_hundred_leave_the_other_fifty_alone(fake, throttle, refusal, error):
    server = fake()
    events = []
    throttler = throttle(server, on_event=events.append)
    # Sent one after another, so that a streak is one.
    for number in range(10):
        server.script(*[refusal] * 5)
        bad = [throttler.submit(**ask(f"bad {number}.{each}")) for each in range(5)]
        assert {type(future.exception(10)).__name__ for future in bad} == {error.__name__}
        good = [throttler.submit(**ask(f"good {number}.{each}", raw=True)) for each in range(5)]
        assert all(future.result(10)["content"] for future in good)
    assert len(server.arrivals) == 100
    assert not [event for event in events if isinstance(event, (Suspended, CircuitOpened))]


def test_the_words_of_a_page_reach_the_caller_short_and_without_control_characters(fake, throttle):
    server = fake()
    server.script(Garbage(b"blocked \x1b[31mby\x00 policy\r\n" + b"x" * 9000, 403))
    error = throttle(server).submit(**ask()).exception(10)
    assert "blocked  [31mby  policy" in str(error)
    assert len(str(error)) < 600
    assert str(error).isprintable()


def test_an_outage_of_a_middleman_opens_the_circuit_as_any(fake, throttle, manual):
    server = fake(clock=manual)
    server.outage(reply=Garbage(status=502))
    events = []
    throttler = throttle(server, max_retries=0, clock=manual, on_event=events.append)
    for _ in range(5):
        assert throttler.submit(**ask()).exception(10)
    assert [event for event in events if isinstance(event, CircuitOpened)]


def test_a_page_among_good_answers_changes_nobody_s_answer(fake, throttle):
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(firewall_page())
    bad, *good = (throttler.submit(**ask(str(n))) for n in range(20))
    assert isinstance(bad.exception(10), anthropic.PermissionDeniedError)
    assert [echo(future.result(10)) for future in good] == [str(n) for n in range(1, 20)]


@pytest.mark.parametrize("name", ["cloudflare", "akamai", "nginx", "squid", "zscaler"])
def test_a_page_is_said_to_be_another_s_and_whom_to_ask(fake, throttle, name):
    server = fake()
    server.script(Garbage(PAGES[name] + b"x" * 9000, 403))
    error = throttle(server).submit(**ask()).exception(10)
    assert str(error).endswith("refused this request; ask whoever runs that")
    assert "is not the Claude API's" in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("refusal", [Reply(403), Garbage(b"<html>", 501), Garbage(b"{}", 403)])
def test_what_is_no_page_is_quoted_and_nothing_added(fake, throttle, refusal):
    server = fake()
    server.script(refusal)
    assert "whoever runs" not in str(throttle(server, max_retries=0).submit(**ask()).exception(10))

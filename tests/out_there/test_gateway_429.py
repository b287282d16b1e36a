"""A 429 of a gateway or a cloud is a rate limit, and its time counts wherever it stands."""

from __future__ import annotations

import json

import anthropic
import pytest

from claude_throttle import LanePaused, RetryScheduled
from claude_throttle.core.domain.feedback import OVERLOAD, RATE
from claude_throttle.testing import Garbage, Reply, gateway_rate_limit
from claude_throttle.transport.verdicts import classify
from tests.support.calls import LANE, ask, echo
from tests.support.waiting import move_until_done, wait_until

WALL = 1795262400.0  # 2026-11-21T12:00:00Z


def said(body, status=429, **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return classify(status, fields, body if isinstance(body, bytes) else body.encode(), WALL)


def error(message, **more):
    return {"error": {"message": message, **more}}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "13s"}
QUOTED = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{(WALL + 90) * 1000:.0f}"}

#: What it says, and the seconds in it.
TIMED = [
    (
        error("No deployments available for selected model, Try again in 5 seconds. x", code="429"),
        5,
    ),
    ({"statusCode": 429, "message": "Rate limit is exceeded. Try again in 5 seconds."}, 5),
    (error("Quota exceeded.", status="RESOURCE_EXHAUSTED", details=[RETRY_INFO]), 13),
    ([error("Resource exhausted", details=[RETRY_INFO])], 13),
    ({"retryInfo": {"retryDelay": {"seconds": 7, "nanos": 5}}}, 7),
    (error("You exceeded your current quota, check your plan and billing. Retry in 40s."), 40),
    (error("Provider error", code=429, metadata={"retry_after_seconds": 9}), 9),
    (error("Rate limit exceeded: free-models-per-day", metadata={"headers": QUOTED}), 90),
    (error("Please try again in 20s. Visit https://x.example/account/billing to raise it."), 20),
    (error("limited", retry_after=2.5), 2.5),
    (error("limited", retry_after="1m30s"), 90),
    (error("limited", retry_after=f"{WALL + 8:.0f}"), 8),
    (error("limited", retry_after="2026-11-21T12:01:00Z"), 60),
    ({"retryAfterMs": 1500}, 1.5),
    ({"retry-after": "12"}, 12),
    ({"detail": {"msg": "slow down", "retryAfter": 3}}, 3),
    ({"detail": "Request was throttled. Expected available in 59 seconds."}, 59),
    ("Please retry in 1m30s", 90),
    ("Too many requests, retry in 500ms.", 0.5),
    ("Too many requests: try again after 2 minutes", 120),
    ("Wait 30 seconds before you try again", 30),
    ("Please wait a minute, then retry", 60),
    ("Please retry your request in 13.543s.", 13.543),
    ("You can try again in 1 minute and 30 seconds", 90),
    ("Limit resets in 6m0s", 360),
    ("You are being rate limited for 3.5 seconds", 3.5),
    ("Rate limited. Retry-After: 13", 13),
    ("Retry after 02:30:15", 9015),
    ("Try again in 1 hour, 5 minutes", 3900),
    ("Try again at 2026-11-21T12:00:05Z", 5),
    ("Try again at 2026-11-21 14:00:05+02:00", 5),
    ("Available again at Sat, 21 Nov 2026 12:00:30 GMT", 30),
    ("Next request allowed in 11.2 sec", 11.2),
    ("You have 15 seconds left until your quota refreshes", 15),
    ("Limit exceeded, 42s until reset", 42),
    ({"detail": {"error": "Rate limited", "reset_in": 12}}, 12),
    ({"error": "rate_limited", "reset": WALL + 20}, 20),
    (error("Slow down", reset_at="2026-11-21T12:00:30Z"), 30),
    (error("Slow down", next_retry_at=WALL + 9), 9),
    ({"reset": 3600, "retry_after": 4}, 4),
]

#: What names no time: numbers of the limit itself, other words, none.
UNTIMED = [
    {"message": "API rate limit exceeded"},
    {"message": "Too many tokens, please wait before trying again."},
    {"message": "Too Many Requests"},
    {"detail": "Rate limit exceeded: 10 per 1 minute"},
    {"error": "Rate limit exceeded: 5 per 1 minute"},
    error("Provider returned error", code=429, metadata={"raw": "temporarily rate-limited"}),
    error("limited", retry_after=None),
    error("limited", retry_after=True),
    error("limited", retry_after=-3),
    error("limited", retry_after="soon"),
    error("limited", retry_after=f"{WALL - 8:.0f}"),
    "100 requests in 60 seconds are allowed. Try again later.",
    "Try again: your plan has 100 requests in 60 seconds",
    "retry in 0s",
    "Please retry your request after 12:00:30 UTC",
    "Try again in five seconds",
    {"error": "limited", "remaining": 3, "reset": 60},
    error("limited", metadata={"headers": {**QUOTED, "X-RateLimit-Remaining": "5"}}),
    "<html><h1>Error 1015</h1>You are being rate limited, retry in 5 seconds</html>",
    "",
    b"\x00\xff",
    "[1, 2",
    {"type": "error", "error": {"type": "rate_limit_error", "message": "Rate limited."}},
    {"type": "error", "error": {"type": "rate_limit_error", "message": "Error"}},
]


def ids(bodies):
    return [str(body)[:70] or "nothing" for body in bodies]


@pytest.mark.parametrize(("body", "seconds"), TIMED, ids=ids(body for body, _ in TIMED))
def test_the_time_is_found_wherever_it_stands(body, seconds):
    verdict = said(body)
    assert (verdict.retry, verdict.reason, verdict.feedback.cause) == (True, "rate limit", RATE)
    assert verdict.feedback.retry_after == pytest.approx(seconds)
    assert verdict.pauses_lane
    assert not verdict.keeps_tokens


@pytest.mark.parametrize("body", UNTIMED, ids=ids(UNTIMED))
def test_a_429_without_a_time_is_a_rate_limit_all_the_same(body):
    verdict = said(body)
    assert (verdict.retry, verdict.reason, verdict.feedback.cause) == (True, "rate limit", RATE)
    assert not verdict.feedback.retry_after
    assert said(body, x_should_retry="false").retry is False


def test_the_header_goes_before_the_words():
    assert said("retry in 5 seconds", retry_after="2").retry_after == 2.0
    assert said("retry in 5 seconds", retry_after_ms="700").retry_after == 0.7
    assert said("retry in 5 seconds", retry_after="soon").retry_after == 5.0
    assert said("retry in 5 seconds", retry_after="0").retry_after == 5.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"ratelimit_reset": "17"}, 17.0),
        ({"x_ratelimit_reset": f"{WALL + 17:.0f}", "x_ratelimit_remaining": "0"}, 17.0),
        ({"x_ratelimit_reset_after": "1.5"}, 1.5),
        ({"x_ratelimit_reset": "60", "x_ratelimit_remaining": "12"}, None),
        ({"x_ratelimit_reset": "yesterday"}, None),
    ],
)
def test_a_gateway_s_reset_counts_where_nothing_else_tells_and_nothing_is_left(headers, seconds):
    assert said({"message": "API rate limit exceeded"}, **headers).retry_after == seconds


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, {"__type": "com.amazon.coral#ThrottlingException", "message": "Rate exceeded"}, {}),
        (400, {"message": "slow"}, {"x_amzn_errortype": "ThrottlingException:http://x.example/"}),
        (403, error("no", errors=[{"reason": "rateLimitExceeded"}]), {}),
        (403, error("no", status="RESOURCE_EXHAUSTED"), {}),
        (400, error("upstream", code=429), {}),
        (404, {"code": "TooManyRequests"}, {}),
    ],
)
def test_throttling_by_its_name_is_a_rate_limit_under_any_status(status, body, headers):
    verdict = said(body, status, **headers)
    assert (verdict.retry, verdict.feedback.cause, verdict.keeps_tokens) == (True, RATE, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5, 5", 5.0),
        ("3, 7", 7.0),
        ("1s", 1.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("00:00:05", 5.0),
        ("2026-11-21T12:00:05Z", 5.0),
        ("0, 0", None),
        ("soon", None),
    ],
)
def test_a_gateway_s_retry_after_is_read_in_every_spelling(text, seconds):
    for status in (429, 503, 529):
        assert said("", status, retry_after=text).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_the_api_s_type_says_more_than_a_status_that_was_changed_on_the_way(status):
    for kind, cause in (("rate_limit_error", RATE), ("overloaded_error", OVERLOAD)):
        body = {"type": "error", "error": {"type": kind, "message": "Slow down"}}
        assert (said(body, status).retry, said(body, status).feedback.cause) == (True, cause)


@pytest.mark.parametrize(
    "body",
    [
        error("Rate limited: account balance too low"),
        "You're out of extra usage",
        error("You exceeded your current quota, please check your plan and billing details."),
        error("x", type="insufficient_quota", code="insufficient_quota"),
        error("Budget has been exceeded! Current cost: 10.1, Max budget: 10"),
        {"message": "Limit Exceeded: monthly quota of the plan"},
        {"detail": "Your monthly usage limit is reached"},
        "Quota exceeded for this month",
        "Spending limit reached",
        "Your account is out of credits",
        {"type": "error", "error": {"type": "rate_limit_error", "message": "Spend limit reached."}},
        {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": "Monthly spend cap met"},
        },
    ],
    ids=str,
)
def test_only_words_about_money_or_a_month_make_a_spend_limit(body):
    verdict = said(body)
    assert (verdict.retry, verdict.reason, verdict.pauses_lane) == (False, "spend limit", False)
    # The server's word goes first; so does a wait that no bill has.
    assert said(body, x_should_retry="true").retry is True
    assert said(body, retry_after="20").feedback.cause == RATE


def test_a_body_without_end_is_read_in_part():
    deep = {"retry_after": 5}
    for _ in range(60):
        deep = {"error": deep, "more": ["x"] * 50}
    assert said(deep).retry
    assert said("try again " * 20_000).retry
    assert said("[" * 50_000).retry


def gateway(body, **headers):
    return Garbage(json.dumps(body).encode(), 429, {"content-type": "application/json", **headers})


def test_the_lane_waits_for_the_time_in_the_words_and_all_are_answered(fake, throttle, manual):
    server = fake(clock=manual)
    server.script(gateway_rate_limit())
    events = []
    throttler = throttle(server, clock=manual, on_event=events.append)
    refused = throttler.submit(**ask("refused"))
    wait_until(lambda: throttler.stats().retried)
    others = [throttler.submit(**ask(str(n))) for n in range(3)]
    manual.wait_for_sleepers(1)
    manual.advance(4.9)
    assert len(server.arrivals) == 1
    move_until_done(manual, [refused, *others], 0.5)
    assert [echo(each.result()) for each in (refused, *others)] == ["refused", "0", "1", "2"]
    (paused,) = (event for event in events if isinstance(event, LanePaused))
    assert 5.0 <= paused.seconds <= 5.6
    assert throttler.limits()[LANE].quotas[0].source == "refusals"  # taught


def test_without_any_time_the_lane_backs_off_and_is_taught(fake, throttle, manual):
    server = fake(clock=manual)
    server.script(gateway({"message": "API rate limit exceeded"}))
    events = []
    throttler = throttle(server, clock=manual, on_event=events.append)
    future = throttler.submit(**ask())
    move_until_done(manual, [future], 0.25)
    assert echo(future.result()) == "hello"
    (paused,) = (event for event in events if isinstance(event, LanePaused))
    assert 0.25 <= paused.seconds <= 1.0
    assert [event.reason for event in events if isinstance(event, RetryScheduled)] == ["rate limit"]
    quota = throttler.limits()[LANE].quotas[0]
    assert (quota.source, quota.kind) == ("refusals", "requests")


def test_a_gateway_that_goes_on_refusing_gets_its_retries_and_no_more(fake, throttle, manual):
    server = fake(clock=manual)
    server.script(*[gateway({"message": "no"})] * 9)
    throttler = throttle(server, max_retries=2, clock=manual)
    future = throttler.submit(**ask())
    move_until_done(manual, [future], 0.5)
    assert isinstance(future.exception(), anthropic.RateLimitError)
    assert len(server.arrivals) == 3


def test_a_429_that_forbids_another_try_ends_its_call_only(fake, throttle):
    server = fake()
    server.script(Reply(429, {"x-should-retry": "false"}, message="Rate limited."))
    throttler = throttle(server)
    assert isinstance(throttler.submit(**ask()).exception(10), anthropic.RateLimitError)
    assert echo(throttler.call(**ask("next"))) == "next"

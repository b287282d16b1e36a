"""The outcome of a call that was not answered with a whole message.

Two ends, one function for each: the server refused the request, or there is no whole answer. Both
choose the exception that the caller gets, and say whether the tokens booked for the call were used:
a call that the server may have worked on keeps them, so that the quota is never overdrawn.
"""

from __future__ import annotations

import requests

from claude_throttle.core.dispatch.call import Attempt, Outcome
from claude_throttle.core.pacing.configured_quotas import period_name
from claude_throttle.errors import BrokenAnswer
from claude_throttle.transport import sdk
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.retry import RetryExchange, verdict_on_error
from claude_throttle.transport.verdicts import classify, read_json


def refused(url: str, response: requests.Response, exchange: RetryExchange) -> Outcome:
    """The outcome of a response whose status is not 200."""
    status, request_id = response.status_code, response.headers.get("request-id")
    # The retry loop has read the body of a 4xx or 5xx already.
    content = exchange.refusal if status >= 400 else b""
    response.close()
    verdict = classify(status, response.headers, content, exchange.clock.wall())
    body, note = read_json(content), why_never(exchange) or whose_page(status, content)
    error = sdk.error(sdk.status_error, url, status, response.headers, content, body, note)
    took_nothing = not verdict.keeps_tokens or status < 500
    return Outcome(None, error, None, status, request_id, took_nothing, verdict.feedback)


def why_never(exchange: RetryExchange) -> str:
    """What to add to the words of a refusal of a request that is larger than a whole limit."""
    excess = exchange.delay.excess
    if excess is None or exchange.status != 429:
        return ""
    what, period = excess.what, period_name(excess.per)
    remedy = "shorten it" if what == "input tokens" else "lower max_tokens or shorten it"
    return (
        f"; it takes about {excess.units:,.0f} {what}, and the whole limit is {excess.limit:,.0f} "
        f"a {period}, so it is not sent again: {remedy}, or have the limit raised"
    )


def whose_page(status: int, content: bytes) -> str:
    """What to add to a page of HTML that refuses a request: the API answers in JSON."""
    if not (400 <= status < 500 and content.lstrip()[:1] == b"<"):
        return ""
    return (
        "; this page is not the Claude API's: a firewall, proxy or gateway on the way to it "
        "refused this request; ask whoever runs that"
    )


def no_answer(url: str, attempt: Attempt, exchange: RetryExchange, error: Exception) -> Outcome:
    """The outcome of a request that was not answered, or whose answer broke off."""
    # What ended it from here comes first: a socket that we cut raises any of many errors.
    if attempt.stopped:
        return Outcome(error=attempt.stopped_by)
    if isinstance(error, BrokenAnswer):
        return Outcome(error=error, status=error.status, request_id=error.request_id)
    if attempt.seconds_left() == 0.0:
        return Outcome(error=attempt.call.deadline_exceeded(sent=attempt.on_the_wire))
    cause = exchange.error or error
    verdict = verdict_on_error(cause, exchange.rules)
    if verdict.reason == "read timeout":
        text = f"no answer in time ({_tries(attempt)}); it may be billed, so it is not sent again"
        return Outcome(error=sdk.error(sdk.timeout_error, url, text))
    lost = sdk.error(connection_error, url, _tries(attempt), verdict.reason, cause)
    return Outcome(error=lost, refused=not verdict.keeps_tokens)


def odd_answer(url: str, attempt: Attempt, error: Exception) -> Exception:
    """The error of an answer that is a whole message, but that the SDK cannot read."""
    return connection_error(url, _tries(attempt), type(error).__name__, error)


def connection_error(url: str, tries: str, reason: str, cause: BaseException) -> Exception:
    """The SDK's own, with what happened in a few words."""
    return sdk.connection_error(url, f"{reason} after {tries}: {describe(cause)}")


# Said in each error: whether it was tried again is the first thing that its reader asks.
def _tries(attempt: Attempt) -> str:
    return f"{attempt.number} attempt{'s' * (attempt.number > 1)}"

"""Refusals in the API's own words: by their status, and those for problems of the account.

No waiting helps against a problem of the account. These are ready to be scripted:
``fake.script(CREDIT_TOO_LOW)`` for one call, ``fake.outage(reply=KEY_REFUSED)`` for all. Codes are
those of the SDK 2.11.0; where no text has been captured a comment says so.
:class:`claude_throttle.testing.SpendCap` is the one that the documentation quotes completely.
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Optional

from claude_throttle.testing.faults import INTERNAL, OVERLOADED, RATE_LIMITED, Garbage, Reply

#: Statuses that the official SDK (2.11) retries, beside all from 500 on.
_RETRIED = frozenset({408, 409, 429})

_MESSAGES = {reply.status: reply.message for reply in (RATE_LIMITED, INTERNAL, OVERLOADED)}


# As in a captured 400.
_NO_RETRY = {"x-should-retry": "false"}
# The documentation quotes only the beginning; the date has the format of the spend cap's message.
_UNTIL = " You will regain access on 2026-12-01 at 00:00 UTC."

#: A limit that the organization set for itself.
OWN_SPEND_LIMIT = Reply(
    400, _NO_RETRY, message="You have reached your specified API usage limits." + _UNTIL
)
#: A limit that the organization set for a workspace.
WORKSPACE_SPEND_LIMIT = Reply(
    400, _NO_RETRY, message="You have reached your specified workspace API usage limits." + _UNTIL
)
#: The prepaid credit is used up; the text is in many public issues of 2025 and 2026.
CREDIT_TOO_LOW = Reply(
    400,
    _NO_RETRY,
    message="Your credit balance is too low to access the Anthropic API. Please go to Plans &"
    " Billing to upgrade or purchase credits.",
)
#: In the SDK since 2.10.0 (2026-11-17). Whether it has a ``retry-after`` is unknown.
CONTRACT_SPEND_LIMIT = Reply(
    429,
    message="Your organization has reached the spend limit of its contract.",
    error_code="contract_spend_limit_reached",
)
#: A problem with the payment. The text has not been captured.
BILLING_PROBLEM = Reply(402, message="There is an issue with your billing or payment information.")
#: The organization that the request is charged to has no credit. The text has not been captured.
LINKED_SPEND_LIMIT = Reply(
    402,
    message="The linked organization has reached a spend limit or lacks credit.",
    error_code="linked_organization_spend_limit_reached",
)
#: Disabled by trust and safety. The code is the SDK's.
ORGANIZATION_ON_HOLD = Reply(
    400,
    _NO_RETRY,
    message="This organization has been disabled.",
    error_code="organization_on_hold",
)
#: The same in words alone, as public reports of 2025 and 2026 have it.
ORGANIZATION_DISABLED = Reply(400, _NO_RETRY, message="This organization has been disabled.")
#: A credential of a subscription, which the API itself does not take.
CREDENTIAL_RESTRICTED = Reply(
    400,
    _NO_RETRY,
    message="This credential is only authorized for use with Claude Code and cannot be used for"
    " other API requests.",
)
#: An unknown or revoked key.
KEY_REFUSED = Reply(401, message="invalid x-api-key")
#: A valid key without permission for the request.
NOT_PERMITTED = Reply(
    403, message="Your API key does not have permission to use the specified resource."
)


def firewall_page(status: int = 403) -> Garbage:
    """The page of a firewall in front of the API, which refuses one request for its words."""
    page = (
        b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head>"
        b"<body><h1>Sorry, you have been blocked</h1></body></html>"
    )
    return Garbage(page, status)


def gateway_rate_limit(seconds: float = 5) -> Garbage:
    """A gateway's own 429: without ``retry-after``; the time is in the words."""
    words = f"No deployments available for selected model, Try again in {seconds:g} seconds."
    error = {"message": words, "type": "None", "param": "None", "code": "429"}
    body = json.dumps({"error": error}).encode()
    return Garbage(body, 429, {"content-type": "application/json"})


def refusal(
    status: int,
    *,
    retry_after: Optional[float] = None,
    message: Optional[str] = None,
    error_type: Optional[str] = None,
    error_code: Optional[str] = None,
    latency: Optional[float] = None,
) -> Reply:
    """A refusal with *status*. What is None has its documented value, or is left out.

    ``x-should-retry`` is what the official SDK (2.11) would do: true for 408, 409, 429 and from 500
    on. With an *error_code* and no *retry_after* it is false, as for a spend limit. Raises
    ValueError for a status that is not an error, and for a *retry_after* that is negative or not
    finite.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"a refusal has a status from 400 to 599, not {status}")
    if retry_after is not None and not (math.isfinite(retry_after) and retry_after >= 0):
        raise ValueError(f"retry_after is a number of seconds, not {retry_after}")
    temporary = status in _RETRIED or status >= 500
    # A code says more than the status: without a retry-after it is a permanent refusal.
    if error_code is not None and retry_after is None:
        temporary = False
    headers: dict[str, Optional[str]] = {"x-should-retry": "true" if temporary else "false"}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    text = _message(status) if message is None else message
    return Reply(status, headers, error_type, text, error_code, latency=latency)


def _message(status: int) -> str:
    """The captured text of a status, if there is one; otherwise the phrase of HTTP."""
    if status in _MESSAGES:
        return _MESSAGES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"

"""The outcome of a call, in the format of a Message Batches result.

Errors of the official SDK are recognised by their attributes (``status_code``, ``body``): importing
the SDK takes half a second, and a run without errors does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

import claude_throttle

Result = dict[str, Any]

#: A key, which a gateway may quote when it refuses it.
_KEY = re.compile(r"\bsk-[\w-]+")

#: Characters of an error message that are shown: a gateway may answer with a whole page.
LONGEST_WORDS = 300

#: Statuses that concern the account, not the request: 401 the key, 402 the bill. From the API only:
#: a firewall or gateway may refuse one request with them.
_ACCOUNT_STATUSES = (401, 402)
#: Parts of ``error.details.error_code`` that concern the account, whatever the status.
_ACCOUNT_CODES = ("spend_limit", "linked_organization", "organization_on_hold")


def succeeded(message: Mapping[str, Any]) -> Result:
    """The result of a call that was answered."""
    return {"type": "succeeded", "message": message}


def errored(error: BaseException) -> Result:
    """The result of a failed call: the API's own error, or *error* in its format.

    So a program that reads the output needs to know one format, whether the API, the network or the
    throttler was the cause.
    """
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return {"type": "errored", "error": body}
    request_id = getattr(error, "request_id", None)
    result = refused(type(error).__name__, str(error))
    if request_id is not None:
        result["error"]["request_id"] = request_id
    return result


def refused(name: str, message: str) -> Result:
    """The result of a refusal that did not come from the API, in its format."""
    return {
        "type": "errored",
        "error": {"type": "error", "error": {"type": name, "message": message}},
    }


def kind(result: Result) -> str:
    """The type of error in an errored result."""
    return str(result["error"]["error"].get("type"))


def words(result: Result) -> str:
    """The message of an errored result, on one line, without keys, and shortened."""
    text = str(result["error"]["error"].get("message"))
    # Control characters are for the terminal of whoever sent them.
    text = "".join(each if each.isprintable() else " " for each in text[: 4 * LONGEST_WORDS])
    return _KEY.sub("sk-…", " ".join(text.split()))[:LONGEST_WORDS]


def was_sent(error: BaseException) -> bool:
    """Whether the failed call may have reached the API."""
    return bool(getattr(error, "sent", not isinstance(error, claude_throttle.CircuitOpen)))


def stops_all(error: BaseException) -> bool:
    """Whether the whole account is suspended, not only one model."""
    return isinstance(error, claude_throttle.AccountSuspended) and not error.lane


def suspended(error: BaseException) -> str:
    """The message of an AccountSuspended, without its part for programmers."""
    text = str(error).partition("; nothing is sent")[0]
    return words(refused("", text))


def account_trouble(error: BaseException) -> Optional[str]:
    """A problem that stops all further calls, such as a bad key or a spend limit; else None."""
    status = getattr(error, "status_code", None)
    code = _error_code(getattr(error, "body", None))
    refused = status in _ACCOUNT_STATUSES and _is_the_apis(error)
    if refused or any(part in code for part in _ACCOUNT_CODES):
        return refused_account(error)
    return None


def _is_the_apis(error: BaseException) -> bool:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("type") == "error":
        return True
    page = isinstance(body, str) and body.lstrip().startswith("<")
    return not page and str(getattr(error, "request_id", None)).startswith("req_")


def refused_account(error: BaseException) -> str:
    """The message of an API's error that is about the account."""
    status = getattr(error, "status_code", None)
    return f"the API refuses this account ({status}): {words(errored(error))}"


def may_be_paid(error: BaseException) -> bool:
    """Whether a call failed so that its answer may be paid for: none came, or not a whole one."""
    unanswered = type(error).__name__ in ("APITimeoutError", "BrokenAnswer")
    return unanswered or getattr(error, "sent", False) is True


def _error_code(body: Any) -> str:
    for name in ("error", "details", "error_code"):
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, str) else ""

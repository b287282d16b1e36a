"""How a call ended, in the shape of a Message Batches result.

The errors of the official SDK are known by their looks (``status_code``, ``body``): importing them
takes half a second, and a run without errors never needs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

import claude_throttle

Result = dict[str, Any]

#: What a gateway may quote of a key it refuses.
_KEY = re.compile(r"\bsk-[\w-]+")

#: Characters of an error that are shown.
LONGEST_WORDS = 300

#: Statuses that speak of the account, not of the request: 401 the key, 402 the bill.
_ACCOUNT_STATUSES = (401, 402)
#: ``error.details.error_code`` of the same, whatever the status.
_ACCOUNT_CODES = ("spend_limit", "linked_organization", "organization_on_hold")


def succeeded(message: Mapping[str, Any]) -> Result:
    """An answer."""
    return {"type": "succeeded", "message": message}


def errored(error: BaseException) -> Result:
    """A refusal: the API's own words if it was the API that spoke, else ours."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return {"type": "errored", "error": body}
    request_id = getattr(error, "request_id", None)
    result = refused(type(error).__name__, str(error))
    if request_id is not None:
        result["error"]["request_id"] = request_id
    return result


def refused(name: str, message: str) -> Result:
    """A refusal that the API had no part in, in its shape."""
    return {
        "type": "errored",
        "error": {"type": "error", "error": {"type": name, "message": message}},
    }


def kind(result: Result) -> str:
    """The type of error in an errored result."""
    return str(result["error"]["error"].get("type"))


def words(result: Result) -> str:
    """What an errored result says, on one line."""
    text = " ".join(str(result["error"]["error"].get("message")).split())
    return _KEY.sub("sk-…", text)[:LONGEST_WORDS]


def stops_all(error: BaseException) -> bool:
    """Whether the whole account is refused; a key may be refused one model only."""
    return isinstance(error, claude_throttle.AccountSuspended) and not error.lane


def suspended(error: BaseException) -> str:
    """The same of an AccountSuspended, without what it says to programs."""
    text = str(error).partition("; nothing is sent")[0]
    return words(refused("", text))


def account_trouble(error: BaseException) -> Optional[str]:
    """What stops every further call too, such as a bad key or a spend limit; else None."""
    status = getattr(error, "status_code", None)
    code = _error_code(getattr(error, "body", None))
    if status in _ACCOUNT_STATUSES or any(part in code for part in _ACCOUNT_CODES):
        return f"the API refuses this account ({status}): {words(errored(error))}"
    return None


def _error_code(body: Any) -> str:
    for name in ("error", "details", "error_code"):
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, str) else ""

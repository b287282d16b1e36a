"""An error within a stream, turned into the refusal that it would be outside of one.

The API has sent its 200 by then, so the event's type is all there is: here it gets the status that
belongs to the type. The SDK raises all of them as a bare ``APIStatusError`` with status 200 (2.11);
code that catches ``OverloadedError`` would miss it.

Gateways report errors in forms of their own: without ``event:`` or ``type``, as a text, with a
number. What they mean is read from their fields, then from their words. Such an error is not the
API's, so nothing in it counts against the account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Optional

from claude_throttle.transport.error_text import readable
from claude_throttle.transport.verdicts import (
    LONGEST_MESSAGE,
    STATUS_BY_TYPE,
    UNKNOWN_STATUS,
    api_error,
    read_json,
)

#: Seconds that the lane pauses for a rate limit within a stream, where the API names no time: the
#: headers were sent before it knew.
RATE_LIMIT_SECONDS = 5.0

#: Beginnings of the header names that hold for the error, too.
_KEPT = ("request-id", "anthropic-ratelimit-")

#: Fields in which gateways put a status, as a number or its digits.
_STATUS_FIELDS = ("status", "status_code", "statusCode", "http_status", "httpStatus", "code")

#: Fields in which a frame without a type tells of an error by words alone.
_WORD_FIELDS = ("message", "detail", "msg", "reason")

#: What such a frame says of a failure in its field "status".
_FAILED = ("error", "failed", "failure", "fail")

_STATUSES = frozenset({*(int(status) for status in HTTPStatus), *range(520, 530)})

#: "Error code: 429 - …", "upstream status 503".
_STATUS_IN_WORDS = re.compile(r"(?:status|code|http|error)\D{0,12}\b([45]\d\d)\b", re.I)

#: What the words of an error mean; the first line that fits counts.
_MEANINGS = tuple(
    (status, re.compile(words, re.I))
    for status, words in (
        (529, r"overload|(?:at|over|no|insufficient)[ _-]?capacity|server is busy"),
        (429, r"rate[ _-]?limit|too[ _-]?many[ _-]?(?:requests|tokens)|quota|throttl|slow ?down"),
        (429, r"resource[ _-]?(?:has been )?exhausted"),
        (504, r"time[ds]?[ _-]?out|deadline[ _-]?exceeded"),
        (503, r"unavailable|no healthy upstream"),
        (401, r"unauthori[sz]ed|authenticat|api[ _-]?key"),
        (402, r"billing|payment|credit balance|insufficient[ _-]?(?:balance|credit|fund)"),
        (403, r"forbidden|permission|access[ _-]?denied"),
        (404, r"not[ _-]?found|does not exist"),
        (413, r"(?:request|payload|entity|body)[ _-](?:is )?too[ _-]large"),
        (400, r"invalid[ _-]?(?:request|argument|input|param|prompt|model|json|body|value)"),
        (400, r"bad[ _-]?request|validation|too long|context[ _-](?:length|window)|not supported"),
    )
)


class InStreamError(Exception):
    """Raised when a stream brings an error. ``PacedRetry`` reads it like a response.

    So it has a response's ``status``, ``headers`` and ``read()``. The exception that the caller
    gets is made with ``all_headers`` and ``shown``.
    """

    def __init__(self, event: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__("an error event in a stream")
        apis = bool(api_error(event).get("type"))
        self.status = _status_of(event, apis)
        self.all_headers = _headers_for(headers, apis and self.status == 429)
        # Without those of the API around it, a gateway's error is not taken for the API's, and the
        # wait that its own words name counts.
        self.headers = self.all_headers if apis else {}
        self.body = json.dumps(event).encode()
        self.shown = event if apis else _cleared(event)

    def read(self, decode_content: bool = True) -> bytes:  # noqa: ARG002 - as urllib3's
        """The event as JSON, as the body of a refusal."""
        return self.body


def error_in(name: str, data: str, value: Any) -> Optional[dict[str, Any]]:
    """The error that a server-sent event reports, in any form; None if it reports none.

    *value* is its *data* as JSON, or None. Half a JSON text that is no ``error`` event is none: it
    may be half of an answer.
    """
    if isinstance(value, dict):
        kind = value.get("type")
        if _names_error(name) and name != "error":
            return {"type": name, **value}
        is_error = _names_error(name) or _names_error(kind) or kind == "request_too_large"
        return value if is_error or (kind is None and _tells(name, value)) else None
    text = value if isinstance(value, str) else data
    inner = read_json(text.encode("utf-8", "replace")) if isinstance(value, str) else None
    if isinstance(inner, dict):  # JSON within JSON
        return error_in(name, text, inner)
    is_error = _names_error(name) or (name == "message" and text[:1] not in ("{", "["))
    return {"error": {"message": text}} if is_error and _sounds_wrong(name, text) else None


def _tells(name: str, value: Mapping[str, Any]) -> bool:
    """Whether an event without a type tells of an error."""
    if value.get("error") or value.get("errors"):
        return True
    said = [value.get(field) for field in _WORD_FIELDS]
    words = any(isinstance(each, str) or (each and isinstance(each, list)) for each in said)
    failed = value.get("success") is False or str(value.get("status")).lower() in _FAILED
    failed = failed or _number_in(value) is not None
    return name == "message" and (words or failed or any(k.endswith("Exception") for k in value))


def _names_error(name: Any) -> bool:
    """Whether a name or type is that of an error: "error", "upstream_error", "XException"."""
    return isinstance(name, str) and name.lower().endswith(("error", "exception"))


def _sounds_wrong(name: str, text: str) -> bool:
    return _names_error(name) or "error" in text.lower() or _meaning(text) is not None


def _status_of(event: Mapping[str, Any], apis: bool) -> int:
    error: Any = event.get("error")
    while isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    inner = error if isinstance(error, dict) else {}
    for kind in (inner.get("type"), event.get("type"), inner.get("code"), error):
        if isinstance(kind, str) and kind in STATUS_BY_TYPE and kind != "api_error":
            return STATUS_BY_TYPE[kind]
    status = _number_in(inner) or _number_in(event) or _meaning(json.dumps(event)[:4000])
    # The API's own vague error is the server's fault, or a limit; an overload was seen under
    # "api_error", too (inspect_ai#2272).
    return UNKNOWN_STATUS if status is None or (apis and 400 <= status < 429) else status


def _number_in(fields: Mapping[str, Any]) -> Optional[int]:
    for name in _STATUS_FIELDS:
        text = str(fields.get(name))
        if text.isdecimal() and len(text) == 3 and 400 <= int(text) < 600:
            return int(text)
    return None


def _meaning(text: str) -> Optional[int]:
    found = _STATUS_IN_WORDS.search(text)
    if found is not None and int(found.group(1)) in _STATUSES:
        return int(found.group(1))
    return next((status for status, words in _MEANINGS if words.search(text)), None)


def _cleared(value: Any, depth: int = 0) -> Any:
    """Foreign text for a user to read: short, and without control characters."""
    if isinstance(value, str):
        shown = readable(value[:LONGEST_MESSAGE])
        return shown if len(value) <= LONGEST_MESSAGE else shown + "…"
    if depth > 4 or not isinstance(value, (dict, list)):
        return None if isinstance(value, (dict, list)) else value
    if isinstance(value, list):
        return [_cleared(each, depth + 1) for each in value[:4]]
    return {k[:40]: _cleared(each, depth + 1) for k, each in list(value.items())[:12]}


def _headers_for(headers: Mapping[str, str], pauses: bool) -> dict[str, str]:
    """Headers for the error: request id and limits of the response that it came in.

    A rate limit within a stream names no time: the headers were sent before.
    """
    kept = {name.lower(): text for name, text in headers.items() if name.lower().startswith(_KEPT)}
    if pauses:
        kept["retry-after-ms"] = f"{RATE_LIMIT_SECONDS * 1000:.0f}"
    return kept

"""An ``error`` event within a stream, turned into the refusal that it would be outside of one.

The API has sent its 200 by then, so the event's type is all there is: here it gets the status that
belongs to the type. The SDK raises all of them as a bare ``APIStatusError`` with status 200 (2.11);
code that catches ``OverloadedError`` would miss it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from claude_throttle.transport.verdicts import STATUS_BY_TYPE, UNKNOWN_STATUS, error_message

#: Seconds that the lane pauses for a rate limit within a stream, where the API names no time: the
#: headers were sent before it knew.
RATE_LIMIT_SECONDS = 5.0

#: Beginnings of the header names that hold for the error, too.
_KEPT = ("request-id", "anthropic-ratelimit-")


class InStreamError(Exception):
    """Raised when a stream brings an ``error`` event. ``PacedRetry`` reads it like a response.

    So it has a response's ``status``, ``headers`` and ``read()``.
    """

    def __init__(self, event: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__("an error event in a stream")
        error = event.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        self.status = STATUS_BY_TYPE.get(kind, UNKNOWN_STATUS) if isinstance(kind, str) else 500
        # An overload was seen under this type, too (inspect_ai#2272).
        if kind == "api_error" and error_message(event) == "Overloaded":
            self.status = 529
        self.headers = _headers_for(headers, self.status)
        self.body = json.dumps(event).encode()

    def read(self, decode_content: bool = True) -> bytes:  # noqa: ARG002 - as urllib3's
        """The event as JSON, as the body of a refusal."""
        return self.body


def _headers_for(headers: Mapping[str, str], status: int) -> dict[str, str]:
    """Headers for the error: request id and limits of the response that it came in.

    A 429 without ``retry-after`` would be taken for a spend limit, and within a stream none has it.
    """
    kept = {name.lower(): text for name, text in headers.items() if name.lower().startswith(_KEPT)}
    if status == 429:
        kept["retry-after-ms"] = f"{RATE_LIMIT_SECONDS * 1000:.0f}"
    return kept

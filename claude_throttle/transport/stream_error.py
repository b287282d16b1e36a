"""An ``error`` event inside a 200: which refusal it would have been outside.

The SDK raises all of them as a bare ``APIStatusError`` with status 200 (2.11); whoever catches
``OverloadedError`` would miss it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from claude_throttle.transport.verdicts import STATUS_BY_TYPE, UNKNOWN_STATUS, error_message

#: Seconds that the lane pauses for a rate limit met within an answer; the API names none there.
RATE_LIMIT_SECONDS = 5.0

_KEPT = ("request-id", "anthropic-ratelimit-")


class InStreamError(Exception):
    """The stream brought an ``error`` event. Looks to ``PacedRetry`` like the refusal it is."""

    def __init__(self, event: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__("an error event in a stream")
        error = event.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        self.status = STATUS_BY_TYPE.get(kind, UNKNOWN_STATUS) if isinstance(kind, str) else 500
        # Seen under this name, too (inspect_ai#2272).
        if kind == "api_error" and error_message(event) == "Overloaded":
            self.status = 529
        self.headers = _told_in(headers, self.status)
        self.body = json.dumps(event).encode()

    def read(self, decode_content: bool = True) -> bytes:  # noqa: ARG002 - as urllib3's
        """The body, as that of a refusal."""
        return self.body


def _told_in(headers: Mapping[str, str], status: int) -> dict[str, str]:
    """What can be known of an error within an answer: its limits, as they were when it began.

    A 429 outside that names no time is a spend limit. Here none ever names one.
    """
    told = {name.lower(): text for name, text in headers.items() if name.lower().startswith(_KEPT)}
    if status == 429:
        told["retry-after-ms"] = f"{RATE_LIMIT_SECONDS * 1000:.0f}"
    return told

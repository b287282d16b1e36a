"""``POST /v1/messages/count_tokens``: which part of a request it takes, and what it answers."""

from __future__ import annotations

import json
from typing import Any, Optional

from claude_throttle.transport.verdicts import read_json

#: What the endpoint accepts of a Messages request (SDK 2.11, ``message_count_tokens_params``);
#: anything else would be a 400.
COUNTED = frozenset(
    {
        "messages",
        "model",
        "cache_control",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)


def count_body(body: bytes) -> bytes:
    """The body of the question about a Messages request's *body*."""
    request = json.loads(body)
    kept = {name: value for name, value in request.items() if name in COUNTED}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def read_count(body: bytes) -> Optional[int]:
    """The tokens of an answer; None if it does not say."""
    answer: Any = read_json(body)
    count = answer.get("input_tokens") if isinstance(answer, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None

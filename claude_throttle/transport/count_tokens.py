"""The format of ``POST /v1/messages/count_tokens``: its request body, and its answer.

The endpoint is free and has a quota of its own. ``HttpTransport.count`` sends it once, without
retries; ``features/token_counting`` decides when.
"""

from __future__ import annotations

import json
from typing import Any, Optional

from claude_throttle.transport.verdicts import read_json

#: Parameters of a Messages request that the endpoint accepts; any other would be a 400 (SDK 2.11,
#: ``message_count_tokens_params``).
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
    """The body that asks for the tokens of a Messages request with *body*."""
    request = json.loads(body)
    kept = {name: value for name, value in request.items() if name in COUNTED}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def read_count(body: bytes) -> Optional[int]:
    """The number of tokens in an answer; None without one."""
    answer: Any = read_json(body)
    count = answer.get("input_tokens") if isinstance(answer, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None

"""The call in a request, and its validation. Pure functions.

The checks are those whose refusal a client can provoke by mistake: size, key, JSON, fields, in this
order. It is no complete validation: what this module accepts the API may refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.models import FAST, FAST_SPEED
from claude_throttle.testing.faults import Garbage, Reply, Scripted
from claude_throttle.testing.http_reader import HttpRequest
from claude_throttle.testing.replies import TOO_LARGE_PAGE
from claude_throttle.transport.verdicts import read_json

#: Characters of the last user text that the log keeps, to recognise a call. The whole prompt would
#: make a log of many large requests too big.
NONCE_CHARACTERS = 200
#: Headers with the key: never in the log, which a failing test prints.
SECRET_HEADERS = ("x-api-key", "authorization")
# Values of these fields are not the user's text.
_NOT_TEXT = frozenset(
    {"type", "role", "id", "tool_use_id", "data", "media_type", "cache_control", "signature"}
)


class ReceivedCall(NamedTuple):
    """The content of one request: what the quotas, the log and the answer need of it."""

    body: dict[str, Any]
    model: str
    max_tokens: int
    input_tokens: int
    nonce: str
    streams: bool
    key: str
    #: The refusal of an invalid request; None if it is valid.
    problem: Optional[Scripted]

    @property
    def is_fast(self) -> bool:
        """Whether it asks for fast mode."""
        return self.body.get("speed") == FAST_SPEED

    @property
    def limited_as(self) -> str:
        """What its quotas are found by: the model, or the model's fast mode."""
        return self.model + FAST if self.is_fast else self.model


def read_call(
    request: HttpRequest, characters_per_token: float, max_tokens_needed: bool
) -> ReceivedCall:
    """Parse *request*; a problem is kept in the call, never raised.

    So a refused request is logged like any other. *max_tokens_needed* is false for endpoints that
    do not generate anything.
    """
    body = json_object(request.body)
    problem = _problem(request, body, max_tokens_needed)
    call = call_of(body or {}, characters_per_token)
    return call._replace(key=key_of(request.headers), problem=problem)


def call_of(body: dict[str, Any], characters_per_token: float) -> ReceivedCall:
    """Parse a request's body, without validation: wrong or missing fields become "" and 0.

    Input tokens are counted by characters. That is coarse on purpose: a client whose estimate is
    exact in tests would not show how it corrects a wrong one.
    """
    limit = body.get("max_tokens")
    return ReceivedCall(
        body,
        str(body.get("model", "")),
        limit if isinstance(limit, int) else 0,
        math.ceil(_characters(body) / characters_per_token),
        last_user_text(body.get("messages"))[:NONCE_CHARACTERS],
        body.get("stream") is True,
        "",
        None,
    )


def _problem(
    request: HttpRequest, body: dict[str, Any] | None, max_tokens: bool
) -> Scripted | None:
    if request.body is None:
        return Garbage(TOO_LARGE_PAGE, 413)
    if not key_of(request.headers):
        return Reply(401, message="x-api-key header is required")
    if body is None:
        return _invalid("The request body is not valid JSON: a JSON object is expected")
    return wrong_field(body, max_tokens)


def wrong_field(body: Mapping[str, Any], max_tokens: bool) -> Reply | None:
    """The refusal for a wrong or missing field of a request, if there is one."""
    for name in ("model", "max_tokens", "messages") if max_tokens else ("model", "messages"):
        if name not in body:
            return _invalid(f"{name}: Field required")
    if not isinstance(body["model"], str):
        return _invalid("model: Input should be a valid string")
    if not isinstance(body["messages"], list) or not body["messages"]:
        return _invalid("messages: at least one message is required")
    limit = body.get("max_tokens", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        return _invalid("max_tokens: Input should be a valid integer, at least 1")
    return None


def _invalid(message: str) -> Reply:
    return Reply(400, {"x-should-retry": "false"}, message=message)


def json_object(body: Optional[bytes]) -> Optional[dict[str, Any]]:
    """The body as a JSON object; None if it is none."""
    value = read_json(body or b"")
    return value if isinstance(value, dict) else None


def _characters(body: Mapping[str, Any]) -> int:
    return sum(_text_length(body.get(name)) for name in ("system", "messages", "tools"))


def _text_length(value: Any) -> int:
    # Not recursive: a body may be nested deeper than Python's stack.
    waiting, length = [value], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            length += len(item)
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += [part for name, part in item.items() if name not in _NOT_TEXT]
    return length


def last_user_text(messages: Any) -> str:
    """The text of the last user message; empty if it has none.

    Of several text blocks it is the last one.
    """
    return _text_of(_last_user_content(messages))


def last_user_message(messages: Any) -> str:
    """All blocks of the last user message, a line each; what is no text is a mark: ``[image]``."""
    return _shown(_last_user_content(messages))


def _last_user_content(messages: Any) -> Any:
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return message.get("content")
    return None


def _shown(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(map(_shown_block, content)) if isinstance(content, list) else ""


def _shown_block(block: Any) -> str:
    if not isinstance(block, dict):
        return _shown(block)
    kind, source = block.get("type"), block.get("source")
    if isinstance(block.get("text"), str):
        return str(block["text"])
    title = f" {block['title']}" if isinstance(block.get("title"), str) else ""
    text = _shown(block.get("content"))
    if isinstance(source, dict):  # a document in plain text, or in blocks
        text = _shown(source.get("content"))
        text = str(source.get("data", "")) if source.get("type") == "text" else text
    return f"[{kind}{title}]" + (f" {text}" if text else "")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, dict)]
    return next((text for text in reversed(texts) if isinstance(text, str)), "")


def key_of(headers: Mapping[str, str]) -> str:
    """The key or token of a request; empty if it has none.

    ``x-api-key`` goes before a bearer token.
    """
    key = headers.get("x-api-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return key or (token.strip() if scheme.lower() == "bearer" else "")

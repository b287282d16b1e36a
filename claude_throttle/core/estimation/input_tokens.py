"""Input tokens of a request, by what it holds; what the answers teach corrects it.

There is no public tokenizer for Claude. These estimates need only be in proportion: the calibration
finds the factor and what the server adds to each call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: UTF-8 bytes of text per token. English: 3.60 since Opus 4.7, 4.33 before (measured by
#: count_tokens, 2026-04). Other scripts have more bytes to a character and fewer characters to a
#: token, which about cancels out: .83 tokens for a Chinese character, .56 for a Cyrillic one.
BYTES_PER_TOKEN = 3.6

#: Tokens of framing around each message: a single letter counts as 8, with the framing of the
#: request (measured by count_tokens, 2026-02).
MESSAGE_TOKENS = 4

#: What is read as JSON: schemas, and servers whose tools are listed to the model.
_JSON_PARAMETERS = frozenset({"tools", "mcp_servers", "output_config"})

#: What a block has for the program, not for the model.
_UNREAD = frozenset(
    {"type", "id", "tool_use_id", "cache_control", "citations", "signature", "is_error"}
)

#: Tokens of the system prompt that comes with tools, and where a tool must be used; by a part of
#: the model's name (tool use page, 2026-08).
_TOOL_PROMPTS = {
    "opus-4-7": (675, 804),
    "sonnet-5": (354, 474),
    "-4-6": (497, 589),
    "-4-5": (496, 588),
    "-4-1": (313, 315),
    "-4-0": (313, 315),
    "-4-2025": (313, 315),
    "3-5-haiku": (264, 355),
}

#: Those of all other models: Opus 4.8; Opus 5 has 4 less.
_TOOL_PROMPT = (290, 410)

# Compact, as on the wire. It runs in C, where a walk through a schema would take longer.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def estimate_input_tokens(params: Mapping[str, Any]) -> float:
    """Input tokens of a Messages request, at least one; not yet calibrated."""
    model = params.get("model", "")
    total = 0.0
    for message in params["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        total += MESSAGE_TOKENS + _content_tokens(content, model)
    if "system" in params:
        total += _content_tokens(params["system"], model)
    for name in _JSON_PARAMETERS.intersection(params):
        total += _json_tokens(params[name])
    if params.get("tools"):
        total += _tool_prompt_tokens(model, params.get("tool_choice"))
    return total if total > 1.0 else 1.0


def _text_tokens(text: str) -> float:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size / BYTES_PER_TOKEN


def _content_tokens(content: Any, model: str) -> float:
    if isinstance(content, str):
        return _text_tokens(content)
    if isinstance(content, (list, tuple)):
        return sum(_block_tokens(block, model) for block in content)
    return _block_tokens(content, model)


def _block_tokens(block: Any, model: str) -> float:
    """Tokens of one content block; fields that the model does not read count nothing.

    Blocks of an unknown type are counted by the text in them, so that a new type is not free.
    """
    if not isinstance(block, dict):
        return _text_tokens(block) if isinstance(block, str) else 0.0
    if block.get("type") == "image":
        from claude_throttle.core.estimation.media import image_tokens  # most prompts hold none

        return image_tokens(block.get("source"), model)
    return sum(
        _part_tokens(name, part, model) for name, part in block.items() if name not in _UNREAD
    )


def _part_tokens(name: str, part: Any, model: str) -> float:
    if name == "input":
        return _json_tokens(part)
    if name == "source" and isinstance(part, dict):
        return _document_tokens(part, model)
    return _content_tokens(part, model)


def _document_tokens(source: Mapping[str, Any], model: str) -> float:
    """Tokens of a document's source: text as text, a PDF by its pages, a reference as one page.

    What lies behind a URL or a file id is not fetched: submit() makes no request of its own.
    """
    from claude_throttle.core.estimation.media import PAGE_TOKENS, pdf_tokens

    kind, data = source.get("type"), source.get("data")
    if kind == "content":
        return _content_tokens(source.get("content"), model)
    if not isinstance(data, str):
        return float(PAGE_TOKENS)  # behind a URL or a file id
    return _text_tokens(data) if kind == "text" else pdf_tokens(data)


def _json_tokens(value: Any) -> float:
    try:
        return _text_tokens(_encode(value))
    except (TypeError, ValueError, RecursionError):
        return 0.0  # refused where the body is made


def _tool_prompt_tokens(model: str, choice: Any) -> int:
    """Tokens of the system prompt that the server adds when a request has tools."""
    forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    for part, prompts in _TOOL_PROMPTS.items():
        if part in model:
            return prompts[forced]
    return _TOOL_PROMPT[forced]

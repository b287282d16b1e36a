"""The events that the API would stream for a complete message.

For answers that never came over the wire as a stream: those of testing mode and of a stage of the
caller's own. A reader of ``throttler.stream()`` sees the order of events that the API documents
(``message_start``, blocks, ``message_delta``, ``message_stop``), and needs no second way to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


def message_events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of *message*, a dict as the Messages API answers it; texts come word by word."""
    usage = message.get("usage") or {}
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    names = ("stop_reason", "stop_sequence")
    delta = {name: message.get(name) for name in names}
    ended = {"output_tokens": usage.get("output_tokens", 1)}
    yield {"type": "message_delta", "delta": delta, "usage": ended}
    yield {"type": "message_stop"}


# A block starts empty and is filled by deltas, as the API does it.
def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    empty, deltas = _taken_apart(block)
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _taken_apart(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block without its content, and the deltas that bring it; of a new type, the whole block."""
    kind = block.get("type")
    if kind == "text":
        words = re.findall(r"\s*\S+|\s+$", block["text"]) or [""]
        deltas = [{"type": "text_delta", "text": word} for word in words]
        cited = block.get("citations") or ()
        deltas += [{"type": "citations_delta", "citation": citation} for citation in cited]
        return {**block, "text": "", **({"citations": []} if cited else {})}, deltas
    if kind == "thinking":
        thought = {"type": "thinking_delta", "thinking": block["thinking"]}
        signed = {"type": "signature_delta", "signature": block.get("signature", "")}
        return {**block, "thinking": "", "signature": ""}, [thought, signed]
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
        written = json.dumps(block["input"], ensure_ascii=False)
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": written}]
    return dict(block), []

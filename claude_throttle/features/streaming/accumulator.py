"""Adds up the events of a stream to the message that they carry in pieces.

It works on plain dicts. The SDK's own function for this is private and changes between its releases
(2.11 demands the argument ``json_bufs``), and importing it takes 0.5 to 1.9 s, by when the first
events have come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.core.domain.cost import Usage
from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import read_usage

#: For each type of delta: its own field, and the field of the block to which that is appended.
_ADDED = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("partial_json", "input"),
}


class MessageAccumulator:
    """The message so far. Raises ValueError for events in an impossible order.

    One thread adds events; any other may take a snapshot() meanwhile. Unknown events and deltas are
    skipped, since the API announces new ones; unknown fields and types of blocks are kept.
    """

    def __init__(self) -> None:
        #: None before ``message_start``.
        self.message: Optional[dict[str, Any]] = None
        #: Whether ``message_stop`` came.
        self.complete = False
        #: Whether the server has sent its final count of output tokens.
        self.counted = False
        #: UTF-8 bytes of visible content, for an estimate of output tokens that were not counted.
        self.written_bytes = 0
        # Pieces by block and field, joined when needed: appending to a text copies it each time.
        self._parts: dict[tuple[int, str], list[str]] = {}

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Add one event. Unknown ones change nothing."""
        kind = event.get("type")
        if kind == "message_start":
            self._start(event)
        elif kind in _STEPS:
            if self.message is None:
                raise ValueError(f"{kind} before message_start")
            try:
                _STEPS[kind](self, event, self.message)
            except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
                raise ValueError(f"a {kind} that fits nothing before it") from None

    def usage(self) -> Optional[Usage]:
        """The token counts told so far; None before ``message_start``."""
        return None if self.message is None else read_usage(self.message)

    def text(self) -> str:
        """The text of all text blocks, joined."""
        blocks = (self.snapshot() or {}).get("content", ())
        return "".join(block["text"] for block in blocks if block.get("type") == "text")

    def snapshot(self) -> Optional[dict[str, Any]]:
        """The message so far; None before ``message_start``. May be called from any thread."""
        if self.message is None:
            return None
        # On copies: another thread may add an event meanwhile.
        blocks = [dict(block) for block in self.message["content"]]
        for (index, field), parts in list(self._parts.items()):
            written = "".join(parts)
            if written:
                blocks[index][field] = _parsed(written) if field == "input" else written
        return {**self.message, "content": blocks, "usage": dict(self.message["usage"])}

    def _start(self, event: Mapping[str, Any]) -> None:
        message = event.get("message")
        if self.message is not None:
            raise ValueError("a second message_start")
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            raise ValueError("a message_start without a message")
        self.message = {**message, "content": list(message["content"])}
        self.message["usage"] = dict(message.get("usage") or {})

    def _begin_block(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        message["content"].append(dict(event["content_block"]))

    def _add_delta(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        index, delta = event["index"], event["delta"]
        block, kind = message["content"][index], delta["type"]
        if kind in _ADDED:
            name, field = _ADDED[kind]
            first = [] if field == "input" else [block.get(field) or ""]
            self._parts.setdefault((index, field), first).append(_text(delta[name]))
            self.written_bytes += len(delta[name].encode("utf-8", "replace"))
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]

    def _end_block(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        index = event["index"]
        block = message["content"][index]
        for field in ("text", "thinking"):
            if (index, field) in self._parts:
                block[field] = "".join(self._parts.pop((index, field)))
        written = "".join(self._parts.pop((index, "input"), ()))
        if written:
            block["input"] = _parsed(written)

    def _change(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        message.update(event["delta"])
        # Totals, not additions; what is left out keeps the value of message_start.
        told = {k: v for k, v in (event.get("usage") or {}).items() if v is not None}
        message["usage"].update(told)
        self.counted = self.counted or "output_tokens" in told

    def _stop(self, _event: Mapping[str, Any], _message: dict[str, Any]) -> None:
        self.complete = True


def _parsed(written: str) -> Any:
    """The input of a tool; after a cut by max_tokens, as much of it as came."""
    try:
        return json.loads(written)
    except ValueError:
        return sdk.partial_json(written)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_STEPS: dict[Any, Any] = {
    "content_block_start": MessageAccumulator._begin_block,
    "content_block_delta": MessageAccumulator._add_delta,
    "content_block_stop": MessageAccumulator._end_block,
    "message_delta": MessageAccumulator._change,
    "message_stop": MessageAccumulator._stop,
}

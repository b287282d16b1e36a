"""Adds up the events of a stream to the message that they carry in pieces.

It works on plain dicts. The SDK's own function for this is private and changes between its releases
(2.11 demands the argument ``json_bufs``), and importing it takes 0.5 to 1.9 s, by when the first
events have come. The result is the same, that of its beta too, wherever the SDK keeps everything.
Where it raises or drops, no part is lost here: blocks go by their index, and null adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.core.domain.cost import Usage
from claude_throttle.features.streaming.content_block import ContentBlock, begun_by
from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import read_usage

#: What a ``message_delta`` holds beside fields of the message.
_NO_FIELDS = frozenset({"type", "delta", "usage", "content"})


class MessageAccumulator:
    """The message so far. Raises ValueError for events in an impossible order.

    One thread adds events; any other may take a snapshot() meanwhile. Unknown events are skipped,
    since the API announces new ones; unknown fields, deltas and types of blocks are kept.
    """

    def __init__(self) -> None:
        #: Without its content; None before ``message_start``.
        self.message: Optional[dict[str, Any]] = None
        #: Whether ``message_stop`` came.
        self.complete = False
        #: Whether the server has sent its final count of output tokens.
        self.counted = False
        #: UTF-8 bytes of visible content, for an estimate of output tokens that were not counted.
        self.written_bytes = 0
        # In the order in which they began; the message has them in the order of their indices,
        # which may have gaps, come in any order, and be used again by a gateway.
        self._blocks: list[ContentBlock] = []
        #: The block that the last delta or the last end of a block was about; None for none.
        self.last_block: Optional[ContentBlock] = None
        self._by_index: dict[int, ContentBlock] = {}

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
        texts = [block.get("text") for block in blocks if block.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))

    def snapshot(self) -> Optional[dict[str, Any]]:
        """The message so far; None before ``message_start``. May be called from any thread."""
        if self.message is None:
            return None
        # sorted() works on a copy, and keeps the order of blocks with the same index.
        blocks = [block.so_far() for block in sorted(self._blocks, key=_index)]
        return {**self.message, "content": blocks, "usage": dict(self.message["usage"])}

    def message_as(self, raw: bool, request_id: Optional[str]) -> Any:
        """The SDK's ``Message`` so far, or with *raw* the dict; None before ``message_start``."""
        snapshot = self.snapshot()
        return snapshot if raw or snapshot is None else sdk.build_message(snapshot, request_id)

    def _start(self, event: Mapping[str, Any]) -> None:
        message = event.get("message")
        if self.message is not None:
            raise ValueError("a second message_start")
        if not isinstance(message, dict) or not isinstance(message.get("content") or [], list):
            raise ValueError("a message_start without a message")
        try:
            for index, block in enumerate(message.get("content") or ()):
                self._by_index[index] = self._begin(index, dict(block))
            self.message = {**message, "usage": dict(message.get("usage") or {})}
        except (TypeError, ValueError):
            raise ValueError("a message_start without a message") from None

    def _begin_block(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        index, fields = event.get("index"), dict(event["content_block"])
        if index is None:
            index = max(self._by_index, default=-1) + 1
        known = self._by_index.get(index)
        if known is None or not known.is_begun_by(fields):
            self._by_index[index] = self._begin(index, fields)
        if fields.get("type") == "fallback":
            # The rest is another model's, as the message would say that is not streamed.
            message["model"] = (fields.get("to") or {}).get("model") or message.get("model")

    def _begin(self, index: int, fields: Mapping[str, Any]) -> ContentBlock:
        if not isinstance(index, int):
            raise TypeError
        block = ContentBlock(index, dict(fields))
        self._blocks.append(block)
        return block

    def _add_delta(self, event: Mapping[str, Any], _message: dict[str, Any]) -> None:
        index, delta = self._index_in(event), event["delta"]
        self.last_block = None
        if delta is None:
            return
        block = self._by_index.get(index)
        if block is None:
            block = self._by_index[index] = self._begin(index, begun_by(delta))
        elif not block.takes(delta):
            alike = [other for other in self._blocks if other.takes(delta)]
            block = alike[-1] if alike else self._begin(index, begun_by(delta))
        self.written_bytes += block.add_delta(delta)
        self.last_block = block

    def _end_block(self, event: Mapping[str, Any], _message: dict[str, Any]) -> None:
        block = self.last_block = self._by_index.get(self._index_in(event))
        if block is not None:
            block.join_pieces()

    def _index_in(self, event: Mapping[str, Any]) -> Any:
        """The block that *event* is about; without a number, the last one."""
        index = event.get("index")
        return index if index is not None else self._blocks[-1].index if self._blocks else 0

    def _change(self, event: Mapping[str, Any], message: dict[str, Any]) -> None:
        delta = event.get("delta", {})
        for name, value in {**event, **delta}.items():
            if name not in _NO_FIELDS and (value is not None or name not in message):
                message[name] = value
        # Totals, not additions; what is left out keeps the value of message_start.
        usage = {**(delta.get("usage") or {}), **(event.get("usage") or {})}
        told = {k: v for k, v in usage.items() if v is not None}
        message["usage"].update(told)
        self.counted = self.counted or "output_tokens" in told

    def _stop(self, _event: Mapping[str, Any], _message: dict[str, Any]) -> None:
        self.complete = True


def _index(block: ContentBlock) -> int:
    return block.index


_STEPS: dict[Any, Any] = {
    "content_block_start": MessageAccumulator._begin_block,
    "content_block_delta": MessageAccumulator._add_delta,
    "content_block_stop": MessageAccumulator._end_block,
    "message_delta": MessageAccumulator._change,
    "message_stop": MessageAccumulator._stop,
}

"""The events of the official SDK's stream helper: those of the API, and some that are derived.

``client.messages.stream(…)`` of the SDK yields after each delta what it adds, with all of it so far
(``text``, ``input_json`` …), and puts the whole block or message into the two events that end them.
They are made here of plain dicts, since each release of the SDK knows others of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from claude_throttle.features.streaming.accumulator import MessageAccumulator


class _Derived(NamedTuple):
    """What follows a delta of one type."""

    type: str
    #: The types of blocks that it follows in; the SDK derives nothing in others.
    blocks: tuple[str, ...]
    #: The field of the delta that it repeats; its ``snapshot`` is the next one of the block.
    piece: str = ""
    snapshot: str = ""
    #: Fields of the block that it repeats.
    fields: tuple[str, ...] = ()


_DERIVED = {
    "text_delta": _Derived("text", ("text",), "text", "text"),
    "thinking_delta": _Derived("thinking", ("thinking",), "thinking", "thinking"),
    "citations_delta": _Derived("citation", ("text",), "citation", "citations"),
    "signature_delta": _Derived("signature", ("thinking",), fields=("signature",)),
    "input_json_delta": _Derived(
        "input_json", ("tool_use", "server_tool_use", "mcp_tool_use"), "partial_json", "input"
    ),
    "compaction_delta": _Derived(
        "compaction", ("compaction",), fields=("content", "encrypted_content")
    ),
}


def helper_events(event: dict[str, Any], received: MessageAccumulator) -> Iterator[dict[str, Any]]:
    """*event*, the last one that *received* has, and what the SDK's helper derives from it.

    Call it in the thread that adds the events.
    """
    kind, block = event["type"], received.last_block
    if kind == "message_stop":
        yield {**event, "message": received.snapshot()}
    elif kind == "content_block_stop":
        yield {**event, "content_block": None if block is None else block.so_far()}
    else:
        yield event
        if kind == "content_block_delta" and block is not None:
            yield from _derived(event["delta"], block.field_so_far)


def _derived(delta: Mapping[str, Any], so_far: Any) -> Iterator[dict[str, Any]]:
    derived = _DERIVED.get(delta.get("type", ""))
    if derived is None or so_far("type") not in derived.blocks:
        return
    if not derived.piece:
        yield {"type": derived.type, **{name: so_far(name) for name in derived.fields}}
    elif delta.get(derived.piece) is not None:
        piece = {derived.piece: delta[derived.piece]}
        yield {"type": derived.type, **piece, "snapshot": so_far(derived.snapshot)}

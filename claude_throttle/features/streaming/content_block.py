"""One content block of a streamed message, put together from its deltas.

Each known delta has fields of its own, the rest of it is a hint for a display and belongs in no
block. Of an unknown delta nothing is lost: each of its fields joins the field of that name in the
block, texts are appended, lists extended, and anything else replaces what was there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from claude_throttle.transport import sdk

#: For each known type of delta: its fields, and the fields of the block that they add to.
_FIELDS: dict[Any, dict[str, str]] = {
    "text_delta": {"text": "text"},
    "thinking_delta": {"thinking": "thinking"},
    "signature_delta": {"signature": "signature"},
    "input_json_delta": {"partial_json": "input"},
    "citations_delta": {"citation": "citations"},
    "compaction_delta": {"content": "content", "encrypted_content": "encrypted_content"},
}

#: What a block is whose beginning was left out, by the type of its first delta. Not of a tool's
#: input: nobody could tell which tool is to be called.
_BEGUN_BY: dict[str, dict[str, Any]] = {
    "text_delta": {"type": "text", "text": ""},
    "citations_delta": {"type": "text", "text": ""},
    "thinking_delta": {"type": "thinking", "thinking": "", "signature": ""},
    "signature_delta": {"type": "thinking", "thinking": "", "signature": ""},
    "compaction_delta": {"type": "compaction", "content": None},
}

#: Deltas whose value is a piece of a text, and nothing else.
_WRITTEN = frozenset({"text_delta", "thinking_delta", "input_json_delta"})

#: For deltas that fit one type of block only: that type. One that a gateway numbered wrong goes to
#: the last block of its type, or begins one.
_OF_TYPE: dict[Any, str] = {"text_delta": "text", "thinking_delta": "thinking"}
_KNOWN_TYPES = frozenset({"text", "thinking", "tool_use", "redacted_thinking"})

#: Fields of the block that always come whole: a later one replaces the one before.
_WHOLE = frozenset({"signature", "encrypted_content"})

#: The empty input that gateways send before the whole one.
_EMPTY_FIRST = re.compile(r"^(?:\s*\{\})+(?=\s*\{)")


def begun_by(delta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a block that begins with *delta*; raises LookupError if that tells nothing."""
    kind = delta["type"]
    told = [value for name, value in delta.items() if name != "type" and value is not None]
    if not told or kind == "input_json_delta":
        raise LookupError
    return dict(_BEGUN_BY.get(kind) or {"type": kind.removesuffix("_delta")})


class ContentBlock:
    """A block and the pieces that came for it. One thread adds, any other may look."""

    def __init__(self, index: int, fields: dict[str, Any]) -> None:
        self.index = index
        self._fields = fields
        # Pieces by field, joined when needed: appending to a text copies it each time.
        self._pieces: dict[str, list[str]] = {}
        self._begun = dict(fields)

    def is_begun_by(self, fields: Mapping[str, Any]) -> bool:
        """Whether its beginning came twice: the same one again, before anything was added."""
        return self._begun == self._fields == fields and not self._pieces

    def takes(self, delta: Mapping[str, Any]) -> bool:
        """Whether *delta* is of the block's type. Unknown blocks and deltas fit each other."""
        wanted = _OF_TYPE.get(delta.get("type"))
        if wanted is None or delta.get(wanted) is None:
            return True
        kind = self._fields.get("type")
        return kind == wanted or kind not in _KNOWN_TYPES

    def add_delta(self, delta: Mapping[str, Any]) -> int:
        """Add a delta; the bytes of text in it. Null and what is left out add nothing."""
        kind, size = delta.get("type"), 0
        fields: Mapping[str, str] = _FIELDS.get(kind) or {k: k for k in delta if k != "type"}
        for name, field in fields.items():
            value: Any = delta.get(name)
            if value is None:
                continue
            if kind in _WRITTEN and not isinstance(value, str):
                raise TypeError
            if isinstance(value, str) and field not in _WHOLE:
                size += self._write(field, value)
            else:
                self._join(field, [value] if kind == "citations_delta" else value)
        return size

    def _write(self, field: str, text: str) -> int:
        before = self._fields.get(field)
        # A tool's input is JSON from the first piece on, whatever the block began with.
        first = [before] if isinstance(before, str) and field != "input" else []
        self._pieces.setdefault(field, first).append(text)
        return len(text.encode("utf-8", "replace"))

    def _join(self, field: str, value: Any) -> None:
        before = self._fields.get(field)
        if isinstance(value, list) and isinstance(before, list):
            value = before + value
        self._fields[field] = value
        self._pieces.pop(field, None)

    def join_pieces(self) -> None:
        """Join its pieces: no more are expected."""
        for field, pieces in self._pieces.items():
            self._pieces[field] = ["".join(pieces)]

    def so_far(self) -> dict[str, Any]:
        """A copy with all that came."""
        pieces = list(self._pieces.items())
        fields = dict(self._fields)
        for field, parts in pieces:
            fields[field] = self._value(field, "".join(parts))
        return fields

    def field_so_far(self, field: str) -> Any:
        """All that came for *field*. Call it in the thread that adds."""
        pieces = self._pieces.get(field)
        if pieces is None:
            return self._fields.get(field)
        written = "".join(pieces)
        self._pieces[field] = [written]  # or the next call would join all of them again
        return self._value(field, written)

    def _value(self, field: str, written: str) -> Any:
        if field != "input":
            return written
        return _parsed(written) if written else self._fields.get(field)


def _parsed(written: str) -> Any:
    """The input of a tool; after a cut by max_tokens, as much of it as came."""
    written = _EMPTY_FIRST.sub("", written)
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return sdk.partial_json(written)

"""The wire format of Message Batches: what a batch may hold, and how the API describes one.

Pure functions on bytes and JSON. What comes from the API is read leniently: unknown fields and
states are ignored, wrong counts are 0, and only an answer that is no batch at all raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.errors import BrokenAnswer, InvalidCall
from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import (
    STATUS_BY_TYPE,
    UNKNOWN_STATUS,
    quoted_error,
    read_json,
)

#: Requests in a batch, and bytes of it (rate-limit and errors pages, 2026-09 to 2026-11).
MOST_REQUESTS = 100_000
MOST_BYTES = 256 * 1024 * 1024

#: Bytes of MOST_BYTES that are left free: the proxy in front of the API counts the size, and its
#: count need not be the same as ours.
ROOM_BYTES = 1024 * 1024

#: Batches asked for in one page of a list.
LIST_LENGTH = 100

#: Statuses of a creation that was refused before anything was created. After any other 5xx the
#: batch may exist.
CREATES_NOTHING = frozenset({429, 529})

#: How a request in a batch can end (SDK 2.11).
SUCCEEDED, ERRORED, CANCELED, EXPIRED = "succeeded", "errored", "canceled", "expired"

KINDS = frozenset({SUCCEEDED, ERRORED, CANCELED, EXPIRED})

_COUNTS = ("processing", SUCCEEDED, ERRORED, CANCELED, EXPIRED)
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: An id becomes part of a URL, so nothing that means something there may be in it.
_BATCH_ID = re.compile(r"[a-zA-Z0-9_-]{1,200}")


class State(NamedTuple):
    """The state of one batch, as the API described it."""

    id: str
    #: Whether all its requests have ended; results can be fetched only then.
    ended: bool
    #: Requests by their state.
    counts: Mapping[str, int]
    #: RFC 3339, as it came.
    created_at: str = ""


class ResultLine(NamedTuple):
    """The result of one request: one line of a batch's results."""

    custom_id: str
    kind: str
    #: The message, or the error's body; None without either.
    content: Optional[dict[str, Any]]


def require_custom_id(custom_id: Any) -> str:
    """Return *custom_id* if the API accepts it. Raises :class:`InvalidCall` otherwise."""
    if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
        raise InvalidCall(
            f"custom_id must be 1 to 64 of the characters a-z A-Z 0-9 _ -, not {custom_id!r:.80}"
        )
    return custom_id


def require_batch_id(batch_id: Any) -> str:
    """Return *batch_id* if it can be the id of a batch. Raises :class:`InvalidCall` otherwise."""
    if not isinstance(batch_id, str) or not _BATCH_ID.fullmatch(batch_id):
        raise InvalidCall(f"{batch_id!r:.80} is no id of a batch")
    return batch_id


def entry(custom_id: str, body: bytes) -> bytes:
    """One request within a batch's body."""
    return b'{"custom_id":"%b","params":%b}' % (custom_id.encode("ascii"), body)


def read_state(value: Any) -> State:
    """Read a batch from the API's object. Raises :class:`BrokenAnswer` if it is none."""
    batch_id = value.get("id") if isinstance(value, dict) else None
    known = isinstance(batch_id, str) and _BATCH_ID.fullmatch(batch_id)
    if not known or not isinstance(value, dict):
        words = quoted_error(value, b"")
        raise BrokenAnswer(
            f"the server answered 200 with something that is not a Message Batch{words}"
        )
    counts = value.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    told = {name: _whole(counts.get(name)) for name in _COUNTS}
    ended = value.get("processing_status") == "ended"
    return State(str(batch_id), ended, told, str(value.get("created_at", "")))


def read_list(content: bytes) -> tuple[list[State], bool]:
    """The batches of a page, and whether there are more. Raises :class:`BrokenAnswer`."""
    page = read_json(content)
    data = page.get("data") if isinstance(page, dict) else None
    if not isinstance(page, dict) or not isinstance(data, list):
        told = quoted_error(page, content)
        raise BrokenAnswer(
            f"the server answered 200 with something that is no list of batches{told}"
        )
    return [read_state(value) for value in data], page.get("has_more") is True


def read_line(data: bytes) -> Optional[ResultLine]:
    """Read one line of results; None if it cannot be read as one."""
    value: Any = read_json(data)
    result = value.get("result") if isinstance(value, dict) else None
    kind = result.get("type") if isinstance(result, dict) else None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    if not isinstance(kind, str) or not isinstance(result, dict) or not isinstance(custom_id, str):
        return None
    content = result.get("message" if kind == SUCCEEDED else "error")
    if kind in (SUCCEEDED, ERRORED) and not isinstance(content, dict):
        return None
    return ResultLine(custom_id, kind, content)


def error_of(url: str, body: dict[str, Any]) -> Exception:
    """The SDK's exception for a request that errored: what it had been outside a batch."""
    # Either the whole error response, or what is inside of one.
    if not isinstance(body.get("error"), dict):
        body = {"type": "error", "error": body}
    kind = body["error"].get("type")
    status = STATUS_BY_TYPE.get(kind, UNKNOWN_STATUS) if isinstance(kind, str) else UNKNOWN_STATUS
    content = json.dumps(body).encode()
    return sdk.status_error(url, status, {}, content, body)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0

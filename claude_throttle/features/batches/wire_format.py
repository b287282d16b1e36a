"""Message Batches on the wire: what a batch may hold, what the API tells of one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.errors import BrokenAnswer, InvalidCall
from claude_throttle.transport import sdk
from claude_throttle.transport.verdicts import STATUS_BY_TYPE, UNKNOWN_STATUS, read_json

#: Requests in a batch, and bytes of it (rate-limit and errors pages, 2026-09 to 2026-11).
MOST_REQUESTS = 100_000
MOST_BYTES = 256 * 1024 * 1024

#: Bytes of those that are left free: it is the proxy in front of the API that counts them.
ROOM_BYTES = 1024 * 1024

#: How many a list is asked for at once.
LIST_LENGTH = 100

#: Refused before anything was created. Any other 5xx may come from behind the creation.
CREATES_NOTHING = frozenset({429, 529})

#: How a request in a batch can end (SDK 2.11).
SUCCEEDED, ERRORED, CANCELED, EXPIRED = "succeeded", "errored", "canceled", "expired"

KINDS = frozenset({SUCCEEDED, ERRORED, CANCELED, EXPIRED})

_COUNTS = ("processing", SUCCEEDED, ERRORED, CANCELED, EXPIRED)
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: It becomes part of a URL.
_BATCH_ID = re.compile(r"[a-zA-Z0-9_-]{1,200}")


class State(NamedTuple):
    """What the API tells of one batch."""

    id: str
    ended: bool
    counts: Mapping[str, int]
    #: RFC 3339, as it came.
    created_at: str = ""


class ResultLine(NamedTuple):
    """One result."""

    custom_id: str
    kind: str
    #: The message, or the error's body; None without either.
    content: Optional[dict[str, Any]]


def require_custom_id(custom_id: Any) -> str:
    """*custom_id*, if the API takes it. Raises :class:`InvalidCall`."""
    if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
        raise InvalidCall(
            f"custom_id must be 1 to 64 of the characters a-z A-Z 0-9 _ -, not {custom_id!r:.80}"
        )
    return custom_id


def require_batch_id(batch_id: Any) -> str:
    """*batch_id*, if it can be one. Raises :class:`InvalidCall`."""
    if not isinstance(batch_id, str) or not _BATCH_ID.fullmatch(batch_id):
        raise InvalidCall(f"{batch_id!r:.80} is no id of a batch")
    return batch_id


def entry(custom_id: str, body: bytes) -> bytes:
    """One request within a batch's body."""
    return b'{"custom_id":"%b","params":%b}' % (custom_id.encode("ascii"), body)


def read_state(value: Any) -> State:
    """From the API's object. Raises :class:`BrokenAnswer`."""
    batch_id = value.get("id") if isinstance(value, dict) else None
    known = isinstance(batch_id, str) and _BATCH_ID.fullmatch(batch_id)
    if not known or not isinstance(value, dict):
        raise BrokenAnswer("the server answered 200 with something that is not a Message Batch")
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
        raise BrokenAnswer("the server answered 200 with something that is no list of batches")
    return [read_state(value) for value in data], page.get("has_more") is True


def read_line(data: bytes) -> Optional[ResultLine]:
    """One line of results; None if it is none."""
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

"""Makes uploads of requests: checked, serialised, and split into batches that the API accepts.

All requests are checked before the first batch is created: a mistake in the last of 300,000 must
not be found when two batches are being billed. Until they are sent, a temporary file holds them;
only their names stay in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Optional

from claude_throttle.errors import InvalidCall
from claude_throttle.features.batches import wire_format
from claude_throttle.transport.request import OUR_KEYWORDS, serialise

#: Bytes of a batch up to which it stays in memory, without a file.
IN_MEMORY_BYTES = 8 * 1024 * 1024

_OPENING, _COMMA, _CLOSING = b'{"requests":[', b",", b"]}"


class BatchBounds(NamedTuple):
    """How much one batch may hold: a number of requests, and bytes of its whole body."""

    requests: int = wire_format.MOST_REQUESTS
    bytes: int = wire_format.MOST_BYTES - wire_format.ROOM_BYTES


class BatchUpload:
    """The body of one batch, collected in a temporary file. Owned by one thread at a time.

    append() requests, seal() it, then read body() as often as it is sent; close() deletes the file.
    """

    def __init__(self) -> None:
        self.custom_ids: list[str] = []
        self.size = len(_OPENING) + len(_CLOSING)
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - close()
        self._file.write(_OPENING)

    def has_room_for(self, data: bytes, bounds: BatchBounds) -> bool:
        """Whether one more request fits in."""
        wanted = self.size + len(_COMMA) + len(data)
        return len(self.custom_ids) < bounds.requests and wanted <= bounds.bytes

    def append(self, custom_id: str, data: bytes) -> None:
        """Add one request."""
        if self.custom_ids:
            data = _COMMA + data
        self._file.write(data)
        self.size += len(data)
        self.custom_ids.append(custom_id)

    def seal(self) -> None:
        """No more requests follow."""
        self._file.write(_CLOSING)
        self._file.flush()  # or a forked child would write it, too, when it closes its copy

    def body(self) -> UploadBody:
        """The whole body, from its beginning."""
        self._file.seek(0)
        return UploadBody(self._file, self.size)

    def close(self) -> None:
        """Close the file; the custom_ids stay."""
        self._file.close()


class UploadBody:
    """A body that ``requests`` reads from a file while it sends it.

    It has a length, so ``requests`` sends a Content-Length and does not chunk it.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(65_536), b"")

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes; http.client or urllib3 calls it."""
        data: bytes = self._file.read(size)
        return data


def split(requests: Iterable[Any], bounds: BatchBounds) -> list[BatchUpload]:
    """Check *requests* and split them into batches. Raises :class:`InvalidCall`, also for none."""
    parts: list[BatchUpload] = []
    try:
        _fill(parts, requests, bounds)
        if not parts:
            raise InvalidCall("a batch needs at least one request")
        parts[-1].seal()
    except BaseException:
        close_all(parts)
        raise
    return parts


def close_all(parts: Iterable[BatchUpload]) -> None:
    """Close the files of *parts*."""
    for part in parts:
        part.close()


# Into the caller's list, so that it can close what was opened, even if *requests*, which may be a
# generator of the user's, raises in between.
def _fill(parts: list[BatchUpload], requests: Iterable[Any], bounds: BatchBounds) -> None:
    if isinstance(requests, (Mapping, str)):
        raise InvalidCall("requests must be a list, or anything to iterate, of requests")
    seen: set[str] = set()
    for number, request in enumerate(requests):
        try:
            custom_id, data = read_request(request, number)
            if custom_id in seen:
                raise InvalidCall(f"custom_id {custom_id} was used by an earlier request")
        except InvalidCall as error:
            raise InvalidCall(f"request {number} (from 0): {error}") from None
        seen.add(custom_id)
        if not parts or not parts[-1].has_room_for(data, bounds):
            if parts:
                parts[-1].seal()
            parts.append(BatchUpload())
        parts[-1].append(custom_id, data)


def read_request(request: Any, number: int) -> tuple[str, bytes]:
    """A request's custom_id, and its entry in a batch. Raises :class:`InvalidCall`."""
    custom_id, params = _taken_apart(request)
    for name in OUR_KEYWORDS:
        if name in params:
            raise InvalidCall(f"{name}= is a word of submit(); a batch has none for one request")
    body = serialise(params)
    if custom_id is None:
        custom_id = f"request-{number}-{hashlib.sha256(body).hexdigest()[:8]}"
    wire_format.require_custom_id(custom_id)
    return custom_id, wire_format.entry(custom_id, body)


# The three forms of a request: (custom_id, params), {"custom_id": …, "params": …}, and the
# parameters alone. "params" is no parameter of the API, so the last two cannot be confused.
def _taken_apart(request: Any) -> tuple[Optional[str], Mapping[str, Any]]:
    if isinstance(request, tuple) and len(request) == 2:
        custom_id, params = request
    elif isinstance(request, Mapping) and "params" in request:
        custom_id, params = request.get("custom_id"), request["params"]
    else:
        custom_id, params = None, request
    if not isinstance(params, Mapping):
        raise InvalidCall(
            "a request is a dict of the Messages API's parameters, the same as "
            '{"custom_id": …, "params": …}, or a pair (custom_id, params)'
        )
    return custom_id, params

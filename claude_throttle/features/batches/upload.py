"""Makes uploads of requests: checked, serialised, and split into batches that the API accepts.

All requests are checked before the first batch is created: a mistake in the last of 300,000 must
not be found when two batches are being billed. Until they are sent, a temporary file holds them;
only their names stay in memory.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.errors import InvalidCall
from claude_throttle.features.batches import wire_format
from claude_throttle.transport.headers import brings_own_proof, checked_headers
from claude_throttle.transport.keywords import query_string, with_betas
from claude_throttle.transport.own_keywords import OUR_KEYWORDS
from claude_throttle.transport.plain_values import plain_copy
from claude_throttle.transport.request import merged_body, serialise

#: Bytes of a batch up to which it stays in memory, without a file.
IN_MEMORY_BYTES = 8 * 1024 * 1024

_OPENING, _COMMA, _CLOSING = b'{"requests":[', b",", b"]}"


class CreationExtras(NamedTuple):
    """What goes with each creation of a batch, besides its requests."""

    #: Header fields in place of the account's; one with None is left out.
    headers: Mapping[str, Optional[str]] = MappingProxyType({})
    #: What follows the URL's path, from its question mark on.
    query: str = ""
    #: The end of the body, from the end of its requests on.
    closing: bytes = _CLOSING


def creation_extras(
    betas: Any,
    extra_headers: Any,
    extra_body: Any,
    extra_query: Any,
    default_headers: Mapping[str, str],
) -> CreationExtras:
    """Check submit()'s keywords for the creation. Raises :class:`InvalidCall`."""
    told = with_betas(betas, extra_headers, default_headers)
    headers = None if told is None else checked_headers(told)
    if brings_own_proof(headers):
        raise InvalidCall(
            "extra_headers of a batch must hold no key: its results are asked for with the "
            "throttler's own; use a Throttler(api_key=…) with that key"
        )
    body = merged_body({}, extra_body)
    if "requests" in body:
        raise InvalidCall("extra_body= of a batch must not hold its requests")
    fields = json.dumps(plain_copy(body), ensure_ascii=False, separators=(",", ":")).encode()
    closing = b"]," + fields[1:] if body else _CLOSING
    return CreationExtras(headers or {}, query_string(extra_query), closing)


class BatchBounds(NamedTuple):
    """How much one batch may hold: a number of requests, and bytes of its whole body."""

    requests: int = wire_format.MOST_REQUESTS
    bytes: int = wire_format.MOST_BYTES - wire_format.ROOM_BYTES


class BatchUpload:
    """The body of one batch, collected in a temporary file. Owned by one thread at a time.

    append() requests, seal() it, then read body() as often as it is sent; close() deletes the file.
    """

    def __init__(self, closing: bytes = _CLOSING) -> None:
        self.custom_ids: list[str] = []
        self._closing = closing
        self.size = len(_OPENING) + len(closing)
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
        self._file.write(self._closing)
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


def split(
    requests: Iterable[Any], bounds: BatchBounds, closing: bytes = _CLOSING
) -> list[BatchUpload]:
    """Check *requests* and split them into batches. Raises :class:`InvalidCall`, also for none."""
    parts: list[BatchUpload] = []
    try:
        _fill(parts, requests, bounds, closing)
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
def _fill(
    parts: list[BatchUpload], requests: Iterable[Any], bounds: BatchBounds, closing: bytes
) -> None:
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
            parts.append(BatchUpload(closing))
        parts[-1].append(custom_id, data)


def read_request(request: Any, number: int) -> tuple[str, bytes]:
    """A request's custom_id, and its entry in a batch. Raises :class:`InvalidCall`."""
    custom_id, params = _taken_apart(request)
    body = serialise(*_without_ours(params))
    if custom_id is None:
        custom_id = f"request-{number}-{hashlib.sha256(body).hexdigest()[:8]}"
    wire_format.require_custom_id(custom_id)
    return custom_id, wire_format.entry(custom_id, body)


#: Keywords of a call that hold for a whole batch, and are given to its submit().
_OF_ALL = {
    "betas": 'betas=["…"]',
    "extra_headers": "extra_headers={…}",
    "extra_query": "extra_query={…}",
    "workspace_id": 'extra_headers={"anthropic-workspace-id": …}',
}


def _without_ours(params: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool, Any]:
    """serialise()'s arguments for the request, without keywords that only a call has."""
    ours = [name for name in (*OUR_KEYWORDS, "workspace_id") if name in params]
    for name in ours:
        value = params[name]
        if is_not_given(value) or (value is None and name in (*_OF_ALL, "extra_body")):
            continue
        if name in _OF_ALL:
            raise InvalidCall(
                f"{name}= holds for a whole batch: batches.submit(requests, {_OF_ALL[name]})"
            )
        if name != "extra_body":
            raise InvalidCall(f"{name}= is a word of submit(); a batch has none for one request")
    rest = {name: value for name, value in params.items() if name not in ours} if ours else params
    return rest, False, params.get("extra_body")


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

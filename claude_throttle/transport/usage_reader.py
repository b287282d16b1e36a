"""Reads the token usage from a response body while another client reads it.

It sees the bytes as that client does, of a JSON message or of an event stream, perhaps compressed;
or of the frames in which Amazon Bedrock streams.
It must never fail, and never hold much memory: what it does not understand has no known usage, and
the permit keeps its estimate.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.core.domain.cost import Usage
from claude_throttle.transport.verdicts import read_json, read_usage

#: Bytes of a line. The events that carry usage are short; of a longer line no more is kept.
LONGEST_LINE = 4 * 1024 * 1024

#: Bytes that are kept of a body that is not an event stream.
LONGEST_BODY = 32 * 1024 * 1024

#: Bytes of a frame of Amazon's event stream before its headers.
FRAME_HEAD = 12

#: First bytes of compressed data; neither JSON nor an event begins so.
_GZIP, _ZLIB = b"\x1f", b"\x78"


class UsageReader:
    """Reads the usage of one response, fed chunk by chunk. Not thread-safe; raises nothing.

    feed() each chunk and, only if the body was read to its end, call end().
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        content_type = headers.get("content-type") or ""
        self._is_events = "event-stream" in content_type
        self._is_frames = "amazon.eventstream" in content_type
        # The results of a batch: no usage of its own, and they may be long.
        self._is_lines = "jsonl" in content_type or "ndjson" in content_type
        # The first byte decides: some clients show the bytes of the wire, others decoded ones.
        self._may_be_deflated = bool(headers.get("content-encoding"))
        self._inflate: Any = None
        self._rest = b""
        self._body = bytearray()
        self._told: dict[str, Any] = {}
        #: Whether the body was complete.
        self.whole = False

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk."""
        if self._is_lines:
            return
        if self._may_be_deflated and chunk:
            self._may_be_deflated, self._inflate = False, _inflater(chunk)
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk)
            except zlib.error:
                chunk = b""
        if self._is_events:
            self._feed_events(chunk)
        elif self._is_frames:
            self._feed_frames(chunk)
        elif len(self._body) <= LONGEST_BODY:
            self._body += chunk

    def end(self) -> None:
        """Read what can be read only now: a JSON body, which has been fed as a whole."""
        if not (self._is_events or self._is_frames):
            answer = read_json(bytes(self._body))
            self.whole = isinstance(answer, dict) and self._take(answer)

    @property
    def usage(self) -> Optional[Usage]:
        """The usage told so far; None without any."""
        return read_usage({"usage": self._told}) if self._told else None

    def _feed_events(self, chunk: bytes) -> None:
        if b"\n" not in chunk and b"\r" not in chunk:
            if len(self._rest) <= LONGEST_LINE:
                self._rest += chunk
            return
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._read_data(line[5:])

    # Amazon Bedrock frames each event: total length, length of its headers, a checksum, the
    # headers, {"bytes": the event in base64}, a checksum; lengths are big-endian.
    def _feed_frames(self, chunk: bytes) -> None:
        self._rest += chunk
        while len(self._rest) >= FRAME_HEAD:
            length, of_headers = (int.from_bytes(self._rest[at : at + 4], "big") for at in (0, 4))
            if not FRAME_HEAD <= length <= LONGEST_LINE:
                self._rest = b""  # no frame: what follows has no beginning
                return
            if len(self._rest) < length:
                return
            frame = read_json(self._rest[FRAME_HEAD + of_headers : length - 4])
            self._rest = self._rest[length:]
            with contextlib.suppress(LookupError, TypeError, ValueError):
                self._read_data(base64.b64decode(frame["bytes"]))

    def _read_data(self, data: bytes) -> None:
        # Few of hundreds of events tell usage: only those are parsed.
        if b'"usage"' in data or b"message_stop" in data:
            self._read_event(read_json(data))

    def _read_event(self, event: Any) -> None:
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._take(event["message"])
        elif kind == "message_delta":
            self._take(event)
        elif kind == "message_stop":
            self.whole = True

    def _take(self, holder: Mapping[str, Any]) -> bool:
        """Take the usage that *holder* tells; counts are totals, not additions."""
        usage = holder.get("usage")
        if not isinstance(usage, dict):
            return False
        self._told.update((name, count) for name, count in usage.items() if count is not None)
        return True


def _inflater(first: bytes) -> Any:
    """A decompressor for gzip and deflate; None for other encodings, whose usage stays unknown."""
    return zlib.decompressobj(32 + zlib.MAX_WBITS) if first[:1] in (_GZIP, _ZLIB) else None

"""Reads the usage out of an answer as it passes by, and changes nothing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Optional

from claude_throttle.core.domain.cost import Usage
from claude_throttle.transport.verdicts import read_json, read_usage

#: Bytes. What is longer is no event that tells usage.
LONGEST_LINE = 4 * 1024 * 1024

#: Bytes of an answer that is no stream of events; what is longer is not read.
LONGEST_BODY = 32 * 1024 * 1024

#: What these begin with; neither JSON nor an event does.
_GZIP, _ZLIB = b"\x1f", b"\x78"


class UsageReader:
    """Of one answer, fed as it arrives. Not thread-safe."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._is_events = "event-stream" in (headers.get("content-type") or "")
        # Until the first byte tells: some clients show what came over the wire, others what it
        # was before.
        self._may_be_deflated = bool(headers.get("content-encoding"))
        self._inflate: Any = None
        self._rest = b""
        self._told: dict[str, Any] = {}
        #: The whole of it was there.
        self.whole = False

    def feed(self, chunk: bytes) -> None:
        """More of it."""
        if self._may_be_deflated and chunk:
            self._may_be_deflated, self._inflate = False, _inflater(chunk)
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk)
            except zlib.error:
                chunk = b""
        if self._is_events:
            self._feed_events(chunk)
        elif len(self._rest) <= LONGEST_BODY:
            self._rest += chunk

    def end(self) -> None:
        """All of it has passed by."""
        if not self._is_events:
            answer = read_json(self._rest)
            self.whole = isinstance(answer, dict) and self._take(answer)

    @property
    def usage(self) -> Optional[Usage]:
        """What it told so far; None if nothing."""
        return read_usage({"usage": self._told}) if self._told else None

    def _feed_events(self, chunk: bytes) -> None:
        if b"\n" not in chunk and b"\r" not in chunk:
            if len(self._rest) <= LONGEST_LINE:
                self._rest += chunk
            return
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            # Two or three of hundreds.
            if line.startswith(b"data:") and (b'"usage"' in line or b"message_stop" in line):
                self._read_event(read_json(line[5:]))

    def _read_event(self, event: Any) -> None:
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._take(event["message"])
        elif kind == "message_delta":
            self._take(event)
        elif kind == "message_stop":
            self.whole = True

    def _take(self, holder: Mapping[str, Any]) -> bool:
        """What *holder* tells of the usage so far; each time the whole of it."""
        usage = holder.get("usage")
        if not isinstance(usage, dict):
            return False
        self._told.update((name, count) for name, count in usage.items() if count is not None)
        return True


def _inflater(first: bytes) -> Any:
    """For what the standard library can read; else the usage is not known."""
    return zlib.decompressobj(32 + zlib.MAX_WBITS) if first[:1] in (_GZIP, _ZLIB) else None

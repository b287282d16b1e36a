"""Decodes server-sent events from bytes that may be cut anywhere.

A small part of the WHATWG standard: ``event:`` and ``data:`` lines with any of its three line ends;
comments, ``id:`` and ``retry:`` are skipped, as the API sends none that matter. A line that begins
with a brace counts as ``data:``: there are gateways that report an error so. Lines are split as
bytes and decoded afterwards: ``str.splitlines`` would break a line at U+2028, and ``requests``
takes a stream without a charset for Latin-1.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")

#: Bytes of one event, as many as a request may have. A server that sends a line without an end must
#: not fill the memory.
LONGEST_EVENT_BYTES = 32 * 1024 * 1024


class ServerSentEvent(NamedTuple):
    """One server-sent event; its data is JSON, and not parsed yet."""

    #: The value of its ``event:`` line; "message" without one, as the standard says.
    name: str
    #: All ``data:`` lines, joined by line feeds.
    data: str


class TooLong(Exception):
    """Raised for an event of more than :data:`LONGEST_EVENT_BYTES`; the stream is broken then."""


class SseDecoder:
    """Decodes the bytes of one response into server-sent events. Not thread-safe.

    feed() never returns an event that the end of the stream cuts, as the standard demands; rest()
    does, for servers that leave out the last blank line.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._after_cr = False
        self._is_first_line = True
        self._size = 0
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that *chunk* completes. Raises :class:`TooLong`."""
        if self._after_cr and chunk:
            # The second half of a CRLF that was cut.
            chunk, self._after_cr = chunk[chunk.startswith(b"\n") :], False
        searched, start = len(self._pending), 0
        self._pending += chunk
        for end in _LINE_END.finditer(self._pending, searched):
            line, start = bytes(self._pending[start : end.start()]), end.end()
            self._after_cr = end.group() == b"\r" and start == len(self._pending)
            yield from self._line(line)
        del self._pending[:start]
        if self._size + len(self._pending) > LONGEST_EVENT_BYTES:
            raise TooLong

    def rest(self) -> Iterator[ServerSentEvent]:
        """What the end of the body leaves; half an event, unless only its blank line is missing."""
        line, self._pending = bytes(self._pending), bytearray()
        yield from self._line(line)
        if line:
            yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[ServerSentEvent]:
        if self._is_first_line:
            line, self._is_first_line = line[3 * line.startswith(codecs.BOM_UTF8) :], False
        if not line:
            if self._data:
                yield ServerSentEvent(self._name or "message", "\n".join(self._data))
            self._size, self._name, self._data = 0, "", []
            return
        self._size += len(line)
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            self._name = value.strip()
        elif field == "data":
            self._data.append(value)
        elif line.startswith(b"{"):
            self._data.append(line.decode("utf-8", "replace"))

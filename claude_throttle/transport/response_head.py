"""Reads the head of an HTTP response without Python's email parser.

``http.client`` passes each head to the parser for emails, and urllib3 then asks that for a body in
several parts: together a quarter of the CPU time of a call here. A head that is not simply one
field per line (folded lines, a line without a colon) still goes to that parser, so nothing is read
differently; ``connections`` puts the class in place.
"""

from __future__ import annotations

import http.client
import io
import re
from typing import Any, Optional

from claude_throttle.transport.headers import FIELD_NAME

#: Matches a head in which each line is one field: no folded lines, no line without a colon.
_PLAIN_HEAD = re.compile(rf"(?:{FIELD_NAME.pattern}:[^\r\n]*\r\n)*")

#: Bytes of a line and lines of a head at most; http.client of Python 3.9 to 3.13 has the same.
LONGEST_LINE = 65_536
MOST_LINES = 100

#: Interim responses (1xx) before the response itself. http.client knows only 100, without a limit.
MOST_INTERIM = 100


class ResponseHead(http.client.HTTPMessage):
    """The header fields of a response, looked up in any case; the first of each name counts.

    It answers what urllib3 and http.client ask of an ``HTTPMessage``. Read only.
    """

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__()
        for name, value in fields:
            self.set_raw(name, value)
        self._fields = fields
        self._first = {name.lower(): value for name, value in reversed(fields)}

    def get(self, name: str, failobj: Any = None) -> Any:
        return self._first.get(name.lower(), failobj)

    def items(self) -> Any:
        return self._fields

    def is_multipart(self) -> bool:
        return False

    def get_payload(self, *_args: Any, **_options: Any) -> Any:
        """None. urllib3 asks for it, to find errors of the email parser, which did not run."""
        return None


def read_head(file: Any) -> http.client.HTTPMessage:
    """Read a head as ``http.client.parse_headers`` does, with the same exceptions."""
    lines = []
    while True:
        line = file.readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            raise http.client.LineTooLong("header line")
        lines.append(line)
        if len(lines) > MOST_LINES:
            raise http.client.HTTPException(f"got more than {MOST_LINES} headers")
        if line in (b"\r\n", b"\n", b""):
            break
    fields = _fields(b"".join(lines[:-1]).decode("iso-8859-1"))
    if fields is None:
        return http.client.parse_headers(io.BytesIO(b"".join(lines)))
    return ResponseHead(fields)


def _fields(head: str) -> Optional[list[tuple[str, str]]]:
    """Name and value of each line; None if any line is not one whole field."""
    if not _PLAIN_HEAD.fullmatch(head):
        return None
    fields = (line.partition(":") for line in head.split("\r\n")[:-1])
    return [(name, value.strip(" \t")) for name, _, value in fields]


class FastHeadResponse(http.client.HTTPResponse):
    """An ``HTTPResponse`` whose ``begin()`` reads the head with :func:`read_head`.

    It also passes over 102 and 103, which http.client takes for the response itself: the call would
    fail, although its answer follows. Everything else in it is what Python 3.9 to 3.13 do there.
    Check it for each new Python.
    """

    def begin(self) -> None:
        """Read the head; the body follows."""
        if getattr(self, "headers", None) is not None:
            return
        version, status, reason = self._final_status()
        self.code = self.status = status
        self.reason = reason.strip()
        is_old = version in ("HTTP/1.0", "HTTP/0.9")
        if not is_old and not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if is_old else 11
        self.headers = self.msg = read_head(self.fp)
        self.chunked = (self.headers.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = None if self.chunked else _length(self.headers.get("content-length"))
        if status in (204, 304) or 100 <= status < 200:
            self.length = 0
        # Without either, the body ends with the connection.
        self.will_close = self.will_close or (not self.chunked and self.length is None)

    def _final_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            found: tuple[str, int, str] = self._read_status()  # type: ignore[attr-defined]
            if not 100 <= found[1] < 200 or found[1] == http.client.SWITCHING_PROTOCOLS:
                return found
            read_head(self.fp)
        raise http.client.HTTPException(f"got more than {MOST_INTERIM} interim responses")


def _length(text: Optional[str]) -> Optional[int]:
    try:
        length = int(text or "")
    except ValueError:
        return None
    return length if length >= 0 else None

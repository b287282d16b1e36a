"""Parses the lines of an input file into requests, and into problems with a line number.

A line is one of

* a JSON string: a prompt; * an object with ``prompt`` and any other field of a Messages request; *
a Messages request; * a line of a Message Batch: ``{"custom_id": ..., "params": {a Messages
request}}``.

Any object may have a ``custom_id``. Lines are read lazily, one by one, so a file may be larger than
the memory. One bad line never ends the run: it becomes a :class:`Problem`, and the others are sent.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, NoReturn, Optional, Union

#: Bytes. The API refuses larger requests, so a larger line cannot hold one.
LINE_LIMIT = 32 * 1024 * 1024
#: Bytes that are read at once while the rest of an overlong line is skipped.
_CHUNK = 1024 * 1024
#: A byte order mark, which some editors write in front of UTF-8.
_BOM = b"\xef\xbb\xbf"
#: NUL is the second half of a newline in UTF-16; a line of nothing else is empty.
_BLANK = b" \t\r\n\0"

#: Lines that are reported one by one; more would only hide the cause.
REPORTED_LINES = 50

#: Arguments of ``Throttler.submit`` that a line must not set: they change how a call is made, or
#: who pays for it. ``betas`` and ``extra_body`` belong to a request.
RESERVED = frozenset(
    {
        "block",
        "extra_headers",
        "extra_query",
        "priority",
        "raw",
        "self",
        "stream",
        "tenant",
        "timeout",
        "user_profile_id",
        "workspace_id",
    }
)


@dataclass(frozen=True)
class RawLine:
    """The bytes of one line that is not empty.

    A ``cached_property`` on a frozen dataclass: the digest is computed only for lines without an
    id.
    """

    #: From 1, empty lines counted.
    number: int
    #: Without byte order mark and surrounding white space; cut off if ``too_long``.
    data: bytes
    too_long: bool = False

    @cached_property
    def own_id(self) -> str:
        """The id of a line that has none: the same in every run over the same file."""
        return f"line-{self.number}-{hashlib.sha256(self.data).hexdigest()[:8]}"


@dataclass(frozen=True)
class LineRequest:
    """A line that can be sent."""

    number: int
    custom_id: str
    #: The Messages request.
    params: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """A digest of the request, whatever the order of its fields."""
        text = json.dumps(self.params, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Problem:
    """A line that cannot be sent, and the reason, in words for the user."""

    number: int
    custom_id: str
    reason: str
    #: An option of the command would fix it, in all lines with the same problem.
    fixed_by_option: bool = False


Line = Union[LineRequest, Problem]


class _Unusable(Exception):
    """Why a line cannot be sent.

    Raised and caught within this module; users see a :class:`Problem`.
    """

    fixed_by_option = False


class _Incomplete(_Unusable):
    """Why a line cannot be sent: a field is missing that an option of the command can fill in."""

    fixed_by_option = True


def read_lines(stream: BinaryIO, fill: Mapping[str, Any]) -> Iterator[Line]:
    """Parse every line of *stream* that is not empty.

    *fill* has default values for fields that requests may leave out: ``model``, ``max_tokens``. A
    ``custom_id`` belongs to the first line that has it; a later one gets an id of its own, so that
    its error does not replace the first one's answer.
    """
    taken: set[str] = set()
    for raw in raw_lines(stream):
        line = parse(raw, fill)
        if line.custom_id in taken:
            reason = f"custom_id {line.custom_id!r} was used by an earlier line"
            yield Problem(raw.number, raw.own_id, reason)
            continue
        # An id made from number and content is unique; a million of them would fill the memory.
        if line.custom_id != raw.own_id:
            taken.add(line.custom_id)
        yield line


def raw_lines(stream: BinaryIO) -> Iterator[RawLine]:
    """Lines that are not empty, with at most :data:`LINE_LIMIT` bytes of a line in memory.

    The rest of a longer line is read and discarded, so that it is not taken for further lines.
    """
    number = 0
    while True:
        data = stream.readline(LINE_LIMIT + 1)
        if not data:
            return
        number += 1
        too_long = len(data) > LINE_LIMIT and not data.endswith(b"\n")
        if too_long:
            _skip_line(stream)
        data = data.strip(_BLANK)
        if data.startswith(_BOM):
            data = data[len(_BOM) :].strip(_BLANK)
        if data:
            yield RawLine(number, data, too_long)


def count_lines(stream: BinaryIO) -> Optional[int]:
    """The number of lines that follow; None if they cannot be counted without reading them.

    A pipe cannot be rewound. A file is read twice, and is afterwards at the place where it was.
    """
    if not stream.seekable():
        return None
    here = stream.tell()
    try:
        return sum(1 for _ in raw_lines(stream))
    finally:
        stream.seek(here)


def _skip_line(stream: BinaryIO) -> None:
    rest = stream.readline(_CHUNK)
    while rest and not rest.endswith(b"\n"):
        rest = stream.readline(_CHUNK)


def parse(raw: RawLine, fill: Mapping[str, Any]) -> Line:
    """Parse one line. Does not raise for a bad line: the result is then a :class:`Problem`.

    ``"stream": false`` is the default and is removed; a stream has no place in an output of lines.
    """
    custom_id: Optional[str] = None
    try:
        value = _decode(raw)
        custom_id = _custom_id(value)
        params = {**fill, **_params(value)}
        if params.get("stream") is False:
            del params["stream"]
        _check(params)
    except _Unusable as reason:
        own_id = custom_id or raw.own_id
        return Problem(raw.number, own_id, str(reason), reason.fixed_by_option)
    return LineRequest(raw.number, custom_id or raw.own_id, params)


def _decode(raw: RawLine) -> Any:
    """The JSON value of a line.

    Its errors name the cause a user can repair: encoding, quotes, column.
    """
    if raw.too_long:
        raise _Unusable(f"longer than {LINE_LIMIT // 1024 // 1024} MB")
    # UTF-16 of ASCII text is valid UTF-8 with NULs; the JSON error would hide the cause.
    if b"\0" in raw.data or raw.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unusable("not UTF-8 but, it seems, UTF-16; convert the file (iconv -f UTF-16)")
    try:
        return json.loads(raw.data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        byte = raw.data[error.start]
        raise _Unusable(f"not UTF-8: byte 0x{byte:02x} at column {error.start + 1}") from None
    except json.JSONDecodeError as error:
        hint = "; a bare prompt needs quotes, as a JSON string" if error.pos == 0 else ""
        raise _Unusable(f"not JSON: {error.msg} (column {error.colno}){hint}") from None
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"not JSON that can be read: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise _Unusable(f"not JSON: {name} is not a JSON number")


def _custom_id(value: Any) -> Optional[str]:
    """The line's own id; None if it has none. An id that is not a string is an error."""
    if not isinstance(value, dict) or "custom_id" not in value:
        return None
    custom_id = value["custom_id"]
    if not isinstance(custom_id, str) or not custom_id:
        raise _Unusable("custom_id must be a string that is not empty")
    return custom_id


def _params(value: Any) -> dict[str, Any]:
    """The Messages request in *value*, whichever of the four forms it has.

    Not checked any further.
    """
    if isinstance(value, str):
        return _prompt(value)
    if not isinstance(value, dict):
        raise _Unusable(f"neither a prompt nor a request but {_kind(value)}")
    if "params" in value:
        params = value["params"]
        if not isinstance(params, dict):
            raise _Unusable(f"params must be an object, not {_kind(params)}")
        return dict(params)
    fields = {name: field for name, field in value.items() if name != "custom_id"}
    if "prompt" not in fields:
        return fields
    if "messages" in fields:
        raise _Unusable("both prompt and messages; one of them is enough")
    return {**_prompt(fields.pop("prompt")), **fields}


def _prompt(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise _Unusable(f"prompt must be a string, not {_kind(text)}")
    if not text.strip():
        raise _Unusable("the prompt is empty")
    return {"messages": [{"role": "user", "content": text}]}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return kinds.get(type(value), "a number")


def _check(params: Mapping[str, Any]) -> None:
    """Raise :class:`_Unusable` for what submit() could not take, or must not take from a file."""
    if "messages" not in params:
        raise _Unusable("no messages")
    if missing := [name for name in ("model", "max_tokens") if name not in params]:
        flags = " and ".join("--" + name.replace("_", "-") for name in missing)
        them = "them" if missing[1:] else "it"
        raise _Incomplete(f"no {' and no '.join(missing)}; give {them} here or as {flags}")
    for name in RESERVED.intersection(params):
        raise _Unusable(f"{name} cannot be set in a line")


class LineErrors:
    """Reports lines that cannot be sent, but never thousands of them. Owned by one thread.

    A problem that an option would fix is reported for the first line that has it, and counted for
    the others; of all other problems at most :data:`REPORTED_LINES` are reported.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reported = 0
        # Problems that an option would fix: the first line with each, and the number of later ones.
        self._first: dict[str, int] = {}
        self._more: Counter[str] = Counter()

    def report(self, number: int, reason: str, fixed_by_option: bool) -> None:
        """Report one line and its problem."""
        if fixed_by_option:
            if reason in self._first:
                self._more[reason] += 1
                return
            self._first[reason] = number
        self._reported += 1
        if self._reported <= REPORTED_LINES:
            self._say(f"line {number}: {reason}")
        elif self._reported == REPORTED_LINES + 1:
            self._say("there are more such lines; the output has the reason of each")

    def sum_up(self) -> None:
        """Report the number of lines whose problem was reported once for all."""
        for reason, count in self._more.items():
            lines = "line" if count == 1 else "lines"
            self._say(f"{count:,} more {lines} like line {self._first[reason]}")

"""Header fields: reading them fast, checking them before they are sent, and merging them.

The check prevents two things. A line break in a value would let a caller's text add fields of its
own to the request. And ``requests`` prints the whole value of a field that it refuses: where that
is a key with a line break from a file, the key would stand in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.errors import InvalidCall

#: What a header's name consists of (RFC 9110, token).
FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RawHeaders(dict[str, str]):
    """The raw fields of an httpx response, looked up by lower-case names.

    Several names are looked up in each response: httpx's own mapping decodes all fields for each
    look-up, this one once. Of a field that comes twice, the last one counts.
    """

    __slots__ = ()

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__([(str(n, "latin-1").lower(), str(v, "latin-1")) for n, v in fields])


def header_flaw(headers: Any) -> Optional[str]:
    """A description of what is wrong with *headers*, without values; None if they can be sent."""
    if not isinstance(headers, Mapping):
        return "must be a mapping of names to values"
    for name, value in headers.items():
        if not isinstance(name, str) or not FIELD_NAME.fullmatch(name):
            return "holds a name that is none"
        if not isinstance(value, str) or not _can_be_sent(value):
            return f"holds a value for {name} that cannot be sent: text without line breaks only"
    return None


# What http.client can write: latin-1 without control characters, except for tabs.
def _can_be_sent(value: str) -> bool:
    return all(" " <= character <= "\xff" or character == "\t" for character in value)


def checked_headers(headers: Any) -> Optional[dict[str, Optional[str]]]:
    """A copy of *headers*; with None for a field that is to be left out, which is the SDK's omit.

    Raises :class:`InvalidCall`, without a value in it.
    """
    if is_not_given(headers):
        return None
    if not isinstance(headers, Mapping):
        raise InvalidCall("extra_headers must be a mapping of names to values")
    given = {name: value for name, value in headers.items() if not is_not_given(value)}
    flaw = header_flaw(given)
    if flaw is not None:
        raise InvalidCall(f"extra_headers {flaw}")
    left_out = headers.keys() - given.keys()
    return {**given, **{name: None for name in left_out if isinstance(name, str)}}


def brings_own_proof(headers: Optional[Mapping[str, Optional[str]]]) -> bool:
    """Whether *headers* hold a key or token, so that a request may be another account's.

    Then its refusal does not suspend this account, and its answer does not end a suspension.
    """
    return any(name.lower() in ("x-api-key", "authorization") for name in headers or ())


def merged_headers(ours: Mapping[str, str], theirs: Mapping[str, Optional[str]]) -> dict[str, str]:
    """The fields of both; where both have a field, *theirs*. Names are compared in any case.

    A field that is None in *theirs* is left out.
    """
    named = {name.lower() for name in theirs}
    kept = {name: value for name, value in ours.items() if name.lower() not in named}
    return kept | {name: value for name, value in theirs.items() if value is not None}

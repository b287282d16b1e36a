"""Short texts for errors, in exceptions and logs.

urllib3 nests up to four exceptions, each with the repr of the one inside, host, port and object
address: three lines to say "connection refused".
"""

from __future__ import annotations

from http.client import IncompleteRead
from typing import Any

#: Characters of an error's text that are shown. The rest may be part of a body: http.client quotes
#: a status line that it cannot read, whatever that is.
LONGEST_TEXT = 200


def readable(text: str) -> str:
    """A stranger's text without control characters, which a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)


def describe(error: BaseException) -> str:
    """The innermost error in a few words, without urllib3's object addresses and nested reprs."""
    inner = getattr(error, "original_error", None) or getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        last = error.args[-1] if error.args else None
        inner = last if isinstance(last, BaseException) else None
    if inner is not None:
        return describe(inner)
    if isinstance(error, IncompleteRead):  # its arguments hold the part of the body that came
        came: Any = error.partial  # urllib3 has its length there
        return f"{type(error).__name__}: {came if isinstance(came, int) else len(came)} bytes came"
    text = str(error.args[-1]) if error.args else ""
    # "<…HTTPSConnection object at 0x…>: Failed to …", or "HTTPSConnection(host=…): Failed to …".
    for end_of_repr in (">: ", "): "):
        text = text.rpartition(end_of_repr)[2] or text
    text = readable(text[:LONGEST_TEXT])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""The beginning of a JSON text, read as far as its values are whole.

For SDKs before 0.27, which bring no ``jiter``.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: A string, maybe cut; a bracket or separator; what stands between them: a number or a name.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[][{}:,]|[^][{}:,"\s]+', re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}


def read_beginning(text: str) -> Any:
    """The value that *text* begins, without what was cut; raises ValueError if there is none."""
    # Open brackets are a chain, (innermost, the rest): each place where a value ends keeps its own.
    is_open: Any = ()
    in_key, wholes = False, list[tuple[int, Any]]()
    for token in _TOKENS.finditer(text):
        kind = token[0][0]
        if kind == '"' and (len(token[0]) == 1 or token[0][-1] != '"'):
            break
        if kind in _CLOSING:
            is_open = (_CLOSING[kind], is_open)
        elif kind in "]}" and is_open:
            is_open = is_open[1]
        if kind in "{,:":
            in_key = kind != ":" and is_open[:1] == ("}",)
        if kind in "[{]}" or (kind not in ",:" and not in_key):
            wholes.append((token.end(), is_open))
    return _first_readable(text, wholes[-2:])


def _first_readable(text: str, wholes: list[tuple[int, Any]]) -> Any:
    # The last value may be a number or a name that was cut: then it ends before that one.
    for end, is_open in reversed(wholes):
        closing = []
        while is_open:
            innermost, is_open = is_open
            closing.append(innermost)
        try:
            return json.loads(text[:end] + "".join(closing))
        except (ValueError, RecursionError):
            continue
    raise ValueError("no value is whole")

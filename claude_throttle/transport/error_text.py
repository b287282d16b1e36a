"""Short texts for connection errors."""

from __future__ import annotations


def describe(error: BaseException) -> str:
    """The innermost error in a few words, without urllib3's object addresses and nested reprs."""
    inner = getattr(error, "original_error", None) or getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        last = error.args[-1] if error.args else None
        inner = last if isinstance(last, BaseException) else None
    if inner is not None:
        return describe(inner)
    text = str(error.args[-1]) if error.args else ""
    for end_of_repr in (">: ", "): "):
        text = text.rpartition(end_of_repr)[2] or text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

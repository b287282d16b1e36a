"""What calls raised in one web request, also where its view caught it and answered with a 500."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Optional

#: Errors that are kept of one context: the last ones.
MOST_ERRORS = 8


class ErrorWatch:
    """Keeps the last errors that calls raise in this context until they are collected.

    For web frameworks: a view may catch our exception and return a 500, whose reason nobody could
    tell. Errors are raised in the thread that asks for a result, so those of other requests are
    never among them; a thread that the view starts has a context of its own.
    """

    __slots__ = ("errors",)

    def __init__(self) -> None:
        #: Exceptions, and :class:`claude_throttle.ApiRefusal` where other code makes the exception.
        self.errors: Optional[list[object]] = []
        _current.set(self)

    def collect(self) -> list[object]:
        """Return the errors, the last one first, and keep no more."""
        # A context that was copied meanwhile may still refer to this.
        errors, self.errors = self.errors or [], None
        _current.set(None)
        return errors[::-1]


_current: ContextVar[Optional[ErrorWatch]] = ContextVar("claude_throttle_errors", default=None)


def errors_are_watched() -> bool:
    """Whether anything is to be noted here: a cheap look."""
    return _current.get() is not None


def note_error(error: object) -> None:
    """*error* is about to reach the code that called."""
    watch = _current.get()
    errors = None if watch is None else watch.errors
    if errors is not None:
        errors.append(error)
        del errors[:-MOST_ERRORS]


def take_back_error() -> None:
    """The last error was not the end: the request that it ended is sent again."""
    watch = _current.get()
    if watch is not None and watch.errors:
        watch.errors.pop()

"""At the end of the interpreter: finish what was submitted, as ``concurrent.futures`` does.

After Ctrl-C the program does not wait for the answers any more: what is pending is cancelled.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import weakref
from functools import partial
from typing import Any, Callable, Optional, Protocol

from claude_throttle.core.threads.clock import SYSTEM_CLOCK


class Closable(Protocol):
    """An object that is finished and closed when the interpreter ends."""

    #: The process it lives in; a forked child has copies of its parent's.
    pid: int

    def finish(self) -> None:
        """Wait until nothing is left to do; it may still be used afterwards."""
        ...

    def close(self, timeout: Optional[float], cancel_pending: bool) -> None:
        """End everything, within *timeout* seconds if given."""
        ...


logger = logging.getLogger("claude_throttle")

_open: weakref.WeakSet[Any] = weakref.WeakSet()
_registered: list[bool] = []


def finish_at_exit(closable: Closable) -> None:
    """Finish and close *closable* at the end, unless it is gone by then."""
    _open.add(closable)
    if not _registered:
        _registered.append(True)
        # Twice. First before the interpreter waits for threads, as long as new ones can be
        # started (concurrent.futures uses the same hook, 3.9 and later) ...
        register: Callable[..., Any] = getattr(threading, "_register_atexit", atexit.register)
        with contextlib.suppress(RuntimeError):  # it is ending already
            register(_finish)
        # ... and once more when the others are done: they may have called until then.
        atexit.register(_close)


def forget(closable: Closable) -> None:
    """*closable* was closed: there is nothing left to finish."""
    _open.discard(closable)


def close_all(timeout: float) -> None:
    """Close every throttler of this process, within *timeout* seconds for all of them together.

    Python's exit hooks do this in most programs. A process that ends without them, such as a child
    of Celery or of ``multiprocessing``, calls it last, or its unfinished calls are lost. Calls that
    are not finished in time raise :class:`claude_throttle.Closed`. Call it from any thread::

        claude_throttle.close_all(5.0)
        os._exit(0)
    """
    give_up_at = SYSTEM_CLOCK.monotonic() + timeout
    for closable in _mine():
        left = max(0.0, give_up_at - SYSTEM_CLOCK.monotonic())
        _do(closable, partial(closable.close, left, False))
        forget(closable)


def _finish() -> None:
    for closable in _mine():
        _do(closable, closable.finish)


def _close() -> None:
    for closable in _mine():
        _do(closable, partial(closable.close, None, False))


def _mine() -> list[Any]:
    return [closable for closable in _open if closable.pid == os.getpid()]


def _do(closable: Closable, end: Callable[[], None]) -> None:
    # Set by the interpreter when it prints an unhandled exception, before this runs.
    last = getattr(sys, "last_type", None)
    try:
        if isinstance(last, type) and issubclass(last, KeyboardInterrupt):
            raise KeyboardInterrupt
        end()
    except KeyboardInterrupt:
        logger.warning("interrupted: the Claude calls that were left are cancelled")
        closable.close(0.0, True)
        forget(closable)

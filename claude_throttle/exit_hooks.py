"""At the end of the interpreter: finish what was submitted, as ``concurrent.futures`` does.

After Ctrl-C nobody waits for the answers any more: then what is pending is cancelled.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from typing import Any, Callable, Optional, Protocol


class Closable(Protocol):
    """What has to be closed."""

    #: The process it lives in; a forked child has copies of its parent's.
    pid: int

    def close(self, timeout: Optional[float], cancel_pending: bool) -> None: ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()
_registered: list[bool] = []


def finish_at_exit(closable: Closable) -> None:
    """Close *closable* at the end, unless it is gone by then."""
    _open.add(closable)
    if not _registered:
        _registered.append(True)
        # Before the interpreter waits for threads, where atexit would be too late for some of
        # ours; the same hook that concurrent.futures uses (3.9 and later).
        register: Callable[..., Any] = getattr(threading, "_register_atexit", atexit.register)
        with contextlib.suppress(RuntimeError):  # it is ending already
            register(_finish)


def forget(closable: Closable) -> None:
    """It is closed: there is nothing to finish any more."""
    _open.discard(closable)


def _finish() -> None:
    # Set by the interpreter when it prints an unhandled exception, before this runs.
    interrupted = getattr(sys, "last_type", None)
    for closable in [mine for mine in _open if mine.pid == os.getpid()]:
        if isinstance(interrupted, type) and issubclass(interrupted, KeyboardInterrupt):
            closable.close(0.0, True)
        else:
            _close_unless_interrupted(closable)


def _close_unless_interrupted(closable: Closable) -> None:
    try:
        closable.close(None, False)
    except KeyboardInterrupt:
        closable.close(0.0, True)

"""Closing what the garbage collector found open, in another thread.

The collector may run anywhere, under a lock of ours, of urllib3's, of any library; a finaliser that
takes one may wait without end. So it only notes what is to be closed, which takes none.
"""

from __future__ import annotations

import _thread
import logging
from collections import deque
from typing import Protocol

from claude_throttle.core.threads.thread_pool import ThreadPool

logger = logging.getLogger("claude_throttle")


class DroppedResource(Protocol):
    """A resource that was not closed by its user. Closing it again must do nothing."""

    def close(self) -> None:
        """Close it; may take locks."""
        ...


class DeferredCloser:
    """Closes what was dropped, in a sender thread. Thread-safe, without a lock."""

    def __init__(self, thread_pool: ThreadPool) -> None:
        self._thread_pool = thread_pool
        self._dropped: deque[DroppedResource] = deque()
        # Popped by the drop() that calls a sender, put back by the sender: single steps, both.
        self._may_start = [True]

    def drop(self, resource: DroppedResource) -> None:
        """Have *resource* closed soon. Takes no lock: the garbage collector may call it.

        If no thread can be started now, it stays noted until the next drop().
        """
        self._dropped.append(resource)
        self._call_sender()

    def _call_sender(self) -> None:
        try:
            self._may_start.pop()
        except IndexError:
            return  # a sender has been called, and will see it
        try:
            # Not by the pool at once: it has a lock, and the thread that holds it may be this one.
            _thread.start_new_thread(self._thread_pool.run, (self._close_all,))
        except RuntimeError:  # no thread can be had now; the next drop() tries again
            self._may_start.append(True)

    def _close_all(self) -> None:
        while self._dropped:
            _close(self._dropped.popleft())
        self._may_start.append(True)
        if self._dropped:  # since the last look, by a drop() that called no sender
            self._call_sender()


def _close(resource: DroppedResource) -> None:
    try:
        resource.close()
    except BaseException:
        logger.exception("what was dropped open could not be closed")

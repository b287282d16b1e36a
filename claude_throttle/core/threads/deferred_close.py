"""What the garbage collector found open: closed in a thread of its own.

The collector may come anywhere, under a lock of ours, of urllib3's, of anybody's; a finaliser that
takes one may wait for ever. So it only puts a note into a mailbox, which takes none.
"""

from __future__ import annotations

import logging
import queue
import threading
from functools import partial
from typing import Optional, Protocol

from claude_throttle.core.threads.mailbox import Mailbox
from claude_throttle.core.threads.thread_pool import ThreadPool

#: Seconds after which the closing thread ends, if nothing is open any more.
IDLE_SECONDS = 5.0

logger = logging.getLogger("claude_throttle")


class DroppedResource(Protocol):
    """What can be closed, once more perhaps."""

    def close(self) -> None: ...


class DeferredCloser:
    """Closes what was dropped. Thread-safe."""

    def __init__(self, thread_pool: ThreadPool) -> None:
        self._thread_pool = thread_pool
        self._dropped: Mailbox[Optional[DroppedResource]] = Mailbox()
        # Guards what follows; held for arithmetic only. Reentrant for the same reason as the
        # lane's mutex.
        self._lock = threading.RLock()
        self._open = 0
        self._running = False

    def opened(self) -> None:
        """There is one more that may be dropped."""
        start = False
        try:
            with self._lock:
                self._open += 1
                start, self._running = not self._running, True
            if start:
                self._thread_pool.run(partial(self._close_each, threading.get_ident()))
        except BaseException:  # Ctrl-C: the next one starts it, and two would do no harm
            if start:
                self._running = False
            raise

    def closed(self) -> None:
        """One was closed, by whomever."""
        with self._lock:
            self._open -= 1

    def drop(self, what: DroppedResource) -> None:
        """Have it closed soon. Takes no lock."""
        self._dropped.put(what)

    def stop(self) -> None:
        """Let the thread end now. It comes back when it is needed."""
        self._dropped.put(None)

    def _close_each(self, opener: int) -> None:
        if threading.get_ident() == opener:
            # No thread can be had, and this one has its stream to read. The next one tries again.
            self._running = False
            return
        while True:
            try:
                what = self._dropped.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                what = None
            if what is not None:
                _close(what)
                del what  # or it would be kept until the next one comes
                continue
            with self._lock:
                if not self._open and self._dropped.empty():
                    self._running = False
                    return


def _close(what: DroppedResource) -> None:
    try:
        what.close()
    except BaseException:
        logger.exception("an abandoned stream could not be closed")

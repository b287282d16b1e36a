"""A lock for one process of this machine at a time: a ``flock`` whose wait is bounded.

The SQLite store takes it around each transaction, since SQLite's own lock starves processes for
seconds. A blocking ``flock`` has no timeout: a holder that was stopped (SIGSTOP, a debugger) would
hang all others. So a process that finds it taken tries again every half millisecond. The kernel
keeps no order among those that try: with eight processes that do nothing else, on two cores, the
longest wait is 150 to 340 ms.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Callable, Optional, TypeVar

from claude_throttle.core.threads.clock import SYSTEM_CLOCK

with suppress(ImportError):  # Windows has no fcntl; SqliteStore raises ConfigurationError there.
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

Result = TypeVar("Result")

#: Work that is done while the lock is held; it is called with the instant by which it must end.
Work = Callable[[float], Result]

#: Seconds between two tries.
RETRY_SECONDS = 0.0005


class LockTimedOut(Exception):
    """Raised if another process, or thread, has held the lock for all of the timeout."""


class FileLock:
    """A lock on a file, among processes and among the threads of each. Thread-safe, not reentrant.

    One per process and file. The kernel releases it when its process dies, however that happens. A
    forked child must call :meth:`abandon`, since a ``flock`` belongs to the open file, which parent
    and child share.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._path = path
        self._timeout = timeout_seconds
        # Guards the descriptor, and all that is done under the file's lock. Held while that is
        # waited for: one thread of a process waits for other processes, the rest for that thread.
        self._lock = threading.Lock()
        self._descriptor: Optional[int] = None

    def run_locked(self, work: Work[Result]) -> Result:
        """Do *work* while holding the lock, and return its result.

        Raises :class:`LockTimedOut`, OSError, and what *work* raises.
        """
        deadline = SYSTEM_CLOCK.monotonic() + self._timeout
        if not self._lock.acquire(timeout=self._timeout):
            raise LockTimedOut
        try:
            descriptor = self._descriptor
            if descriptor is None:
                descriptor = self._descriptor = _open(self._path)
            try:
                _acquire(descriptor, deadline)
                return work(deadline)
            finally:
                flock(descriptor, LOCK_UN)
        finally:
            self._lock.release()

    def block(self) -> bool:
        """Let no thread of this process take the lock until :meth:`unblock`, for a fork must not
        copy it while it is held. False if it did not become free in time.
        """
        return self._lock.acquire(timeout=self._timeout)

    def unblock(self) -> None:
        """After :meth:`block` has returned True."""
        self._lock.release()

    def close(self) -> None:
        """Close the file. It is opened anew if the lock is taken after."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def abandon(self) -> None:
        """Close a forked child's copy of the file: it would keep the lock of a parent that died."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def _open(path: str) -> int:
    """Open the file that is locked, or make it. Raises OSError if it is another user's."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        seen = os.fstat(descriptor)
        if seen.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        if seen.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _acquire(descriptor: int, deadline: float) -> None:
    if _try_acquire(descriptor):
        return
    # An event that is never set: with gevent, its wait lets other greenlets run.
    pause = threading.Event()
    while SYSTEM_CLOCK.monotonic() < deadline:
        pause.wait(RETRY_SECONDS)
        if _try_acquire(descriptor):
            return
    raise LockTimedOut


def _try_acquire(descriptor: int) -> bool:
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""One process of this machine at a time: a ``flock`` that nobody waits for longer than agreed.

SQLite's own lock starves processes for seconds; a blocking flock is fair, but knows no timeout, and
a holder that was stopped (SIGSTOP, a debugger) would hang all others. So the caller only looks; if
somebody else has the turn, a deputy thread waits for it, and does the work in its place. Measured
with eight processes flat out on two cores: the longest wait is 30 to 110 ms, where looking again
and again had 150 to 340 ms.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent import futures
from contextlib import suppress
from typing import Any, Callable, Optional, TypeVar

from claude_throttle.core.threads.clock import SYSTEM_CLOCK

with suppress(ImportError):  # Windows has none; SqliteLedger says so.
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

Result = TypeVar("Result")

#: Done in a turn; told the instant by which it must be over.
Work = Callable[[float], Result]

#: What a deputy is sent for, and who waits for it.
Errand = tuple["futures.Future[Any]", Callable[[], Any]]

#: Seconds after which a deputy without an errand ends.
IDLE_SECONDS = 5.0

#: Seconds between two looks where a blocked thread would block all greenlets.
GREEN_SECONDS = 0.0005


class LockTimedOut(Exception):
    """Somebody else has the turn, and does not end it."""


class FileLock:
    """Thread-safe. One per process and file; :meth:`abandon` it in a forked child."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._path = path
        self._timeout = timeout_seconds
        # Guards the descriptor, and all that is done in a turn. Held while a turn is waited for, so
        # that one thread of a process waits for the others' processes, and the rest for that one.
        self._lock = threading.Lock()
        self._descriptor: Optional[int] = None
        self._deputy = LockWaiter(path)

    def take(self, work: Work[Result]) -> Result:
        """What *work* gives. Raises :class:`LockTimedOut`, OSError, and what *work* raises."""
        deadline = SYSTEM_CLOCK.monotonic() + self._timeout
        if not self._lock.acquire(timeout=self._timeout):
            raise LockTimedOut
        try:
            descriptor = self._descriptor
            if descriptor is None:
                descriptor = self._descriptor = _open(self._path)
            try:
                if _is_free(descriptor):
                    return work(deadline)
            finally:
                flock(descriptor, LOCK_UN)
            return self._deputy.take(work, deadline)
        finally:
            self._lock.release()

    def hold(self) -> bool:
        """Let no turn begin until :meth:`detach`, as a fork must copy none. False: did not work."""
        return self._lock.acquire(timeout=self._timeout)

    def detach(self) -> None:
        """After :meth:`hold`."""
        self._lock.release()

    def close(self) -> None:
        """Let go of what is open; opened anew if a turn is taken after."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: a copy of the descriptor would keep the turn of a parent that died."""
        for descriptor in (self._descriptor, self._deputy.descriptor):
            if descriptor is not None:
                os.close(descriptor)


class LockWaiter:
    """Waits for a turn in somebody's place. Its thread lives while there are errands."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Guards the errand, and whether a thread is there to see it. Never held in a turn.
        self._changed = threading.Condition()
        self._errand: Optional[Errand] = None
        self._is_there = False
        #: Its own: two who share one would share the turn.
        self.descriptor: Optional[int] = None

    def take(self, work: Work[Result], deadline: float) -> Result:
        """As :meth:`FileLock.take`; called by one thread at a time."""
        future: futures.Future[Result] = futures.Future()
        try:
            self._send(future, lambda: work(deadline))
            return future.result(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
        except futures.TimeoutError:
            if future.cancel():
                raise LockTimedOut from None
            return future.result()
        finally:
            future.cancel()

    def _send(self, future: futures.Future[Any], work: Callable[[], Any]) -> None:
        with self._changed:
            self._errand = (future, work)
            if self._is_there:
                self._changed.notify()
                return
            # A daemon: it may wait for a stopped process when this one ends.
            threading.Thread(target=self._run, name="claude-throttle turn", daemon=True).start()
            self._is_there = True

    def _run(self) -> None:
        descriptor = None
        try:
            descriptor = self.descriptor = _open(self._path)
            while self._is_wanted():
                _wait(descriptor)
                self._do(descriptor)
        except OSError as error:
            self._give_up(error)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _is_wanted(self) -> bool:
        with self._changed:
            if self._changed.wait_for(lambda: self._errand, IDLE_SECONDS):
                return True
            self._is_there, self.descriptor = False, None
            return False

    def _claim(self) -> Optional[Errand]:
        """The errand, unless whoever sent it has gone."""
        with self._changed:
            errand, self._errand = self._errand, None
        return errand if errand and errand[0].set_running_or_notify_cancel() else None

    def _do(self, descriptor: int) -> None:
        errand, result, failed = None, None, None
        try:
            errand = self._claim()
            if errand is not None:
                result = errand[1]()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            failed = error
        finally:
            flock(descriptor, LOCK_UN)
        if errand is not None:
            _resolve(errand[0], result, failed)

    def _give_up(self, error: OSError) -> None:
        with self._changed:
            self._is_there, self.descriptor = False, None
        errand = self._claim()
        if errand is not None:
            errand[0].set_exception(error)


def _resolve(future: futures.Future[Any], result: Any, failed: Optional[BaseException]) -> None:
    if failed is None:
        future.set_result(result)
    else:
        future.set_exception(failed)


def _open(path: str) -> int:
    """The file that is locked; made if need be."""
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


def _is_free(descriptor: int) -> bool:
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int) -> None:
    if not _is_green():
        flock(descriptor, LOCK_EX)
        return
    pause, seconds = threading.Event(), GREEN_SECONDS
    while not _is_free(descriptor):
        pause.wait(seconds)
        seconds = min(1.1 * seconds, 100 * GREEN_SECONDS)


def _is_green() -> bool:
    """Threads are greenlets of gevent here: one that blocks, blocks all."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")

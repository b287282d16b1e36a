"""Runs blocking work on connections in threads, so that its callers wait for a bounded time.

The Redis store uses it. A socket's timeouts bound neither an answer that comes byte by byte nor the
look-up of a host's name, and a worker that waits for a store holds up all calls of its lane. So
threads of this module do the work, and the callers wait for them, with a timeout.

After the timeout, a connection in use is cut, which ends the work; one that is still being made is
finished for the next caller, or a slow network would never get one.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Optional

from claude_throttle.core.threads.thread_pool import ThreadPool

#: Seconds for which no further work is begun while a connection is being made whose caller has
#: given up. Otherwise each try with a server that does not answer would leave one more thread.
GIVE_UP_SECONDS = 5.0


class TimedTask:
    """One piece of work, and the connection that it uses. Thread-safe: two threads share it.

    The caller waits for ``in_progress`` and may give up; the thread that works reports connections.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.result: Any = None
        self.error: Optional[BaseException] = None
        # Held while the work goes on; the caller waits for it.
        self.in_progress = threading.Lock()
        self.in_progress.acquire()
        # Guards what follows. Held for assignments, and to shut down a socket.
        self._lock = threading.Lock()
        self._connection: Any = None
        self._is_connected = False
        self._has_caller = True

    def connecting(self, connection: Any) -> None:
        """Note a connection that is being made.

        A timeout does not cut it off, since the next caller uses it.
        """
        self._connection = connection

    def connected(self, connection: Any) -> None:
        """Note that the connection is used now. Raises ``socket.timeout`` if its caller gave up."""
        with self._lock:
            if not self._has_caller:
                raise socket.timeout("no connection yet")
            self._connection, self._is_connected = connection, True

    def release(self) -> None:
        """Note that the connection is not used any more, so that a timeout does not cut it."""
        with self._lock:
            self._connection = None

    def give_up(self) -> bool:
        """End the use of a connection, for a caller that has given up.

        True if there was no connection yet, so that it is still being made.
        """
        with self._lock:
            self._has_caller = False
            if self._is_connected:
                self._cut_off_locked()
            return not self._is_connected

    def abort(self) -> None:
        """End the making of a connection, too, unless that looks up a name, which nothing ends."""
        with self._lock:
            self._cut_off_locked()

    def _cut_off_locked(self) -> None:
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):  # not connected any more
                sock.shutdown(socket.SHUT_RDWR)


class TimeLimiter:
    """Runs work in threads of its own, for callers with a timeout. Thread-safe.

    One per process; threads start with the first call. *monotonic* is a clock in seconds.
    """

    def __init__(self, thread_name: str, monotonic: Callable[[], float]) -> None:
        self._threads = ThreadPool(thread_name)
        self._monotonic = monotonic
        # Guards the set. Held for a look.
        self._lock = threading.Lock()
        #: Connections that are being made although no caller waits for them any more.
        self._late: set[TimedTask] = set()

    def call(self, work: Callable[[TimedTask], Any], seconds: float) -> Any:
        """Run *work* in a thread and return its result, or raise its exception.

        Raises ``socket.timeout`` after *seconds*, and at once while a connection is late.
        """
        now = self._monotonic()
        self._raise_if_stuck(now)
        task = TimedTask(now)
        self._threads.run(partial(self._run, work, task, threading.get_ident()))
        if not task.in_progress.acquire(timeout=seconds):
            self._give_up(task)
        if task.error is not None:
            raise task.error
        return task.result

    def shut_down(self) -> None:
        """Let idle threads end."""
        self._threads.stop()

    # Under the lock it is checked again whether the work goes on: it may just have ended, and would
    # then stand in _late without ever being removed.
    def _give_up(self, task: TimedTask) -> None:
        if not task.give_up():
            raise socket.timeout("time is up")
        with self._lock:
            if task.in_progress.locked():
                self._late.add(task)
        raise socket.timeout("no connection yet")

    def _run(self, work: Callable[[TimedTask], Any], task: TimedTask, caller: int) -> None:
        try:
            # A pool that can start no thread runs the work in its caller, which would never end
            # waiting for itself.
            if threading.get_ident() == caller:
                raise RuntimeError("can't start new thread")
            task.result = work(task)
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            task.error = error
        with self._lock:
            task.in_progress.release()
            self._late.discard(task)

    def _raise_if_stuck(self, now: float) -> None:
        """Raise ``socket.timeout`` while a connection is late; abort it after GIVE_UP_SECONDS."""
        if not self._late:
            return
        with self._lock:
            if any(now - task.began < GIVE_UP_SECONDS for task in self._late):
                raise socket.timeout("no connection yet")
            stuck, self._late = self._late, set()
        for task in stuck:
            task.abort()

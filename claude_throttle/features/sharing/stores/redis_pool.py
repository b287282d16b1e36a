"""Connections to one server: those that stand idle, and the one that is being made."""

from __future__ import annotations

import socket
import threading
from typing import Any, Callable, Optional

from claude_throttle.features.sharing.stores.redis_protocol import Left, RespConnection

#: Seconds after which nobody waits any more for a connection being made, and another is begun: a
#: name that is looked up in vain, a Sentinel that says nothing.
GIVE_UP_SECONDS = 5.0


class DialAttempt:
    """A connection being made."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.done = False
        self.error: Optional[BaseException] = None


class ConnectionPool:
    """Thread-safe. One connection for each thread that asks at the same time, made when needed.

    *dial* returns a connection of the library's. It runs in a thread of its own, because a name
    that is looked up can block for half a minute and no time-out ends that; who waits, waits no
    longer than it wants to, and finds the connection there the next time.
    """

    def __init__(self, dial: Callable[[], Any], monotonic: Callable[[], float]) -> None:
        self._dial = dial
        self._monotonic = monotonic
        # Guards all below. Never held while dialling or asking.
        self._condition = threading.Condition()
        self._idle: list[RespConnection] = []
        self._attempt: Optional[DialAttempt] = None
        self._closed = False

    def take(self, left: Left) -> RespConnection:
        """A connection for one call; to be given back only if that ended well."""
        while True:
            line, attempt, mine = self._idle_or_attempt()
            if line is not None and line.is_quiet():
                return line
            if line is not None:
                line.close()
            elif attempt is not None:
                if mine:
                    self._begin(attempt)
                self._wait_for(attempt, left)

    def release(self, line: RespConnection) -> None:
        """For the next call."""
        with self._condition:
            if not self._closed:
                self._idle.append(line)
                return
        line.close()

    def hang_up(self) -> None:
        """Close what is idle: after a failure, all of it goes to the wrong place or nowhere."""
        with self._condition:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def close(self) -> None:
        """And whatever comes back, or is being made."""
        with self._condition:
            self._closed = True
        self.hang_up()

    def _idle_or_attempt(self) -> tuple[Optional[RespConnection], Optional[DialAttempt], bool]:
        """A connection, else the attempt to wait for, and whether the caller is to begin it."""
        with self._condition:
            if self._closed:
                raise ConnectionAbortedError("it is closed")
            if self._idle:
                return self._idle.pop(), None, False
            now = self._monotonic()
            mine = self._attempt is None or now - self._attempt.began > GIVE_UP_SECONDS
            if mine:
                self._attempt = DialAttempt(now)
            return None, self._attempt, mine

    def _begin(self, attempt: DialAttempt) -> None:
        name = "claude-throttle-redis"
        thread = threading.Thread(target=self._make, args=(attempt,), name=name, daemon=True)
        try:
            thread.start()
        except BaseException as error:  # no more threads, or the interpreter ends
            self._end(attempt, error)
            raise

    def _make(self, attempt: DialAttempt) -> None:
        try:
            line = RespConnection(self._dial())
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
            self._end(attempt, error)
        else:
            self.release(line)
            self._end(attempt, None)

    def _end(self, attempt: DialAttempt, error: Optional[BaseException]) -> None:
        with self._condition:
            attempt.done, attempt.error = True, error
            if self._attempt is attempt:
                self._attempt = None
            self._condition.notify_all()

    def _wait_for(self, attempt: DialAttempt, left: Left) -> None:
        with self._condition:
            # An older attempt may end first, and well.
            while not attempt.done and not self._idle:
                if not self._condition.wait(left()):
                    raise socket.timeout("no connection yet")
            if attempt.error is not None and not self._idle:
                raise attempt.error

"""What travels between us and a Redis: its protocol (RESP 2), over an established connection."""

from __future__ import annotations

import os
import select
import socket
import weakref
from typing import Any, Callable

from claude_throttle.core.threads.fork import dead_end

#: Seconds that are left of a call; raises ``socket.timeout`` when there are none.
Left = Callable[[], float]

CHUNK_BYTES = 65536


class CommandRefused(Exception):
    """The server answered with an error, such as ``OOM command not allowed``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        #: Its first word, in capitals.
        self.code = text.split(" ", 1)[0]


class ProtocolError(Exception):
    """The server answered something that is no answer."""


def packed(*parts: bytes) -> bytes:
    """Words of a command as they travel."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def command(*parts: bytes) -> bytes:
    """A whole command as it travels."""
    return b"*%d\r\n%b" % (len(parts), packed(*parts))


class RespConnection:
    """One established connection of the library's. For one thread at a time.

    We read from its socket ourselves: the library's time-outs are per read, so that an answer which
    trickles would take for ever.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket = connection._sock
        self._data = b""
        self._at = 0
        self._used = False
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._pid = os.getpid()
        _everyone.add(self)

    def ask(self, asked: bytes, left: Left, answers: int = 1) -> list[Any]:
        """Send, and return so many answers. Whoever gets anything but a Refused must close it."""
        if self._data:
            raise ProtocolError("more answers than questions")
        self._used = True
        self._socket.settimeout(left())
        self._socket.sendall(asked)
        found = [self._answer(left) for _ in range(answers)]
        if self._at != len(self._data):
            raise ProtocolError("more answers than questions")
        self._data, self._at = b"", 0
        return found

    def is_quiet(self) -> bool:
        """Whether nothing came that nobody asked for: the end of it, or a late answer."""
        # TLS sends tickets after the handshake; the first answer takes them along.
        return not self._used or not self._poll.poll(0)

    def close(self) -> None:
        """Let go of the socket."""
        self._connection.disconnect()

    def cut_off(self, dead: int) -> None:
        """In a forked child: put *dead* in the place of the parent's descriptor."""
        descriptor = self._socket.fileno()
        if self._pid != os.getpid() and descriptor >= 0:
            os.dup2(dead, descriptor, inheritable=False)

    def _answer(self, left: Left) -> Any:
        line = self._line(left)
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._exactly(int(rest), left)
        if kind == b"*":
            return [self._answer(left) for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            self._data, self._at = self._data[self._at :], 0
            raise CommandRefused(rest.decode("utf-8", "replace"))
        raise ProtocolError(f"{line[:20]!r}")

    def _line(self, left: Left) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        while end < 0:
            self._more(left)
            end = self._data.find(b"\r\n", self._at)
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _exactly(self, length: int, left: Left) -> bytes | None:
        if length < 0:
            return None
        end = self._at + length
        while len(self._data) < end + 2:
            self._more(left)
        found = self._data[self._at : end]
        self._at = end + 2
        return found

    def _more(self, left: Left) -> None:
        self._socket.settimeout(left())
        chunk = self._socket.recv(CHUNK_BYTES)
        if not chunk:
            raise ConnectionResetError("the server closed the connection")
        self._data += chunk


#: Weakly: those that are open, and some that were.
_everyone: weakref.WeakSet[RespConnection] = weakref.WeakSet()


def cut_off_inherited() -> None:
    """In a forked child: nobody here can read or write what is the parent's."""
    with dead_end() as dead:
        for line in list(_everyone):
            line.cut_off(dead)


def countdown(monotonic: Callable[[], float], seconds: float) -> Left:
    """What is left of *seconds* from now."""
    until = monotonic() + seconds

    def left() -> float:
        remaining = until - monotonic()
        if remaining <= 0:
            raise socket.timeout("time is up")
        return remaining

    return left

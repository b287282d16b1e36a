"""A TCP proxy that simulates faults of a network, which can be switched at any time.

The fake server can stall or reset one response; this proxy harms any server, Redis included, below
HTTP: delays, lost connections, a peer that swallows everything. It works with plain threads and
sockets, because its users test threads and sockets: the tests of the Redis store and of batches.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

#: ``SO_LINGER`` switched on with zero seconds: closing such a socket sends RST in place of FIN.
RESET = struct.pack("ii", 1, 0)

#: Bytes that are read at once; only the speed depends on it.
CHUNK_BYTES = 65536

#: Its modes, and the meaning of *amount* in each.
MODES = {
    "pass": "nothing",
    "delay": "seconds before each piece is forwarded, in both directions",
    "reset": "nothing; connections end with a reset, new ones, too",
    "refuse": "nothing; connections end with a reset, and none is accepted",
    "cut": "bytes of answers until the connection is closed",
    "drip": "seconds between two bytes of an answer",
    "blackhole": "nothing; connections are accepted, and all data is discarded",
}

#: Modes in which no connection survives: the open ones are reset when the mode is set.
ENDING = ("reset", "refuse")


class FaultProxy:
    """A proxy on a free port of 127.0.0.1 for the server at *host*:*port*.

    It begins in mode ``pass``. :meth:`set` switches at once, for existing connections, too; one
    thread at a time may call it. Leaving its context ends all its connections and threads. The copy
    of a forked child does nothing.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        # Guards all below; notified when the mode changes. Not held during socket operations.
        self._condition = threading.Condition()
        self._mode: tuple[str, float] = ("pass", 0.0)
        self._switched = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def set(self, mode: str, amount: float = 0.0) -> None:
        """Switch to *mode*, for open and for new connections; :data:`MODES` explains *amount*.

        Raises ValueError for an unknown mode. After "refuse" any other mode listens again, on the
        same port, so that clients can reconnect to the address they know.
        """
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; known are {', '.join(MODES)}")
        with self._condition:
            before, self._mode = self._mode[0], (mode, amount)
            self._switched += 1
            self._condition.notify_all()
        if mode == "refuse":
            _end(self._listener, socket.SHUT_RDWR)
            self._listener.close()
        if mode in ENDING:
            self._reset_all()
        if mode != "refuse" and before == "refuse":
            self._listener = _listening(self.port)
            self._start(self._accept, self._listener)

    def close(self) -> None:
        """End all connections; return when all threads have ended. It cannot be used afterwards."""
        self.set("refuse")
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="fault-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        """Connect one client to the server, and start a thread for each direction.

        The mode is read again under the lock: it may have changed since the connection was
        accepted, and a socket that is not in the set by then would escape the reset. If the server
        cannot be reached, the threads notice it and close the client's side.
        """
        server = socket.socket()
        with contextlib.suppress(OSError):
            server.connect(self._server)
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._condition:
            ending = self._mode[0] in ENDING
            if not ending:
                self._open |= {client, server}
        if ending:
            for side in (client, server):
                _reset_on_close(side)
                side.close()
            return
        self._start(self._pump, client, server, False)
        self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        """Forward one direction until either side ends, then close the other side, too.

        Every error ends the connection and is not reported: to lose connections is this class's
        purpose.
        """
        forwarded = ForwardedBytes()
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK_BYTES):
                for part in self._parts(piece, forwarded, answers):
                    sink.sendall(part)
        if self._mode[0] not in ENDING:  # there they are reset
            _end(sink, socket.SHUT_RDWR)
            _end(source, socket.SHUT_RDWR)
        with self._condition:
            self._open.discard(source)
        source.close()

    def _parts(self, piece: bytes, forwarded: ForwardedBytes, answers: bool) -> Iterator[bytes]:
        """The parts of *piece* to forward, each when it is due; OSError ends the connection."""
        (mode, amount), switched = self._mode, self._switched
        forwarded.since(switched)
        if mode in ENDING:  # the piece arrived before its connection was closed
            raise ConnectionAbortedError(mode)
        if mode == "delay":
            self._wait(amount, switched)
        elif mode == "drip" and answers:
            for index in range(len(piece)):
                self._wait(amount, switched)
                yield piece[index : index + 1]
            return
        elif mode == "cut" and answers:
            left = int(amount) - forwarded.passed
            forwarded.passed += len(piece)
            yield piece[:left]
            if len(piece) >= left:
                raise ConnectionAbortedError("cut")
            return
        if mode != "blackhole":
            yield piece

    def _wait(self, seconds: float, switched: int) -> None:
        """Wait *seconds*, or until another mode is set."""
        with self._condition:
            self._condition.wait_for(lambda: self._switched != switched, seconds)
            if self._mode[0] in ENDING:
                raise ConnectionAbortedError(self._mode[0])

    def _reset_all(self) -> None:
        """Reset every open connection, without closing a socket that another thread is using.

        A close from this thread would not wake the reader and might hit a reused descriptor.
        Shutting down the reading side wakes it, and it closes the socket itself, which then sends
        the RST.
        """
        with self._condition:
            sides = list(self._open)
        for side in sides:
            _reset_on_close(side)
            _end(side, socket.SHUT_RD)  # wakes the thread that reads it; sends nothing


class ForwardedBytes:
    """Counts bytes that were forwarded since the mode was set. Owned by one direction's thread."""

    def __init__(self) -> None:
        self.passed = 0
        self._switched = 0

    def since(self, switched: int) -> None:
        """Start at 0 if the mode was switched since."""
        if switched != self._switched:
            self._switched, self.passed = switched, 0


def _listening(port: int) -> socket.socket:
    """A listening socket on *port*; 0 is a free one.

    With ``SO_REUSEADDR`` a port can be opened again while old connections to it fade out.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def _reset_on_close(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _end(side: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(how)

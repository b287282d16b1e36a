"""Connections of urllib3 that another thread can end.

Closing a session or a response does not end a read that blocks in another thread (measured with
requests 2.34 and urllib3 2.8); only ``socket.shutdown`` does. So each connection knows the owner of
the request that it carries, and gives it a function that ends that request. Without this, close()
and deadlines would wait for an answer that may take ten minutes.

The trap: connections are reused. An owner that hangs up late must not hit the next request, so the
connection forgets its owner, under a lock, before it goes back to the pool.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from http.client import HTTPException
from typing import Any, Callable, Optional, Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.core.threads.fork import dead_end
from claude_throttle.transport.error_text import describe
from claude_throttle.transport.response_head import FastHeadResponse


class RequestOwner(Protocol):
    """What a connection needs of the request it carries: an Attempt, or a CancellableRequest."""

    def connected(self, hang_up: Callable[[], None]) -> None:
        """The request is about to go over a connection that *hang_up* can end.

        Raises AttemptStopped if it must not.
        """
        ...


class OwnedHeaders(dict[str, str]):
    """Header fields of one request, which carry its owner down to the connection.

    The header fields are the only argument that requests and urllib3, 1.26 and 2, pass on unchanged
    from the adapter to the connection, so the owner travels with them.
    """

    __slots__ = ("owner",)

    def __init__(self, fields: Mapping[str, str], owner: Optional[RequestOwner]) -> None:
        super().__init__(fields)
        self.owner = owner

    def copy(self) -> OwnedHeaders:
        """A copy with the same owner; urllib3 makes one before it adds a proxy's fields."""
        return OwnedHeaders(self, self.owner)


#: Seconds for which a server may read nothing of a request that is being sent. For the answer, the
#: call's own read timeout holds.
SEND_TIMEOUT_SECONDS = 60.0

#: Bytes. Head and body are joined and sent in one piece if both together are at most so large:
#: one system call less, and no packet with the head alone. Larger ones would cost a copy.
MOST_TOGETHER = 65_536

#: All connections of the process, so that a forked child can cut off its copies. Weak: a pool that
#: is dropped takes its connections with it.
_all_connections: weakref.WeakSet[_Owned] = weakref.WeakSet()


class _Owned:
    """A mixin for urllib3's connections, which lets the owner of a request end it.

    One thread sends and reads; any other may hang up. A request whose owner was stopped before it
    has a connection raises AttemptStopped in ``_belong_to``, and sends nothing.
    """

    #: http.client makes one for each response: ours reads the head without the email parser.
    response_class: Any = FastHeadResponse
    sock: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Guards `owner`, so that an owner cannot hang up on the next request. Held for an
        # assignment, or for a shutdown, which does not block.
        self._ownership = threading.Lock()
        self.owner: Optional[RequestOwner] = None
        # Kept apart: http.client drops `sock` when a response ends its connection.
        self._open_sock: Any = None
        # Descriptor of a socket during its TLS handshake, when the object has none; else -1.
        self._connecting = -1
        self._pid = os.getpid()
        #: The socket's timeout in seconds, before expect() changed it.
        self._usual_timeout: Optional[float] = None
        #: Parts of a request that are held back to be sent together.
        self._unsent: Optional[list[bytes]] = None
        _all_connections.add(self)
        super().__init__(*args, **kwargs)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self._belong_to(getattr(kwargs.get("headers"), "owner", None))
        self._unsent = []
        try:
            answer = super().request(*args, **kwargs)  # type: ignore[misc]
            self._send_held()
        finally:
            self._unsent = None
        return answer

    def send(self, data: Any) -> None:
        """Send *data*; head and body of a request go together, in one packet."""
        if self._unsent is None or not isinstance(data, bytes):
            self._send_held()
            super().send(data)  # type: ignore[misc]
            return
        self._unsent.append(data)
        if sum(map(len, self._unsent)) > MOST_TOGETHER:
            self._send_held()  # now, or a body in many pieces would pile up

    def _send_held(self) -> None:
        held, self._unsent = self._unsent, None
        if held:
            together = sum(map(len, held)) <= MOST_TOGETHER
            for data in [b"".join(held)] if together else held:
                super().send(data)  # type: ignore[misc]

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        if self._pid != os.getpid():
            # A greenlet that survived a fork: the connection would be its parent's.
            raise AttemptStopped
        self._connecting = sock.fileno()
        return sock

    def _tunnel(self) -> None:
        try:
            super()._tunnel()  # type: ignore[misc]
        except (HTTPException, ConnectionError) as error:
            # As http.client does where the answer is a refusal: nothing has reached the API.
            self.close()  # type: ignore[attr-defined]
            raise OSError(f"Tunnel connection failed: {describe(error)}") from None

    def connect(self) -> Any:
        try:
            connected = super().connect()  # type: ignore[misc]
        finally:
            self._connecting = -1
        # Longer than the timeout for connecting: a server may take a while to read a large body.
        if self.sock is not None:
            self.sock.settimeout(SEND_TIMEOUT_SECONDS)
        # Its owner may have been stopped meanwhile, with no socket to shut down yet.
        self._belong_to(self.owner)
        return connected

    def _belong_to(self, owner: Optional[RequestOwner]) -> None:
        with self._ownership:
            self.owner = owner
            self._open_sock = self.sock
        if owner is not None:
            owner.connected(partial(self._hang_up, owner))

    def _hang_up(self, owner: RequestOwner) -> None:
        with self._ownership:
            sock = self._open_sock if self.owner is owner else None
            if sock is not None:
                _shut_down(sock)

    def expect(self, seconds: float) -> None:
        """Let a read fail after *seconds* without a byte, until the response ends."""
        with self._ownership:
            sock = self._open_sock
        if sock is not None:
            if self._usual_timeout is None:
                self._usual_timeout = sock.gettimeout()
            sock.settimeout(seconds)

    def cut_off(self, dead: int) -> None:
        """Replace a forked child's copy of its descriptor by *dead*. Sends nothing, takes no lock.

        Closing a descriptor that another thread uses could hit one that is opened meanwhile.
        """
        if self._pid == os.getpid():
            return
        found = [sock.fileno() for sock in (self.sock, self._open_sock) if sock is not None]
        for descriptor in {self._connecting, *found} - {-1}:
            os.dup2(dead, descriptor, inheritable=False)

    def detach(self) -> None:
        """Forget the owner: it must not end, or be kept alive by, a connection in the pool."""
        with self._ownership:
            self.owner = self._open_sock = None
        usual, self._usual_timeout = self._usual_timeout, None
        if usual is not None and self.sock is not None:
            with contextlib.suppress(OSError):  # closed
                self.sock.settimeout(usual)


def _shut_down(sock: Any) -> None:
    """End every read and write of a socket, TLS or not."""
    # Never SSLSocket.shutdown: it drops its TLS layer first, and a sender that writes in that
    # moment would send the key in the clear. TLS within TLS keeps its socket in an attribute.
    plain = sock if isinstance(sock, socket.socket) else getattr(sock, "socket", None)
    if isinstance(plain, socket.socket):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _OwnedHTTPConnection(_Owned, HTTPConnection):
    pass


class _OwnedHTTPSConnection(_Owned, HTTPSConnection):
    pass


class _DetachingPool:
    """A mixin for urllib3's pools: a connection that comes back forgets its owner."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.detach()
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPPool(_DetachingPool, HTTPConnectionPool):
    ConnectionCls = _OwnedHTTPConnection


class _HTTPSPool(_DetachingPool, HTTPSConnectionPool):
    ConnectionCls = _OwnedHTTPSConnection


def renew_locks(manager: urllib3.PoolManager) -> None:
    """Give a forked child's pools new locks: the parent's may be held by a thread it lacks."""
    # urllib3 empties its pools at exit. Private names: the public ones take the lock.
    for pool in list(getattr(manager.pools, "_container", {}).values()):
        waiting = pool.pool
        if hasattr(waiting, "mutex"):  # gevent's queues have none
            waiting.mutex = threading.Lock()
            for name in ("not_empty", "not_full", "all_tasks_done"):
                setattr(waiting, name, threading.Condition(waiting.mutex))


def cut_off_inherited() -> None:
    """Keep a forked child from reading or writing on the parent's connections. Takes no lock.

    A keep-alive session that is used after a fork hands one process the answer of another
    (measured: 11 times in 12 runs of four children).
    """
    with dead_end() as dead:
        for connection in list(_all_connections):
            connection.cut_off(dead)


def use_owned_connections(manager: urllib3.PoolManager) -> None:
    """Make a pool manager create connections that their owners can hang up on."""
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def keepalive_options() -> list[tuple[int, int, int]]:
    """Socket options that keep idle connections open through NAT and load balancers.

    A probe after 60 s, then each 60 s, five of them: as SDK 2.11 sets them, and as the API's errors
    page advises for direct integrations (2026-11).
    """
    options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options

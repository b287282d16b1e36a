"""The proxy does to a connection what it says, from the moment it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from claude_throttle.testing.fault_proxy import MODES, FaultProxy, ForwardedBytes


@pytest.fixture
def echo_port():
    """A server that says everything back."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            while piece := connection.recv(65536):
                connection.sendall(piece)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo_port):
    with FaultProxy("127.0.0.1", echo_port) as proxy:
        yield proxy


@contextlib.contextmanager
def connected(proxy, timeout=10):
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", proxy.port), timeout)
    ) as connection:
        yield connection


def said(connection, count):
    """So many bytes of answer; fewer if the connection ends."""
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            break
        found += piece
    return found


def echoed(connection, text=b"hello"):
    connection.sendall(text)
    return said(connection, len(text))


def test_it_passes_everything_on(proxy):
    """Large pieces, too, and several connections."""
    large = b"0123456789" * 100_000
    with connected(proxy) as one, connected(proxy) as other:
        assert echoed(one) == echoed(other) == b"hello"
        sender = threading.Thread(target=one.sendall, args=(large,))
        sender.start()
        assert said(one, len(large)) == large
        sender.join()


def test_it_passes_the_end_on(proxy):
    """Who shuts down gets the end of the answer."""
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""


def test_a_delay_holds_each_piece(proxy):
    """In both directions."""
    proxy.set("delay", 0.1)
    with connected(proxy) as connection:
        began = time.monotonic()
        assert echoed(connection) == b"hello"
        assert time.monotonic() - began >= 0.2


def test_a_delay_ends_when_the_mode_does(proxy):
    """What is held goes on."""
    proxy.set("delay", 60)
    with connected(proxy) as connection:
        connection.sendall(b"hello")
        proxy.set("pass")
        assert said(connection, 5) == b"hello"


def test_a_reset_ends_what_is_there_and_what_comes(proxy):
    """And passes again afterwards."""
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"
        proxy.set("reset")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionError), connected(proxy) as connection:
        connection.recv(1)
    proxy.set("pass")
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"


def test_what_comes_before_a_reset_is_carried_out_goes_nowhere(proxy):
    """The mode is there a moment before the connection ends; a busy machine makes it long."""
    proxy.set("reset")
    with pytest.raises(ConnectionAbortedError):
        list(proxy._parts(b"late", ForwardedBytes(), answers=False))


def test_refuse_accepts_nobody(proxy):
    """Until told otherwise, then at the same port."""
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"
        proxy.set("refuse")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError), connected(proxy):
        pass
    proxy.set("pass")
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"


def test_a_cut_lets_so_many_bytes_through(proxy):
    """Counted from when it was set, for each connection."""
    with connected(proxy) as connection:
        assert echoed(connection) == b"hello"
        proxy.set("cut", 7)
        assert echoed(connection) == b"hello"
        connection.sendall(b"hello")
        assert said(connection, 5) == b"he"


def test_a_drip_is_slow(proxy):
    """One byte at a time; all of them."""
    proxy.set("drip", 0.02)
    with connected(proxy) as connection:
        began = time.monotonic()
        assert echoed(connection) == b"hello"
        assert time.monotonic() - began >= 0.1


def test_a_black_hole_takes_all(proxy):
    """It accepts and says nothing; later pieces pass."""
    proxy.set("blackhole")
    with connected(proxy, timeout=0.1) as connection:
        with pytest.raises(socket.timeout):
            echoed(connection)
        proxy.set("pass")
        connection.settimeout(10)
        assert echoed(connection, b"again") == b"again"


def test_without_a_server_connections_end(echo_port):
    """As they do where nobody listens behind a balancer."""
    unused = socket.socket()
    unused.bind(("127.0.0.1", 0))
    with contextlib.closing(unused), FaultProxy(*unused.getsockname()) as proxy:
        with connected(proxy) as connection, contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""


def test_close_ends_threads_and_connections(echo_port):
    """Those that wait, too."""
    proxy = FaultProxy("127.0.0.1", echo_port)
    proxy.set("drip", 60)
    with connected(proxy) as connection:
        connection.sendall(b"hello")
        proxy.close()
        # Reset if it had not read everything yet, else closed in order.
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert not [t for t in threading.enumerate() if t.name == "fault-proxy"]


def test_an_unknown_mode_is_refused(proxy):
    """With the known ones named."""
    with pytest.raises(ValueError, match="blackhole"):
        proxy.set("explode")
    assert "explode" not in MODES

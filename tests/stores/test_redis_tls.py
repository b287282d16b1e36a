"""rediss://: the same through TLS, whose records come when nobody asked for any."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.redis import RedisStore
from tests.support.store_requests import LANE, new_account, reserving

CERTIFICATE = str(Path(__file__).with_name("tls.pem"))


@pytest.fixture
def tls_port(start_redis):
    """TLS before a server; tickets are sent after the handshake, as by any server of TLS 1.3."""
    server = start_redis()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve(plain):
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as client:
            with socket.create_connection(("127.0.0.1", server.port)) as behind:
                sides = {client: behind, behind: client}
                while True:
                    ready = [client] if client.pending() else select.select(list(sides), [], [])[0]
                    for side in ready:
                        piece = side.recv(65536)
                        if not piece:
                            return
                        sides[side].sendall(piece)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                accepted.append(plain)
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    accepted = []
    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1], accepted
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("lane_count", [1, 3])
def test_a_connection_is_kept(tls_port, lane_count):
    """One for all calls, although records without an answer arrived on it."""
    port, accepted = tls_port
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={CERTIFICATE}"
    store = RedisStore(url, time.monotonic, timeout_seconds=5)
    account = new_account()
    for number in range(30):
        response = store.transact(account, f"{LANE} {number % lane_count}", reserving())
        assert response.done
    store.close()
    assert store.name == f"rediss://localhost:{port}/0"
    assert len(accepted) == 1


def test_a_certificate_of_nobody_we_know_is_refused(tls_port):
    """In words."""
    store = RedisStore(f"rediss://localhost:{tls_port[0]}/0", time.monotonic, timeout_seconds=5)
    with pytest.raises(StoreFailed, match=r"(?i)certificate"):
        store.read_clock()
    store.close()

"""Starting and stopping the fake server, and bytes no polite client sends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import FakeClaude, Stall
from tests.support.fake_http import (
    ask,
    ask_until,
    body,
    raw_request,
    raw_socket,
    read_answer,
    wait_for_arrivals,
)


def fake_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fake-claude"]


def test_stop_ends_thread_and_connections():
    """Stalled, half sent and idle clients are hung up on, long before they are answered."""
    before = len(fake_threads())
    server = FakeClaude(latency=30.0).start()
    with raw_socket(server) as stalled, raw_socket(server) as slow, raw_socket(server) as idle:
        server.script(Stall())
        stalled.sendall(raw_request(body()))
        wait_for_arrivals(server, 1)
        slow.sendall(raw_request(body()))
        idle.sendall(b"POST /v1/mess")
        wait_for_arrivals(server, 2)
        asked_at = SYSTEM_CLOCK.monotonic()
        server.stop()
        assert SYSTEM_CLOCK.monotonic() - asked_at < 15
        assert len(fake_threads()) == before
        for sock in (stalled, slow, idle):
            assert hung_up(sock)


def hung_up(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_stop_is_harmless_twice_and_before_start():
    """As is releasing nobody."""
    server = FakeClaude()
    server.stop()
    server.release_stalled()
    server.start()
    server.stop()
    server.stop()


def test_the_port_is_known_from_the_start_on_and_kept():
    """A server that was down comes back where it was, with its log."""
    server = FakeClaude()
    with pytest.raises(RuntimeError, match="before start"):
        _ = server.url
    with server:
        url = server.url
        ask(server)
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
    with pytest.raises(OSError):
        ask(server)
    with server:
        assert server.url == url
        assert ask(server).status_code == 200
        assert len(server.arrivals) == 2


def test_a_port_in_use_is_an_oserror():
    """In start(), and no thread is left."""
    with FakeClaude() as server:
        before = len(fake_threads())
        port = int(server.url.rpartition(":")[2])
        other = FakeClaude(port=port)
        with pytest.raises(OSError):
            other.start()
        assert len(fake_threads()) == before
        other.stop()


def test_what_forbids_sockets_is_told_by_start(monkeypatch):
    """As pytest-socket does; start() would wait for a port that never comes."""

    class Blocked(RuntimeError):
        pass

    def refuse():
        raise Blocked

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    before = len(fake_threads())
    with pytest.raises(Blocked):
        FakeClaude().start()
    assert len(fake_threads()) == before


def test_serve_forever_ends_with_stop():
    """From another thread."""
    server = FakeClaude()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for _ in range(1000):
        with contextlib.suppress(RuntimeError):
            assert ask(server).status_code == 200
            break
        thread.join(0.005)
    server.stop()
    thread.join(5)
    assert not thread.is_alive()


CTRL_C = """
import os, signal, sys, threading, traceback
from claude_throttle.testing import FakeClaude

def interrupt():
    names = []
    while not {"serve_forever", "join"} <= set(names):
        names = [f.f_code.co_name for f, _ in traceback.walk_stack(sys._current_frames()[main])]
    os.kill(os.getpid(), signal.SIGINT)

main = threading.get_ident()
threading.Thread(target=interrupt, daemon=True).start()
FakeClaude().serve_forever()
print("stopped")
"""


def test_serve_forever_ends_with_ctrl_c():
    """Quietly, and the program goes on."""
    command = [sys.executable, "-W", "error", "-c", CTRL_C]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_pipelined_requests_are_answered_in_order():
    """One after the other, though they came at once."""
    with FakeClaude(latency=0.001) as server, raw_socket(server) as sock:
        sock.sendall(b"".join(raw_request(body(f"call {number}")) for number in range(50)))
        with sock.makefile("rb") as stream:
            for number in range(50):
                assert b'echo: call %d"' % number in read_answer(stream)[2]
    assert max(arrival.in_flight for arrival in server.arrivals) == 1


def test_a_client_may_send_far_ahead():
    """More than the server cares to keep; nothing is lost."""
    ahead = b"".join([raw_request(body("x" * 2_400_000))] * 10)
    with FakeClaude() as server, raw_socket(server) as sock:
        server.script(Stall())
        sender = threading.Thread(target=sock.sendall, args=(ahead,))
        sender.start()
        wait_for_arrivals(server, 1)
        sender.join(0.1)
        # Kernels hold some megabytes, the server one; the rest waits with the client.
        assert sender.is_alive()
        server.release_stalled()
        with sock.makefile("rb") as stream:
            assert [read_answer(stream)[0] for _ in range(10)] == [200] * 10
        sender.join(5)
    assert [arrival.input_tokens for arrival in server.arrivals] == [600_000] * 10


def test_a_request_may_come_byte_by_byte():
    """It has arrived when it is whole."""
    with FakeClaude() as server, raw_socket(server) as sock:
        for byte in raw_request(body()):
            assert server.arrivals == []
            sock.sendall(bytes([byte]))
        with sock.makefile("rb") as stream:
            assert read_answer(stream)[0] == 200


def test_a_chunked_body_is_read():
    """``requests`` sends generators so."""
    data = raw_request(body()).partition(b"\r\n\r\n")[2]
    head = b"POST /v1/messages HTTP/1.1\r\nx-api-key: k\r\ntransfer-encoding: chunked\r\n\r\n"
    with FakeClaude() as server, raw_socket(server) as sock:
        sock.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        with sock.makefile("rb") as stream:
            assert read_answer(stream)[0] == 200


def test_a_client_that_asks_to_continue_is_told():
    """Before it sends the body."""
    whole = raw_request(body(), extra="expect: 100-continue\r\n")
    head, mark, data = whole.partition(b"\r\n\r\n")
    with FakeClaude() as server, raw_socket(server) as sock, sock.makefile("rb") as stream:
        sock.sendall(head + mark)
        assert stream.readline() + stream.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        assert read_answer(stream)[0] == 200


@pytest.mark.parametrize("nonsense", [b"\r\n\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"G" * 70_000])
def test_nonsense_is_answered_and_others_are_served(nonsense):
    """A client that speaks TLS, or nothing known, does not harm the server."""
    with FakeClaude() as server:
        with raw_socket(server) as sock, sock.makefile("rb") as stream:
            sock.sendall(nonsense)
            status, headers, _ = read_answer(stream)
            assert status in (400, 431)
            assert headers["connection"] == "close"
            assert stream.read() == b""
        assert ask(server).status_code == 200


def test_a_client_that_closes_is_told_goodbye():
    """``Connection: close`` is honoured after the answer."""
    with FakeClaude() as server, raw_socket(server) as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_request(body(), extra="connection: close\r\n"))
        assert read_answer(stream)[0] == 200
        assert stream.read() == b""


def test_a_client_that_leaves_is_forgotten():
    """Its place is free long before its answer would have been complete."""

    def latency(source, fields):
        return 1000.0 if fields["messages"][0]["content"] == "slow" else 0.0

    with FakeClaude(latency=latency, max_concurrency=1) as server:
        with raw_socket(server) as sock:
            sock.sendall(raw_request(body("slow")))
            wait_for_arrivals(server, 1)
            assert ask(server).status_code == 429
        ask_until(server, 200)
        assert server.arrivals[-1].in_flight == 1


def test_an_answer_nobody_waits_for_is_not_begun(caplog):
    """When it would have been due, nothing happens, and nothing is complained about."""
    with FakeClaude(latency=0.05) as server:
        with raw_socket(server) as sock:
            sock.sendall(raw_request(body()))
            wait_for_arrivals(server, 1)
        # Asked later with the same latency: answered after the first would have been.
        assert ask(server).status_code == 200
    assert caplog.records == []


def test_the_shop_window_is_cheap_and_complete():
    """Looking at it does not import asyncio; everything it lists is there."""
    code = (
        "import sys, claude_throttle.testing as testing\n"
        "assert 'asyncio' not in sys.modules\n"
        "assert all(hasattr(testing, name) for name in testing.__all__)\n"
        "assert not hasattr(testing, 'Nothing')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=10)


def test_waiting_until_idle_ends_with_the_last_response():
    """Not before; a stalled response is one that has not ended."""
    with FakeClaude() as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_idle()
        server.script(Stall())
        asked = pool.submit(ask, server)
        wait_for_arrivals(server, 1)
        with pytest.raises(TimeoutError, match=r"still answering after 0.01 s"):
            server.wait_until_idle(0.01)
        waiting = threading.Thread(target=server.wait_until_idle)
        waiting.start()
        server.release_stalled()
        waiting.join(10)
        assert not waiting.is_alive()
        assert asked.result(10).status_code == 200


def test_waiting_until_idle_ends_when_the_server_stops():
    """Its connections are closed then; and a server that does not run is idle."""
    server = FakeClaude()
    server.wait_until_idle()
    with server, raw_socket(server) as sock:
        server.script(Stall())
        sock.sendall(raw_request(body()))
        wait_for_arrivals(server, 1)
        waiting = threading.Thread(target=server.wait_until_idle)
        waiting.start()
        server.stop()
        waiting.join(10)
        assert not waiting.is_alive()
    server.wait_until_idle()

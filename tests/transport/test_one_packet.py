"""Head and body of a request leave together: one packet, and the server looks once."""

from __future__ import annotations

import socket
import threading

import pytest

from claude_throttle import Throttler
from tests.support.calls import ask

ANSWER = b'{"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}'


@pytest.fixture
def feedback():
    """What a server that answers one request found at its first look, and its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    found = []

    def serve():
        connection, _ = listening.accept()
        with connection:
            found.append(connection.recv(1_000_000))
            head, _, body = found[0].partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            received = len(body)
            while received < length:
                received += len(connection.recv(1_000_000))
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
            )

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", found
    server.join(10)
    listening.close()


def send(url, text):
    with Throttler(api_key="sk-ant-none", base_url=url, rpm=6000, max_retries=0) as throttler:
        return throttler.call(**ask(text))


def test_a_request_arrives_in_one_piece(feedback):
    url, found = feedback
    assert send(url, "hello")["type"] == "message"
    assert found[0].startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b'"hello"' in found[0].partition(b"\r\n\r\n")[2]


def test_a_large_one_is_not_copied_for_that(feedback):
    """Its head goes first; all of it arrives."""
    url, found = feedback
    assert send(url, "x" * 200_000)["type"] == "message"
    assert found[0].startswith(b"POST /v1/messages HTTP/1.1\r\n")

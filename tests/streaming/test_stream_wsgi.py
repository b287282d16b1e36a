"""A stream handed to a web server as a generator, as Django's and Flask's responses do."""

from __future__ import annotations

import http.client
import io
import socketserver
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from claude_throttle.testing import Streamed
from tests.support.inside import slots_in_use
from tests.support.streams import ask
from tests.support.waiting import wait_until


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True


class Silent(WSGIRequestHandler):
    """Clients that go away are the point here."""

    def log_message(self, *_args):
        pass


@pytest.fixture
def serve():
    """``serve(app)`` gives the port of a web server."""
    servers = []

    def start(app):
        server = make_server("127.0.0.1", 0, app, ThreadingServer, Silent)
        server.handle_error = lambda *_: None
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def app_of(throttler):
    def texts():
        with throttler.stream(**ask()) as stream:
            for text in stream.text_stream:
                yield text.encode()

    def app(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return texts()

    return app


def get(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    return connection, connection.getresponse()


def test_a_client_reads_it_as_it_is_written(fake, throttle, serve):
    """The first words are there while the last are not."""
    server = fake()
    server.script(Streamed(at=4, wrong="stall"))
    throttler = throttle(server, max_concurrency=1)
    connection, response = get(serve(app_of(throttler)))
    first = response.read(3)
    assert slots_in_use(throttler) == 1
    server.release_stalled()
    assert first + response.read() == b"echo: hello"
    connection.close()
    wait_until(lambda: slots_in_use(throttler) == 0)


def test_a_client_that_goes_away(fake, throttle, serve, monkeypatch):
    """The web server closes the generator with the next piece that cannot be written."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    server = fake()
    server.script(
        *[Streamed(blocks=({"type": "text", "text": "x" * 500_000},), seconds_between=0.05)] * 4
    )
    throttler = throttle(server, max_concurrency=2)
    port = serve(app_of(throttler))
    for _ in range(4):
        connection, response = get(port)
        response.read(3)
        response.close()
        connection.close()
    wait_until(lambda: slots_in_use(throttler) == 0 and throttler.stats().in_flight == 0)
    wait_until(lambda: throttler.stats().succeeded == 4)
    assert throttler.call(raw=True, timeout=10, **ask())

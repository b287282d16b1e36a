"""A web site with nothing but the status page, as a framework would mount it."""

from __future__ import annotations

import contextlib
import json
import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from claude_throttle.contrib import status


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments):
        pass


class Site:
    """Serves /status/ and /status/data.json of *throttlers*; or what a test puts in their place."""

    def __init__(self, throttlers):
        self.throttlers = throttlers
        #: How data.json is answered instead: (status line, headers, body); or a function of it.
        self.instead = None
        #: How often it was asked.
        self.asked = 0
        #: Answer with what was told first, so that a test can compare; and what was told last.
        self.keep = False
        self.last = None
        self.url = ""

    def data(self):
        if self.keep and self.last is not None:
            return self.last
        found = status.data({name: one for name, one in self.throttlers.items() if one is not None})
        self.last = self.instead(found) if callable(self.instead) else found
        return self.last

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/status/":
            start_response("200 OK", list(status.page_headers().items()))
            return [status.page()]
        if path != "/status/data.json":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"no"]
        self.asked += 1
        if isinstance(self.instead, tuple):
            line, headers, body = self.instead
            start_response(line, headers)
            return [body]
        start_response("200 OK", list(status.data_headers().items()))
        return [json.dumps(self.data(), allow_nan=False).encode()]


@contextlib.contextmanager
def serve(throttlers):
    """The site, at ``site.url``."""
    site = Site(throttlers)
    with make_server("127.0.0.1", 0, site, server_class=_Server, handler_class=_Quiet) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/status/"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()

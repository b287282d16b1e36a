"""A proxy that opens no tunnel: nothing has reached the API, and the error says who refused."""

from __future__ import annotations

import gc
import socketserver
import threading

import anthropic
import pytest
from urllib3.exceptions import ProxyError

from claude_throttle import RetryScheduled, Throttler
from claude_throttle.core.domain.feedback import FAULT, SILENCE
from claude_throttle.transport.retry import verdict_on_error
from tests.support.calls import KEY, ask
from tests.support.scripted_attempts import RULES


def refused(status, words="x"):
    return ProxyError(
        "Cannot connect to proxy.", OSError(f"Tunnel connection failed: {status} {words}")
    )


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522])
def test_a_proxy_that_may_work_a_moment_later_is_asked_again(status):
    for rules in (RULES, RULES._replace(resets=False, only_untaken=True)):
        verdict = verdict_on_error(refused(status), rules)
        assert (verdict.retry, verdict.keeps_tokens, verdict.feedback.cause) == (True, False, FAULT)
        assert str(status) in verdict.reason


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 407, 451])
def test_a_proxy_that_says_no_is_not_asked_again(status):
    verdict = verdict_on_error(refused(status), RULES)
    assert (verdict.retry, verdict.keeps_tokens, verdict.feedback.cause) == (False, False, SILENCE)
    assert "proxy" in verdict.reason
    assert str(status) in verdict.reason


@pytest.fixture
def proxy():
    """``proxy(status)``: the URL of one that answers CONNECT so; its ``asked`` counts."""
    running = []

    def start(status):
        class Refusing(socketserver.StreamRequestHandler):
            def handle(self):
                while self.rfile.readline().strip():
                    pass
                server.asked += 1
                whole = b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n"
                self.wfile.write(status if isinstance(status, bytes) else whole % status)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing)
        server.asked = 0
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


# http.client of Python 3.9 leaves the socket of a refused tunnel to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("status", "said", "asked"),
    [
        (407, "407", 1),
        (403, "403", 1),
        (503, "503", 2),
        (b"", "no answer from the proxy", 2),
        (b"SSH-2.0-OpenSSH_9\r\n", "no answer from the proxy", 2),
        (b"<html>Blocked</html>\r\n", "Blocked", 2),
        (b"HTTP/1.1 abc\r\n\r\n", "no answer from the proxy", 2),
    ],
    ids=["407", "403", "503", "none", "another protocol", "a page", "no status"],
)
def test_a_refused_connect_over_the_wire(proxy, monkeypatch, status, said, asked):
    server = proxy(status)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HTTPS_PROXY", url)
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    events = []
    with Throttler(
        api_key=KEY, base_url="https://api.example", max_retries=1, on_event=events.append
    ) as throttler:
        error = throttler.submit(**ask()).exception(10)
    assert isinstance(error, anthropic.APIConnectionError)
    assert said in str(error)
    assert "proxy" in str(error)
    assert f"after {asked} attempt" in str(error)
    assert (server.asked, sum(isinstance(each, RetryScheduled) for each in events)) == (
        asked,
        asked - 1,
    )
    gc.collect()

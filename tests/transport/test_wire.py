"""The wire over real sockets: half answers, proxies, hanging up."""

from __future__ import annotations

import gc
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import anthropic
import pytest

from claude_throttle import BrokenAnswer, Throttler
from claude_throttle.testing import FakeClaude, Ok, Redirect, Reset, Stall, Truncated
from claude_throttle.transport import connections, http
from claude_throttle.transport.adapter import MOST_URLS
from claude_throttle.transport.connections import OwnedHeaders, _Owned, keepalive_options
from claude_throttle.transport.http import TransportSettings
from claude_throttle.transport.retry import RetryRules
from tests.support.inside import adapter_of, transport_of
from tests.support.played_server import ASK, KEY


@pytest.fixture
def begin():
    """Throttlers that are closed in the end."""
    made = []

    def start(base_url, **options):
        made.append(Throttler(api_key=KEY, base_url=base_url, rpm=60_000, **options))
        return made[-1]

    yield start
    for throttler in made:
        throttler.close(timeout=20)


@pytest.fixture
def fake():
    with FakeClaude() as running:
        yield running
        running.release_stalled()


#: Echoed by the server, so that byte 500 of its answer is in the midst of the body.
LONG = [{"role": "user", "content": "x" * 4000}]


def failure(throttler, **more):
    ask = {**ASK, "raw": True, "messages": LONG, **more}
    return throttler.submit(**ask).exception(timeout=60)


@pytest.mark.parametrize("fault", [Truncated(), Reset(after_bytes=500)])
def test_an_answer_that_breaks_off_is_an_error_and_not_sent_again(begin, fake, fault):
    """Half a message is none; it may be billed."""
    fake.script(fault)
    error = failure(begin(fake.url))
    assert isinstance(error, BrokenAnswer)
    assert len(fake.arrivals) == 1


def test_half_an_answer_is_not_in_the_error(begin, fake):
    """Errors are logged; answers must not be."""
    fake.script(Truncated())
    text = str(failure(begin(fake.url)))
    assert "IncompleteRead: " in text
    assert "xxxx" not in text


def test_an_answer_that_stops_in_its_midst_is_a_timeout(begin, fake, monkeypatch):
    """Not a broken answer, not sent again, whatever the caller allowed: it had begun."""
    monkeypatch.setattr(http, "READ_TIMEOUT_SECONDS", 0.2)
    fake.script(Stall(after_bytes=500))
    error = failure(begin(fake.url, retry_read_timeouts=True))
    assert isinstance(error, anthropic.APITimeoutError)
    assert "may be billed" in str(error)
    assert len(fake.arrivals) == 1


def test_an_answer_that_stops_in_its_midst_ends_with_the_call(begin, fake):
    """Its deadline cuts the read; the error is the deadline's."""
    fake.script(Stall(after_bytes=500))
    error = failure(begin(fake.url), timeout=1.0)
    assert isinstance(error, TimeoutError)
    assert error.sent


def test_a_redirect_is_not_followed(begin, fake):
    """Neither with the key nor without."""
    with FakeClaude() as elsewhere:
        fake.script(Redirect(f"{elsewhere.url}/v1/messages"))
        error = failure(begin(fake.url))
        assert isinstance(error, anthropic.APIStatusError)
        assert error.status_code == 307
        assert list(elsewhere.arrivals) == []


def test_a_connection_is_kept_and_kept_alive(begin, fake):
    """Two calls, one connection, with TCP keep-alive against what drops idle ones."""
    fake.script(Ok(), Ok())
    throttler = begin(fake.url)
    for _ in range(2):
        throttler.submit(**ASK, raw=True).result(60)
    (pool,) = _pools(throttler)
    connection = pool._get_conn()
    assert pool.num_connections == 1
    assert connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connection.close()


def _pools(throttler):
    manager = adapter_of(throttler).poolmanager
    return [manager.pools[key] for key in manager.pools.keys()]  # noqa: SIM118 - not a dict


def test_keep_alive_takes_what_the_system_has(monkeypatch):
    """macOS spells one of the options differently."""
    full = keepalive_options()
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    rest = keepalive_options()
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in rest
    assert len(rest) == len(full) - 1


# -- proxies ---------------------------------------------------------------------------------------


class _Proxy(BaseHTTPRequestHandler):
    """Answers everything itself, and remembers what it was asked for."""

    asked: list

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        body = b'{"type": "message", "content": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self):
        self.asked.append(self.path)
        self.send_error(407)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    """Its address, and what it was asked for."""
    handler = type("Proxy", (_Proxy,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join(20)
    server.server_close()


def test_a_call_goes_through_the_proxy_it_was_told(begin, proxy):
    """Over connections that can be hung up on, like any other."""
    address, asked = proxy
    throttler = begin("http://localhost:9", proxies={"http": address})
    assert throttler.submit(**ASK, raw=True).result(60)["content"] == []
    assert asked == ["http://localhost:9/v1/messages"]
    (manager,) = adapter_of(throttler).proxy_manager.values()
    assert manager.pool_classes_by_scheme["https"] is connections._HTTPSPool


# http.client before 3.12 leaves the socket of a refused tunnel to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_proxy_that_refuses_is_a_connection_error(begin, proxy):
    """Asked for a tunnel; its refusal is not the API's, and does not mend itself."""
    address, asked = proxy
    error = failure(begin("https://localhost:9", proxies={"https": address}))
    assert isinstance(error, anthropic.APIConnectionError)
    assert "407" in str(error)
    assert asked == ["localhost:9"]
    del error
    gc.collect()


# -- hanging up ------------------------------------------------------------------------------------


class _Line:
    """Stands in for urllib3's connection; its socket is a real one, and so is the other end."""

    sock = None

    def request(self, *args, **_options):
        return args

    def connect(self):
        self.sock, self.other_end = socket.socketpair()
        self.other_end.settimeout(0.0)

    def close(self):
        self.sock.close()
        self.other_end.close()

    @property
    def was_shut(self):
        """Whether the other end has read the end of it."""
        try:
            return self.other_end.recv(1) == b""
        except BlockingIOError:
            return False


class _OwnedLine(_Owned, _Line):
    pass


class _Caller:
    """Stands in for a call's attempts: keeps the way to hang up."""

    def connected(self, hang_up):
        self.hang_up = hang_up


def begin_request(line, owner=None):
    """Send over *line*; *owner* may hang up on it."""
    return line.request("POST", "/", headers=OwnedHeaders({}, owner))


def test_a_call_hangs_up_on_its_own_connection():
    """As often as it likes; a socket that is closed already is no error."""
    line, caller = _OwnedLine(), _Caller()
    assert begin_request(line, caller) == ("POST", "/")
    caller.hang_up()  # there is no socket yet
    line.connect()
    assert not line.was_shut
    caller.hang_up()
    assert line.was_shut
    caller.hang_up()
    line.close()
    caller.hang_up()


def test_nobody_hangs_up_on_a_successors_call():
    """A connection from the pool belongs to whoever sends over it now."""
    line, first, second = _OwnedLine(), _Caller(), _Caller()
    begin_request(line, first)
    line.connect()
    begin_request(line, second)
    first.hang_up()
    assert not line.was_shut
    begin_request(line)
    second.hang_up()
    assert not line.was_shut
    line.close()


def test_headers_keep_their_owner_when_urllib3_copies_them():
    """It copies them before it adds a proxy's own."""
    owner = _Caller()
    fields = OwnedHeaders({"a": "1"}, owner)
    copy = fields.copy()
    copy["b"] = "2"
    assert (copy.owner, copy, fields) == (owner, {"a": "1", "b": "2"}, {"a": "1"})


def test_what_the_wire_was_told_shows_no_key():
    """Its headers hold one."""
    told = TransportSettings("https://x", {"x-api-key": KEY}, RetryRules(1, False, True))
    assert repr(told) == "TransportSettings(https://x)"


def test_the_urls_of_batches_are_not_remembered_for_ever(begin, fake):
    """Each batch has its own, and a process may send batches for months."""
    throttler = begin(fake.url)
    transport = transport_of(throttler)
    for number in range(40):
        path = f"/v1/messages/batches/msgbatch_{number}"
        assert transport.ask("GET", path, transport.headers).status_code == 404
    remembered = [kept for kept in vars(adapter_of(throttler)).values() if isinstance(kept, dict)]
    assert len(remembered) > 1
    assert max(map(len, remembered)) <= MOST_URLS

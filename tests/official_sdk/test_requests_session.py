"""``throttler.session()`` and ``throttler.mount(session)``, and what a session sends past them."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings

import pytest
import requests
from requests.adapters import HTTPAdapter, Retry

from claude_throttle import Closed, ConfigurationError, Throttler
from claude_throttle.testing import Ok, Reply, Reset
from tests.support.calls import HELLO, KEY, echo
from tests.support.inside import engine_of

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
BODY = json.dumps(HELLO).encode()


@pytest.fixture
def own():
    """A session of the user's own."""
    with requests.Session() as made:
        yield made


@pytest.fixture
def said(caplog):
    """``said()``: what was said since, by logger; each is a Python warning, too."""
    caplog.set_level(logging.INFO, "claude_throttle")

    def new():
        texts = [r.getMessage() for r in caplog.records if r.name == "claude_throttle"]
        caplog.clear()
        return texts

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        yield new


def post(session, url, **options):
    options = options or {"json": HELLO}
    return session.post(url, headers=HEADERS, timeout=10, **options)


def test_a_session_is_paced_at_the_base_url(fake, throttle):
    """It is a requests.Session, with the adapter where it belongs."""
    server = fake()
    throttler = throttle(server)
    with throttler.session() as session:
        assert type(session) is requests.Session
        assert echo(post(session, f"{server.url}/v1/messages").json()) == "hello"
    assert throttler.stats().permits_answered == 1


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com", "https://API.anthropic.com:443/v1/messages"),
        ("https://gateway.example/claude", "https://gateway.example/claude/v1/messages"),
        ("https://gateway.example:443", "https://gateway.example/v1/messages"),
        ("https://gateway.example:8443/x", "https://gateway.example:8443/v1/messages"),
        ("https://gateway.example", "https://api.anthropic.com/v1/messages?beta=true"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/messages"),
    ],
)
def test_it_is_mounted_for_the_base_url_and_the_apis_own_host(base_url, url):
    """However the port is written."""
    session = Throttler(api_key=KEY, base_url=base_url).session(pool_maxsize=2)
    prepared = requests.Request("POST", url).prepare()
    assert type(session.get_adapter(prepared.url)) is not HTTPAdapter
    plain = ("https://api.anthropic.com.evil.example/v1/messages", "https://other.example/")
    assert {type(session.get_adapter(other)) for other in plain} == {HTTPAdapter}


def test_terms_are_those_of_the_adapter(fake, throttle, own):
    """A priority, a tenant, a time to wait; a wrong one is refused at once."""
    throttler = throttle(fake())
    assert throttler.mount(own, priority=0, tenant="a", timeout=5) is own
    with pytest.raises(ConfigurationError, match="timeout"):
        throttler.mount(own, timeout="5")
    with pytest.raises(ConfigurationError, match="max_retries"):
        throttler.session(max_retries=3)


@pytest.mark.parametrize("wrong", [requests, requests.Session, None, "https://api.anthropic.com"])
def test_what_is_no_session_is_refused_with_the_line_to_write(fake, throttle, wrong):
    """The module, the class, nothing, a URL."""
    with pytest.raises(ConfigurationError, match=r"throttler\.mount\(session\).*httpx.*transport"):
        throttle(fake()).mount(wrong)


# -- what goes past it -----------------------------------------------------------------------------


def test_an_adapter_that_is_mounted_elsewhere_says_so_once(fake, throttle, own, said):
    """The README's line of old, with another base URL: nothing was paced, and nothing showed it."""
    server = fake()
    throttler = throttle(server)
    own.mount("https://user:pw@api.anthropic.com", throttler.adapter())
    for _ in range(3):
        post(own, f"{server.url}/v1/messages")
    (text,) = said()
    assert "api.anthropic.com:443 and is not asked: write throttler.mount(session)" in text
    assert "pw" not in text
    assert throttler.stats().permits == 0
    throttler.mount(own)
    post(own, f"{server.url}/v1/messages")
    assert (throttler.stats().permits, said()) == (1, [])


@pytest.mark.parametrize("mount", ["session()", "adapter()"])
def test_an_adapter_that_nobody_asks_says_so_once(fake, throttle, own, said, mount):
    """The program mounts it in one session, and sends by another one, or by requests.post()."""
    server = fake()
    throttler = throttle(server)
    session = throttler.session() if mount == "session()" else own
    if mount == "adapter()":
        own.mount(server.url, throttler.adapter())
    for _ in range(2):
        assert post(requests, f"{server.url}/v1/messages").ok
    (text,) = said()
    assert "write session = throttler.session(), and session.post(…)" in text
    post(session, f"{server.url}/v1/messages")
    assert (throttler.stats().permits, said()) == (1, [])


def test_an_adapter_that_is_asked_says_nothing_of_other_sessions(fake, throttle, said):
    """They may be meant to go their own way; so may those for other hosts and paths."""
    server, other = fake(), fake()
    throttler = throttle(server)
    with throttler.session() as session:
        post(requests, f"{other.url}/v1/messages")
        requests.get(f"{server.url}/v1/models", timeout=10)
        post(session, f"{server.url}/v1/messages")
        post(requests, f"{server.url}/v1/messages")
    assert said() == []


@pytest.mark.parametrize("mount", ["mount()", "all hosts"])
def test_another_host_is_passed_on_unpaced_and_said_once(fake, throttle, own, said, mount):
    """Whoever sends there, the adapter or another one."""
    other, throttler = fake(), throttle(fake())
    if mount == "mount()":
        throttler.mount(own)
    else:
        own.mount("http://", throttler.adapter())
    for _ in range(2):
        assert post(own, f"{other.url}/v1/messages").ok
    (text,) = said()
    assert "passed on without waiting for its turn" in text
    assert "Throttler(base_url=…)" in text
    assert throttler.stats().permits == 0


def test_an_adapter_mounted_for_another_host_by_name_paces_it(fake, throttle, own, said):
    """As ever: whoever names a host means it."""
    other, throttler = fake(), throttle(fake())
    own.mount(other.url, throttler.adapter())
    post(own, f"{other.url}/v1/messages")
    assert (throttler.stats().permits, said()) == (1, [])


@pytest.mark.parametrize(
    ("path", "level"),
    [("/v1/messages/", "WARNING"), ("/v1/message", "WARNING"), ("/v1/files", "INFO")],
)
def test_a_path_without_a_quota_is_passed_on_and_said_once(fake, throttle, caplog, path, level):
    """A slip loudly, another part of the API quietly."""
    caplog.set_level(logging.INFO, "claude_throttle")
    server = fake()
    with throttle(server).session() as session, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            post(session, server.url + path)
    (record,) = [r for r in caplog.records if path in r.getMessage()]
    assert record.levelname == level
    assert len(warned) == (level == "WARNING")


def test_looking_at_models_says_nothing(fake, throttle, said):
    """A GET has no pace, and needs none."""
    server = fake()
    with throttle(server).session() as session:
        session.get(f"{server.url}/v1/models", timeout=10)
    assert said() == []


def test_a_notice_raises_nothing_where_warnings_are_errors(fake, throttle):
    """As in this suite: the answer was paid for."""
    server = fake()
    with throttle(fake()).session() as session:
        assert post(session, f"{server.url}/v1/messages").ok


def test_two_throttlers_in_one_session_say_so_once(fake, throttle, own, said):
    """One after the other, or side by side under two spellings; not after the first is closed."""
    server = fake()
    first, second, third = throttle(server), throttle(server), throttle(server)
    first.mount(own)
    second.mount(own)
    (text,) = said()
    assert "adapters of two throttlers" in text
    post(own, f"{server.url}/v1/messages")
    assert (first.stats().permits, second.stats().permits) == (0, 1)
    second.close()
    third.mount(own)
    post(own, f"{server.url}/v1/messages")
    assert said() == []
    own.mount(server.url, first.adapter())
    post(own, f"{server.url}/v1/messages")
    assert len(said()) == 1


def test_two_throttlers_for_two_hosts_share_a_session(fake, throttle, own, said):
    """The second leaves the API's own host to the first."""
    one, two = fake(), fake()
    first, second = throttle(one), throttle(two)
    first.mount(own)
    second.mount(own)
    for server in (one, two):
        post(own, f"{server.url}/v1/messages")
    assert (first.stats().permits, second.stats().permits, said()) == (1, 1, [])
    assert own.get_adapter("https://api.anthropic.com/x").terms.base_url == one.url


# -- bodies ----------------------------------------------------------------------------------------


class Pipe(io.BytesIO):
    """Can be read, once."""

    def seekable(self):
        return False


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (BODY[at : at + 7] for at in range(0, len(BODY), 7)),
        lambda path: iter([BODY.decode()]),
        lambda path: path.open("rb"),
        lambda path: io.StringIO(BODY.decode()),
        lambda path: io.BytesIO(BODY),
        lambda path: bytearray(BODY),
        lambda path: Pipe(BODY),
        lambda path: BODY.decode(),
    ],
    ids=["generator", "iterator", "file", "text", "BytesIO", "bytearray", "pipe", "string"],
)
def test_a_body_is_paced_whatever_it_is_made_of(fake, throttle, tmp_path, make):
    """Its model is read, and all of it is sent."""
    path = tmp_path / "body.json"
    path.write_bytes(BODY)
    server = fake()
    throttler = throttle(server)
    with throttler.session() as session:
        body = make(path)
        answer = post(session, f"{server.url}/v1/messages", data=body)
        getattr(body, "close", int)()
    assert echo(answer.json()) == "hello"
    assert [lane.name for lane in engine_of(throttler).account.lanes()] == ["sonnet-5"]


def test_a_body_that_is_too_long_to_read_is_paced_by_itself(fake, throttle, monkeypatch):
    """All of it is sent, and the API says what it thinks of it."""
    monkeypatch.setattr("claude_throttle.features.interop.requests_adapter.MAX_BODY_BYTES", 20)
    server = fake()
    throttler = throttle(server)
    with throttler.session() as session:
        answer = post(session, f"{server.url}/v1/messages", data=iter([BODY[:30], BODY[30:]]))
    assert echo(answer.json()) == "hello"
    assert [lane.name for lane in engine_of(throttler).account.lanes()] == ["unknown"]


@pytest.mark.parametrize("body", ["model=x", b"[]", iter([b"no", b" JSON"]), {"a": "form"}])
def test_a_body_that_is_not_json_is_passed_on_and_said_once(fake, throttle, said, body):
    """The API refuses it."""
    server = fake()
    throttler = throttle(server)
    with throttler.session() as session:
        assert post(session, f"{server.url}/v1/messages", data=body).status_code == 400
    (text,) = said()
    assert "not a JSON object" in text
    assert throttler.stats().permits == 0


def test_a_generator_that_raises_costs_nothing(fake, throttle):
    """Its own error comes out; no turn was taken."""

    def broken():
        yield BODY[:5]
        raise KeyError("row")

    server = fake()
    throttler = throttle(server)
    with throttler.session() as session, pytest.raises(KeyError):
        post(session, f"{server.url}/v1/messages", data=broken())
    assert (throttler.stats().permits, server.arrivals) == (0, [])


# -- the session's own ways ------------------------------------------------------------------------


def test_an_adapter_of_its_own_kind_goes_on_sending(fake, throttle, own):
    """It may know certificates, or count."""

    class Counting(HTTPAdapter):
        sent = 0

        def send(self, *args, **options):
            Counting.sent += 1
            return super().send(*args, **options)

    server = fake()
    throttler = throttle(server)
    own.mount("http://", Counting())
    throttler.mount(throttler.mount(own))
    post(own, f"{server.url}/v1/messages")
    assert (Counting.sent, throttler.stats().permits) == (1, 1)


def mount_with(session, throttler, **retries):
    """The session as its owner made it, with retries, and then mounted."""
    own = Retry(**{"total": 3, "status_forcelist": [503, 429], **retries})
    session.mount("http://", HTTPAdapter(max_retries=own))
    return throttler.mount(throttler.mount(session))


@pytest.mark.parametrize("body", ["bytes", "generator", "file"])
def test_its_own_retries_wait_for_their_turn(fake, throttle, own, body):
    """The program is as it was: what it sent again is sent again, but paced."""
    server = fake()
    server.script(Reply(503), Reset(), Reply(503), Ok())
    throttler = throttle(server)
    mount_with(own, throttler, allowed_methods=["POST"])
    data = {"bytes": BODY, "generator": iter([BODY]), "file": io.BytesIO(BODY)}[body]
    assert echo(post(own, f"{server.url}/v1/messages", data=data).json()) == "hello"
    assert (len(server.arrivals), throttler.stats().permits) == (4, 4)


def test_retries_that_leave_a_post_alone_do_so(fake, throttle, own):
    """As urllib3's do by default."""
    server = fake()
    throttler = throttle(server)
    mount_with(own, throttler)
    server.script(Reply(503), Reset())
    assert post(own, f"{server.url}/v1/messages").status_code == 503
    with pytest.raises(requests.ConnectionError):
        post(own, f"{server.url}/v1/messages")
    assert len(server.arrivals) == 2


@pytest.mark.parametrize("raises", [True, False])
def test_retries_end_as_they_did(fake, throttle, own, raises):
    """With the exception of requests, or with the last answer."""
    server = fake()
    throttler = throttle(server)
    mount_with(own, throttler, total=1, allowed_methods=None, raise_on_status=raises)
    server.script(Reply(503), Reply(503))
    if raises:
        with pytest.raises(requests.exceptions.RetryError, match="503"):
            post(own, f"{server.url}/v1/messages")
    else:
        assert post(own, f"{server.url}/v1/messages").status_code == 503
    assert len(server.arrivals) == 2


# -- ends ------------------------------------------------------------------------------------------


def test_a_closed_throttler_under_a_live_session_refuses(fake, throttle):
    """And sends nothing; other paths pass."""
    server = fake()
    throttler = throttle(server)
    with throttler.session() as session:
        throttler.close()
        with pytest.raises(Closed, match="make a new one"):
            post(session, f"{server.url}/v1/messages")
        assert session.get(f"{server.url}/v1/models", timeout=10).status_code == 404
    assert not server.arrivals


def test_a_session_made_before_a_fork_has_sockets_of_its_own_in_the_child(fake, throttle):
    """What one process reads from a shared socket is missing at the other."""
    server = fake()

    def pool():
        return session.get_adapter(f"{server.url}/").poolmanager

    with throttle(server).session() as session:
        post(session, f"{server.url}/v1/messages")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                before, answer = pool(), post(session, f"{server.url}/v1/messages")
                status = 0 if answer.ok and pool() is not before else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert post(session, f"{server.url}/v1/messages").ok

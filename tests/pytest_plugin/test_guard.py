"""No test reaches the real API: it is led to the fake, or refused with a sentence."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys

import anthropic
import pytest
import requests

from claude_throttle import Throttler
from claude_throttle.testing import ClaudeApi
from tests.support.programs import ROOT
from tests.support.thorough import only_thorough

pytest_plugins = ["pytester"]

#: Imported here once, and not again by each project below.
LOADED = (anthropic.Anthropic, anthropic.types.Message, requests.Session, Throttler)

#: Clients that a legacy application makes when it is imported.
APPLICATION = """
import asyncio, http.client, json, os, signal, socket, threading, urllib.request
import anthropic, requests, urllib3
from claude_throttle import Throttler

try:
    import httpx2 as httpx
except ImportError:
    import httpx

KEY = os.environ["ANTHROPIC_API_KEY"]
HOST = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
URL = "https://api.anthropic.com/v1/messages"
RELAY = "https://relay.example/claude"
PROXY = "http://proxy.example:3128"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}

client = anthropic.Anthropic(max_retries=0)
real = anthropic.Anthropic(api_key="sk-real", base_url="https://api.anthropic.com", max_retries=0)
relayed = anthropic.Anthropic(base_url=RELAY, max_retries=0)
proxied = anthropic.Anthropic(http_client=httpx.Client(proxy=PROXY), max_retries=0)
throttler = Throttler()
far = Throttler(base_url=RELAY, rpm=1e6, burst=1000)
session = requests.Session()
pool = urllib3.HTTPSConnectionPool("api.anthropic.com")

def ask(text):
    return {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}

def by_async_sdk(text):
    async def call():
        async with anthropic.AsyncAnthropic(max_retries=0) as made:
            return await made.messages.create(**ask(text))
    return asyncio.run(call())

def by_stream(text):
    with client.messages.stream(**ask(text)) as stream:
        return stream.get_final_message()

def by_urllib(text):
    opener = urllib.request.build_opener()
    request = urllib.request.Request(URL, data=b"{}", headers=HEADERS)
    return opener.open(request, timeout=5)

#: Those that are led to the fake, wherever they were made for.
LED = {
    "sdk": lambda text: client.messages.create(**ask(text)),
    "sdk with a real key": lambda text: real.messages.create(**ask(text)),
    "sdk by a relay": lambda text: relayed.messages.create(**ask(text)),
    "sdk by a proxy": lambda text: proxied.messages.create(**ask(text)),
    "sdk stream": by_stream,
    "async sdk": by_async_sdk,
    "throttler": lambda text: throttler.call(**ask(text)),
    "throttler by a relay": lambda text: far.call(**ask(text)),
    "requests": lambda text: session.post(URL, json=ask(text), headers=HEADERS).raise_for_status(),
    "requests by a proxy": lambda text: requests.post(
        URL, json=ask(text), headers=HEADERS, proxies={"https": PROXY}).raise_for_status(),
    "requests by a relay": lambda text: requests.post(
        RELAY + "/v1/messages", json=ask(text), headers=HEADERS).raise_for_status(),
    "httpx": lambda text: httpx.post(URL, json=ask(text), headers=HEADERS).raise_for_status(),
    "urllib3": lambda text: pool.request(
        "POST", "/v1/messages?x=1", body=json.dumps(ask(text)), headers=HEADERS),
}
"""

TESTS = """
import pytest
import application as app

CLAIMS = {"real": "the-developers-own", "none": "sk-ant-api03-claude-api-fixture"}
HOST = "https://api.anthropic.com"

def said(error):
    words = ""
    while error is not None:
        words += f"{error} "
        error = error.__cause__ or error.__context__
    return words

def test_the_application_was_imported():
    assert app.KEY == CLAIMS[KIND]
    assert app.HOST == HOST

def test_known_clients_are_led(claude_api):
    for name, call in app.LED.items():
        call(name)
    assert claude_api.prompts == [*app.LED]
    assert {a.status for a in claude_api.arrivals} == {200}

def test_others_are_refused_by_a_sentence(claude_api, monkeypatch):
    with pytest.raises(RuntimeError, match="claude_api is in use, .* base URL"):
        app.by_urllib("x")
    connection = app.http.client.HTTPSConnection("API.anthropic.com.")
    with pytest.raises(RuntimeError, match="claude_api.url"):
        connection.request("POST", "/v1/messages")
    for resolve in (app.socket.gethostbyname, app.socket.gethostbyname_ex):
        with pytest.raises(RuntimeError, match="claude_api.url"):
            resolve("api.anthropic.com")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    with app.anthropic.Anthropic(api_key="sk-real") as client:
        client.messages.create(**app.ask("here"))
    monkeypatch.undo()
    assert claude_api.prompts == ["here"]

@pytest.mark.parametrize("name", ["sdk", "async sdk", "throttler", "requests", "httpx"])
def test_without_the_fixture_all_are_refused(name):
    with pytest.raises(Exception) as caught:
        app.LED[name]("x")
    assert "no test may call the real Claude API" in said(caught.value)
    assert "claude_live" in said(caught.value) and "claude_api_guard" in said(caught.value)

LATE = []

def test_a_thread_that_outlives_its_test(claude_api):
    go = app.threading.Event()
    def work():
        go.wait(10)
        try:
            app.session.post(app.URL, json=app.ask("late"), headers=app.HEADERS, timeout=5)
        except Exception as error:
            LATE.append(said(error))
    thread = app.threading.Thread(target=work)
    thread.start()
    LATE.extend([go, thread])

def test_is_refused_then():
    LATE[0].set()
    LATE[1].join(10)
    assert "no test may call the real Claude API" in LATE[2]

def test_a_fork_speaks_to_the_fake_of_its_parent(claude_api):
    app.LED["requests"]("parent")
    pid = app.os.fork()
    if not pid:
        app.signal.alarm(20)  # a child that hangs must not hold up its parent
        try:
            app.LED["requests"]("child")
        finally:
            app.os._exit(0)
    app.os.waitpid(pid, 0)
    app.LED["requests"]("parent")
    assert claude_api.prompts == ["parent", "child", "parent"]

@pytest.fixture(scope="session")
def early():
    with app.anthropic.Anthropic(max_retries=0) as client:
        yield client

@pytest.fixture(scope="class")
def classy(early):
    with app.Throttler() as throttler:
        yield throttler

@pytest.fixture(scope="session", autouse=True)
def _closed():
    yield
    for throttler in (app.throttler, app.far):
        throttler.close(timeout=0, cancel_pending=True)
    for client in (app.client, app.real, app.relayed, app.proxied, app.session, app.pool):
        client.close()

class TestScopes:
    def test_clients_of_wider_fixtures_are_led(self, classy, early, claude_api):
        early.messages.create(**app.ask("session"))
        classy.call(**app.ask("class"))
        assert claude_api.prompts == ["session", "class"]

@pytest.mark.claude_live
@pytest.mark.skipif("os.getenv('ANTHROPIC_API_KEY', '').endswith('fixture')", reason="no real key")
def test_who_asks_may_call():
    import socket
    with pytest.raises(AssertionError, match="resolved: api.anthropic.com"):
        socket.getaddrinfo("api.anthropic.com", 443)
    assert "ANTHROPIC_BASE_URL" not in app.os.environ

def test_and_nobody_afterwards():
    import socket
    with pytest.raises(RuntimeError, match="no test may call"):
        socket.getaddrinfo(b"api.anthropic.com", None)
    assert socket.getaddrinfo("127.0.0.1", 80)
"""


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch):
    """Names of other machines are resolved by nobody, and what is asked is seen."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *rest, **options):
        assert host in ("127.0.0.1", "::1", "localhost"), f"resolved: {host}"
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("kind", ["real", only_thorough("none")])
def test_nothing_leaves_the_machine(project, monkeypatch, kind):
    """Whether the developer has a real key, or the application finds one before it is imported."""
    if kind == "real":
        monkeypatch.setenv("ANTHROPIC_API_KEY", "the-developers-own")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    # Nobody speaks TLS here, and each client would read the certificates: 0.1 s.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    project.makepyfile(application=APPLICATION)
    project.makepyfile(f"KIND = {kind!r}" + TESTS)
    project.runpytest_inprocess("-Wignore").assert_outcomes(passed=14)


def test_an_application_that_needs_a_key_can_be_imported(project, monkeypatch):
    """By a conftest, too; a key, a token or a server of the developer's own stay as they are."""
    environment = {
        "ANTHROPIC_API_KEY": ("sk-ant-api03-claude-api-fixture", "", "own", None, None),
        "ANTHROPIC_AUTH_TOKEN": (None, "", None, "own", None),
        "ANTHROPIC_BASE_URL": (None, None, "https://relay.example", None, "http://localhost:1/x"),
    }
    expected = [
        ("sk-ant-api03-claude-api-fixture", "https://api.anthropic.com"),
        ("sk-ant-api03-claude-api-fixture", "https://api.anthropic.com"),
        ("own", "https://relay.example"),
        (None, None),
        ("sk-ant-api03-claude-api-fixture", "http://localhost:1/x"),
    ]
    project.makeconftest(
        "import os; SEEN = [os.environ.get(f'ANTHROPIC_{n}') for n in ('API_KEY', 'BASE_URL')]"
    )
    project.makepyfile(
        """
        import os, socket, conftest, requests, pytest
        from urllib.parse import urlsplit

        def post(url):
            asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
            return requests.post(url + "/v1/messages", json=asked, headers={"x-api-key": "k"})

        def test_it(claude_api):
            for url in filter(None, [conftest.SEEN[1], os.environ["ANTHROPIC_BASE_URL"]]):
                post(url).raise_for_status()

        def test_without():
            url = conftest.SEEN[1] or "https://api.anthropic.com"
            # What listens on this machine is the developer's own affair.
            refused = requests.ConnectionError if "localhost:1" in url else RuntimeError
            with pytest.raises(refused):
                post(url)
            print("SEEN", conftest.SEEN)
        """
    )  # fmt: skip
    for number, (key, url) in enumerate(expected):
        for name, values in environment.items():
            monkeypatch.delenv(name, raising=False)
            if values[number] is not None:
                monkeypatch.setenv(name, values[number])
        done = project.runpytest_inprocess("-s")
        done.assert_outcomes(passed=2)
        done.stdout.fnmatch_lines([f"*SEEN {[key, url]}*".replace("[", "[[]")])
        assert os.environ.get("ANTHROPIC_API_KEY") == environment["ANTHROPIC_API_KEY"][number]


def test_what_mocks_the_real_host_goes_on_working(project):
    """Tests that were there before: without a key of the machine the host is still the API's."""
    project.makepyfile(
        """
        import anthropic, requests, responses
        from claude_throttle import Throttler
        from claude_throttle.testing import add_message
        try:
            import httpx2 as httpx
        except ImportError:
            import httpx

        URL = "https://api.anthropic.com/v1/messages"
        ASK = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}

        @responses.activate
        def test_a_throttler():
            add_message(responses, "one", base_url="https://api.anthropic.com")
            add_message(responses, "two")
            with Throttler() as throttler:
                assert [throttler.call(**ASK).content[0].text for _ in "12"] == ["one", "two"]

        @responses.activate
        def test_beside_the_fixture(claude_api):
            responses.post(URL, json={"mocked": 1})
            assert requests.post(URL, json=ASK, headers={"x-api-key": "k"}).json() == {"mocked": 1}

        def test_a_client():
            asked = []
            mock = httpx.MockTransport(lambda request: asked.append(str(request.url)))
            with anthropic.Anthropic(http_client=httpx.Client(transport=mock)) as client:
                try:
                    client.with_options(max_retries=0).messages.create(**ASK)
                except Exception:
                    pass
            assert asked == [URL]
        """
    )
    project.runpytest_inprocess("-Wignore").assert_outcomes(passed=3)


def test_the_guard_can_be_switched_off(project, monkeypatch):
    """In the settings of pytest; the fixture guards its own test all the same."""
    project.makepyfile(
        """
        import os, socket, pytest

        def test_the_environment_is_that_of_the_machine():
            assert "ANTHROPIC_API_KEY" not in os.environ
            with pytest.raises(AssertionError, match="resolved: api.anthropic.com"):
                socket.getaddrinfo("api.anthropic.com", 443)

        def test_the_fixture_guards(claude_api):
            with pytest.raises(RuntimeError, match="claude_api is in use"):
                socket.getaddrinfo("api.anthropic.com", 443)
        """
    )
    project.runpytest_inprocess("-o", "claude_api_guard=false").assert_outcomes(passed=2)


def test_libraries_that_are_imported_later_are_led_too():
    """As the SDK is, by the test that uses it; and all is left as it was."""
    with ClaudeApi() as api:
        program = f"""
import sys
from claude_throttle.testing.interception import Interception

loaded = sorted({{"urllib3", "requests", "httpx", "httpx2"}} & set(sys.modules))
with Interception({api.url!r}, lambda host, port: host == "api.anthropic.com"):
    import requests
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx
    for post in (requests.post, httpx.post):
        answer = post("https://api.anthropic.com/v1/messages", headers={{"x-api-key": "k"}}, json={{
            "model": "m", "max_tokens": 5, "messages": [{{"role": "user", "content": "x"}}]}})
        assert answer.status_code == 200, answer.text
from urllib3.connectionpool import HTTPConnectionPool
print(loaded, HTTPConnectionPool.urlopen.__code__.co_filename.endswith("connectionpool.py"))
"""
        found = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert found.stdout.strip() == "[] True", found.stderr
        assert api.prompts == ["x", "x"]

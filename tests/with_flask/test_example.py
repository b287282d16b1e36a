"""The example runs, unchanged, as its docstring says, against the fake API."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.documents import blocks
from tests.support.running import listening, running, script
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

#: As gunicorn's graceful_timeout in that file; on a busy machine the SDK's import takes many.
PATIENCE_SECONDS = 30

STAFF = {"Authorization": "Basic " + base64.b64encode(b"ada:open sesame").decode()}


def get(address, path, method="GET", body=None, headers=None):
    """Status, content type and content."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.headers.get_content_type(), response.read().decode()


@contextlib.contextmanager
def by_gunicorn(fake, folder, **environment):
    """With its configuration file."""
    with listening() as listener:
        command = [script("gunicorn"), "-c", "examples/gunicorn.conf.py"]
        command += [f"-b=fd://{listener.fileno()}"]
        with running(command, fake, folder, **environment) as server:
            yield listener.getsockname()
            server.process.terminate()
            assert server.process.wait(PATIENCE_SECONDS) == 0


@contextlib.contextmanager
def by_flask(fake, folder, **environment):
    """The development server, on a port it chooses."""
    command = [sys.executable, "-m", "flask", "--app", "examples/flask_app", "run", "--port=0"]
    with running(command, fake, folder, **environment):

        def ports():
            return re.findall(r"http://127\.0\.0\.1:(\d+)", (folder / "log").read_text())

        wait_until(lambda: bool(ports()), PATIENCE_SECONDS)
        yield "127.0.0.1", int(ports()[0])


@pytest.mark.parametrize("serve", [by_gunicorn, only_thorough(by_flask)])
def test_the_example_works(fake, tmp_path, serve):
    """Questions together, a stream, work that nobody waits for, the page for staff."""
    server = fake(latency=0.05)
    environment = {
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": server.url,
        "STATUS_PASSWORD": "open sesame",
    }
    with serve(server, tmp_path, **environment) as address:
        # The first visitor may wait for the SDK's import, and be told to come back.
        wait_until(
            lambda: get(address, "/?q=one") == (200, "text/html", "echo: one"), PATIENCE_SECONDS
        )
        with ThreadPoolExecutor(8) as visitors:
            paths = [f"/?q={n}" for n in range(16)]
            answers = list(visitors.map(lambda path: get(address, path)[2], paths))
        assert answers == [f"echo: {n}" for n in range(16)]
        assert get(address, "/stream?q=two") == (200, "text/plain", "echo: two")
        page, data = "/claude-throttle/", "/claude-throttle/data.json"
        assert [get(address, path)[0] for path in (page, data)] == [401, 403]
        assert [get(address, path, headers=STAFF)[0] for path in (page, data)] == [200, 200]
        assert get(address, "/digest", "POST", "a long text")[0] == 202
        wait_until(lambda: server.arrivals[-1].nonce == "Summarise: a long text")


def test_what_is_submitted_is_finished(fake, tmp_path):
    """Also what still waited for its turn when gunicorn was told to stop."""
    server = fake()
    environment = {"ANTHROPIC_API_KEY": "sk-ant-example", "ANTHROPIC_BASE_URL": server.url}
    with by_gunicorn(server, tmp_path, **environment) as address:
        for n in range(8):
            assert get(address, "/digest", "POST", f"text {n}")[0] == 202
    assert {one.status for one in server.arrivals} == {200}
    assert sorted(one.nonce for one in server.arrivals) == [
        f"Summarise: text {n}" for n in range(8)
    ]
    assert "Error" not in (tmp_path / "log").read_text()


def test_the_readmes_application_answers(fake, monkeypatch):
    """As it stands there."""
    (block,) = (block for block in blocks("python") if "ClaudeThrottle" in block)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-readme")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", fake().url)
    made = {"__name__": "readme"}
    exec(block, made)
    made["claude"].throttlers(made["app"])["default"].preload()
    response = made["app"].test_client().get("/hello")
    made["claude"].reset(made["app"])
    assert (response.status_code, response.text) == (200, "echo: Say hello.")

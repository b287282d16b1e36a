"""The tests' project under gunicorn, whose workers are forked and have threads."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from claude_throttle.testing import Ok, Stall, Streamed
from tests.support.programs import ROOT
from tests.support.running import PATIENCE_SECONDS, latency, listening, running, script
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

VISITORS = 8
BROWSER = {"Accept": "text/html,*/*;q=0.8"}


@contextlib.contextmanager
def serving(fake, folder, *options, workers=2, **environment):
    """Its address; whoever asks it closes the connection, so that workers take turns."""
    environment["DATABASE"] = str(folder / "db.sqlite3")
    with listening() as listener:
        command = [script("gunicorn"), f"-b=fd://{listener.fileno()}", f"-w={workers}"]
        command += ["-k=gthread", "--threads=8", "--graceful-timeout=10", *options]
        command += ["tests.with_django.wsgi:application"]
        with running(command, fake, folder, **environment) as server:
            yield "http://{}:{}".format(*listener.getsockname()), server


def get(url, **headers):
    headers = {"Connection": "close", **headers}
    return requests.get(url, headers=headers, timeout=PATIENCE_SECONDS, allow_redirects=False)


def ask_many(url, numbers):
    """Each gets its own answer; the workers that gave them."""

    def one(number):
        response = get(f"{url}/call?text=nonce-{number}")
        assert (response.status_code, response.text) == (200, f"echo: nonce-{number}")
        return response.headers["X-Worker"]

    with ThreadPoolExecutor(VISITORS) as visitors:
        return set(visitors.map(one, numbers))


@pytest.mark.parametrize(
    "preload", [only_thorough(False, id="apart"), pytest.param(True, id="preload")]
)
def test_workers(fake, tmp_path, preload):
    """Each visitor gets the own answer, though the throttler was in use when they were forked."""
    server = fake(latency=latency)
    options, environment = [], {}
    if preload:
        options, environment = ["--preload"], {"WARM": "yes"}
        server.script(Ok(), Stall())
    with serving(server, tmp_path, *options, **environment) as (url, process):
        if preload:
            wait_until(lambda: len(server.arrivals) >= 2)
        met = set()
        for first in range(0, 400, 20):
            met |= ask_many(url, range(first, first + 20))
            if len(met) == 2:
                break
        assert len(met) == 2
        nonces = [arrival.nonce for arrival in server.arrivals]
        assert len(nonces) == len(set(nonces))
        server.release_stalled()
        assert process.stop() == 0


def test_a_stream(fake, tmp_path):
    """The first words come while the last are still held back."""
    server = fake()
    server.script(Streamed(at=4, wrong="stall"))
    with serving(server, tmp_path, workers=1) as (url, _process):
        connection = http.client.HTTPConnection(url[7:], timeout=PATIENCE_SECONDS)
        connection.request("GET", "/stream?text=hello")
        response = connection.getresponse()
        first = response.read(3)
        assert response.status == 200
        server.release_stalled()
        assert first + response.read() == b"echo: hello"
        connection.close()


def test_a_reader_who_leaves(fake, tmp_path):
    """The stream is closed, and its place in flight is free for who comes next."""
    server = fake()
    long = {"type": "text", "text": "x" * 500_000}
    server.script(*[Streamed(blocks=(long,), seconds_between=0.05)] * 3)
    with serving(server, tmp_path, workers=1, MAX_CONCURRENCY="1") as (url, _process):
        for method in ("GET", "GET", "HEAD"):
            connection = http.client.HTTPConnection(url[7:], timeout=PATIENCE_SECONDS)
            connection.request(method, "/stream?text=hello")
            response = connection.getresponse()
            assert (response.status, response.read(3)) == (200, b"xxx" if method == "GET" else b"")
            response.close()
            connection.close()
        assert get(f"{url}/call?text=next").text == "echo: next"


def test_more_than_there_is_room_for(fake, tmp_path):
    """One is on its way, one waits; all others hear at once that they should come again."""
    server = fake()
    server.script(Stall())
    full = {"MAX_QUEUE": "1", "MAX_CONCURRENCY": "1"}
    with serving(server, tmp_path, workers=1, **full) as (url, _process):
        with ThreadPoolExecutor(VISITORS) as visitors:
            asked = [visitors.submit(get, f"{url}/call?text=first")]
            wait_until(lambda: len(server.arrivals) == 1)
            asked += [visitors.submit(get, f"{url}/call?text=more", **BROWSER) for _ in range(5)]
            wait_until(lambda: sum(future.done() for future in asked) == 4)
            refused = [future.result() for future in asked if future.done()]
            server.release_stalled()
            answered = [future.result() for future in asked if future.result() not in refused]
    assert {response.status_code for response in refused} == {503}
    assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
    assert all("This service is busy" in response.text for response in refused)
    assert [response.status_code for response in answered] == [200, 200]


@pytest.mark.thorough
def test_the_status_page(fake, tmp_path):
    """Nobody sees it who has not been at the admin's login."""
    server = fake()
    with serving(server, tmp_path, workers=1) as (url, _process):
        _make_users(tmp_path, server)
        response = get(f"{url}/claude/")
        login = response.headers["Location"]
        assert (response.status_code, login) == (302, "/admin/login/?next=/claude/")
        assert get(f"{url}/claude/data.json").status_code == 403
        with requests.Session() as browser:
            form = {"username": "boss", "password": "secret", "next": "/claude/"}
            form["csrfmiddlewaretoken"] = _token(browser.get(f"{url}{login}").text)
            page = browser.post(f"{url}{login}", data=form, timeout=PATIENCE_SECONDS)
            assert (page.status_code, page.url) == (200, f"{url}/claude/")
            assert "data.json" in page.text
            assert browser.get(f"{url}/claude/data.json").json()


def _token(page):
    return page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]


def _make_users(folder, server):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.with_django.settings",
        "DATABASE": str(folder / "db.sqlite3"),
        "DJANGO_SUPERUSER_PASSWORD": "secret",
        "FAKE_URL": server.url,
    }
    boss = ["--username=boss", "--email=boss@example.com", "--noinput"]
    for command in (["migrate", "-v0"], ["createsuperuser", "-v0", *boss]):
        command = [sys.executable, "-m", "django", *command]
        subprocess.run(command, env=environment, check=True, timeout=60)

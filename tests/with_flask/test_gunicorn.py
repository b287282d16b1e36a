"""Behind gunicorn, with threads, forked before the import and after."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from claude_throttle.testing import Stall, Streamed
from tests.support.running import PATIENCE_SECONDS, listening, running, script
from tests.support.thorough import only_thorough
from tests.support.waiting import wait_until

#: Half a minute, if nobody ends it before.
LONG = Streamed(blocks=({"type": "text", "text": "x" * 100_000},) * 100, seconds_between=0.05)

TOLD = {"API_KEY": "sk-ant-test-0000", "RPM": "60000", "BURST": "100"}


class Site(NamedTuple):
    """A running server."""

    address: tuple[str, int]
    workers: int

    @contextlib.contextmanager
    def get(self, path, accept="*/*", method="GET"):
        """The response, still to be read; its connection is closed in the end."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_SECONDS)
        connection.request(method, path, headers={"Accept": accept, "Connection": "close"})
        with contextlib.closing(connection):
            yield connection.getresponse()

    def json(self, path):
        """Status and content."""
        with self.get(path) as response:
            return response.status, json.loads(response.read())

    def pids(self):
        """Of its workers, once each has answered."""
        found = set()

        def all_met():
            with ThreadPoolExecutor(8) as visitors:
                found.update(said["pid"] for _, said in visitors.map(self.json, ["/state"] * 8))
            return len(found) == self.workers

        wait_until(all_met)
        return found

    def is_idle(self):
        """Whether no worker has anything out."""
        states = {said["pid"]: said for _, said in (self.json("/state") for _ in range(12))}
        idle = [not said["in_flight"] and not said["waiting"] for said in states.values()]
        return all(idle) and len(states) == self.workers

    def hang_up_in(self, path):
        """Read a little, and go away by surprise."""
        plug = socket.create_connection(self.address, timeout=PATIENCE_SECONDS)
        plug.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while b"\r\n\r\n" not in plug.recv(1000):
            pass
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plug.close()


@contextlib.contextmanager
def serving(fake, folder, *options, workers=2, **told):
    """``tests.with_flask.served_app`` in gunicorn, asking *fake*."""
    environment = {f"FLASK_CLAUDE_THROTTLE_{key}": text for key, text in {**TOLD, **told}.items()}
    environment["WARM"] = "yes" * ("--preload" in options)
    with listening() as listener:
        command = [script("gunicorn"), f"-b=fd://{listener.fileno()}", f"-w={workers}"]
        command += ["-k=gthread", "--threads=8", "--graceful-timeout=5", *options]
        command += ["tests.with_flask.served_app:app"]
        with running(command, fake, folder, **environment) as server:
            yield Site(listener.getsockname(), workers)
            assert server.stop() == 0


@pytest.mark.parametrize(
    "options", [only_thorough((), id="apart"), pytest.param(("--preload",), id="preload")]
)
def test_gunicorn(fake, tmp_path, options):
    """Everybody gets what was asked for; a stream as it is written; who goes away costs nothing."""
    server = fake()
    with serving(server, tmp_path, *options) as site:
        pids = site.pids()
        with ThreadPoolExecutor(8) as visitors:
            asked = [f"question-{n}" for n in range(24)]
            got = list(visitors.map(lambda text: site.json(f"/ask?{text}"), asked))
        assert [(status, said["text"]) for status, said in got] == [(200, text) for text in asked]
        importers = {said["importer"] for _, said in got}
        assert importers.isdisjoint(pids) if options else importers <= pids
        check_stream(server, site)
        check_ends(server, site)
        check_hanging_up(server, site)


def check_stream(server, site):
    """The first words are read while the last are not written."""
    server.script(Streamed(at=4, wrong="stall"))
    with site.get("/stream?one-by-one") as response:
        first = response.read(3)
        server.release_stalled()
        rest = (first + response.read()).decode()
    assert (response.status, rest.replace("|", "")) == (200, "echo: one-by-one")
    assert rest.count("|") > 1
    wait_until(site.is_idle)


def check_ends(server, site):
    """A stream that breaks is no whole answer to the client; one that is not read is left."""
    server.script(Streamed(at=4, wrong="cut"))
    with site.get("/stream?broken") as response, pytest.raises(http.client.IncompleteRead):
        response.read()
    server.script(LONG)
    with site.get("/stream?unread", method="HEAD") as response:
        assert (response.status, response.read()) == (200, b"")
    wait_until(site.is_idle)


def check_hanging_up(server, site):
    """Permit and connection come back long before the stream's end."""
    before = len(server.arrivals)
    server.script(*[LONG] * 4)
    with ThreadPoolExecutor(4) as visitors:
        list(visitors.map(site.hang_up_in, ["/stream?long"] * 4))
    assert len(server.arrivals) == before + 4
    wait_until(site.is_idle)
    server.wait_until_idle()
    assert site.json("/ask?still-there")[0] == 200


def test_503_under_load(fake, tmp_path):
    """One is out, one waits, a third is told to come back: before a stream has begun, too."""
    server = fake()
    server.script(Stall())
    told = {"MAX_QUEUE": "1", "MAX_CONCURRENCY": "1"}
    with serving(server, tmp_path, workers=1, **told) as site, ThreadPoolExecutor(2) as visitors:
        out = [visitors.submit(site.json, "/ask?first")]
        wait_until(lambda: len(server.arrivals) == 1)
        out.append(visitors.submit(site.json, "/ask?second"))
        wait_until(lambda: site.json("/state")[1]["waiting"] == 1)
        for path in ("/ask?third", "/stream?third"):
            status, said = site.json(path)
            assert (status, said["error"]["type"]) == (503, "queue_full")
            with site.get(path, "text/html,*/*;q=0.8") as response:
                assert response.headers["Retry-After"].isdecimal()
                assert "<h1>Busy for the moment</h1>" in response.read().decode()
        server.release_stalled()
        assert [future.result()[0] for future in out] == [200, 200]


def test_several_workers_that_share_nothing(fake, tmp_path):
    """Each says so in the log, once."""
    server = fake()
    with serving(server, tmp_path) as site:
        pids = site.pids()
        for _ in range(3):
            assert site.json("/ask?hello")[0] == 200
    lines = (tmp_path / "log").read_text().splitlines()
    said = [line for line in lines if "each uses the whole quota" in line]
    assert len(said) == len(pids)
    assert os.getpid() not in pids

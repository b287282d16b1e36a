"""Workers forked by gunicorn, before the app is imported and after."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.running import latency, listening, running, script
from tests.support.thorough import only_thorough
from tests.support.visiting import (
    hold_the_first,
    judge,
    judge_notes,
    judge_workers,
    stop_amid_a_call,
    visit_all,
    wait_for_the_held,
)

WORKERS = 2


@contextlib.contextmanager
def _serving(fake, folder, kind, *options, **environment):
    """The server, and what its visitors found."""
    with listening() as listener:
        command = [script("gunicorn"), f"-b=fd://{listener.fileno()}", f"-w={WORKERS}"]
        command += [f"-k={kind}", *options, "--graceful-timeout=10"]
        command += ["tests.servers.wsgi_app:application"]
        with running(command, fake, folder, **environment) as server:
            if "--preload" in options:
                wait_for_the_held(fake)
            yield server, visit_all(listener.getsockname(), WORKERS)
            stop_amid_a_call(listener.getsockname(), server)


@pytest.mark.parametrize(
    ("kind", "preload"),
    [
        only_thorough("sync", False, id="sync-apart"),
        only_thorough("sync", True, id="sync-preload"),
        pytest.param("gthread", False, id="gthread-apart"),
        only_thorough("gthread", True, id="gthread-preload"),
        only_thorough("gevent", False, id="gevent-apart"),
        pytest.param("gevent", True, id="gevent-preload"),
    ],
)
def test_gunicorn(fake, tmp_path, kind, preload):
    """Everybody gets what was asked for, whoever was used before the fork."""
    fake = fake(latency=latency)
    options = ["--preload"] * preload + ["--threads=3"] * (kind == "gthread")
    if preload:
        hold_the_first(fake)
    with _serving(fake, tmp_path, kind, *options) as (server, found):
        judge(found, server, fake, forked=preload)


@pytest.mark.thorough
def test_gevent_patched_before_the_fork(fake, tmp_path):
    """The master's greenlets survive the fork, unlike threads: in a worker they do nothing.

    Nor do they go on in the master of newer releases, whose own loop blocks them all.
    """
    fake = fake(latency=latency)
    hold_the_first(fake)
    with _serving(fake, tmp_path, "gevent", "--preload", PATCH="early") as (server, found):
        judge_workers(found, forked=True)
        fake.release_stalled()
    judge_notes(server, fake)

"""Workers forked by uWSGI, which calls none of Python's fork hooks unless it is told to."""

from __future__ import annotations

import pytest

from tests.support.running import latency, listening, running, script
from tests.support.visiting import judge, stop_amid_a_call, visit_all

WORKERS = 2


def test_uwsgi(fake, tmp_path):
    """It forks without Python's global lock, so nothing may run in the master at that moment.

    What waits for its turn does not: that is the master's, and stays it.
    """
    _serve(fake(latency=latency), tmp_path, [], forked=True, BUSY="no")


@pytest.mark.thorough
def test_uwsgi_with_fork_hooks(fake, tmp_path):
    """Then it forks as Python does. With threads at work it has hung once, and crashed once."""
    options = ["--py-call-uwsgi-fork-hooks"]
    _serve(fake(latency=latency), tmp_path, options, forked=True, BUSY="no")


@pytest.mark.thorough
def test_uwsgi_lazy_apps(fake, tmp_path):
    """Each worker imports the app for itself."""
    _serve(fake(latency=latency), tmp_path, ["--lazy-apps"], forked=False)


def _serve(fake, folder, options, forked, **environment):
    with listening() as listener:
        command = [script("uwsgi"), f"--http-socket=fd://{listener.fileno()}", "--master"]
        command += [f"--processes={WORKERS}", "--threads=2", "--need-app"]
        # Of all its ways to end the one that lets Python's exit hooks run.
        command += ["--hook-master-start=unix_signal:15 gracefully_kill_them_all"]
        command += [*options, "--module=tests.servers.wsgi_app"]
        with running(command, fake, folder, **environment) as server:
            found = visit_all(listener.getsockname(), WORKERS)
            judge(found, server, fake, forked)
            stop_amid_a_call(listener.getsockname(), server)

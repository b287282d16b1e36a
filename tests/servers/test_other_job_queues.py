"""The examples for RQ and Dramatiq, with the real libraries and a real Redis."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from tests.support.needs import needs
from tests.support.programs import ROOT
from tests.support.running import running, script
from tests.support.thorough import LONG
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "examples"
TEXTS = ("first", "second", "third", "fourth")
ANSWERS = {f"echo: Summarise in one sentence: {text}" for text in TEXTS}

#: A worker of two threads, as "dramatiq" starts in each of its processes; the text goes through
#: Redis.
DRAMATIQ = """
import sys
import dramatiq, dramatiq_actors
for text in sys.argv[1:]:
    dramatiq_actors.summarise.send(text)
worker = dramatiq.Worker(dramatiq_actors.broker, worker_threads=2, worker_timeout=50)
worker.start()
dramatiq_actors.broker.join("default", interval=20)
worker.join()
worker.stop()
"""

#: As its first lines say, but that the worker ends when the queue is empty.
RQ = """
import functools, runpy, sys
import rq
rq.Worker.work = functools.partialmethod(rq.Worker.work, burst=True)
example = f"{sys.path[0]}/rq_jobs.py"
sys.argv[0] = example
jobs = runpy.run_path(example, run_name="__main__")["jobs"]
sys.argv = [example]
runpy.run_path(example, run_name="__main__")
for job in jobs:
    print(job.return_value(refresh=True))
"""


@pytest.fixture
def run(fake, warm, tmp_path, redis_url):
    """``run(program)`` is what it printed; 240 calls a minute, the first two at once."""
    server = fake(rpm=240, burst=2)
    environment = {
        **os.environ,
        "REDIS_URL": redis_url,
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": server.url,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(EXAMPLES))),
    }

    def run(program):
        done = warm.run(
            program, *TEXTS, folder=tmp_path, environment=environment, paths=[EXAMPLES, ROOT]
        )
        assert done.returncode == 0, done.stderr
        assert len([one for one in server.arrivals if one.status == 200]) == len(TEXTS)
        return done.stdout.splitlines()

    return run


@needs("middleware")
def test_actors_of_dramatiq_wait_for_their_turn(run):
    assert set(run(DRAMATIQ)) == ANSWERS


@needs("middleware")
def test_jobs_of_rq_wait_for_their_turn_each_in_a_process_of_its_own(run):
    """A process that RQ ends without Python's exit hooks holds up none of those after it."""
    assert set(run(RQ)) > ANSWERS  # among what RQ says itself


# -- at a minute's quota ---------------------------------------------------------------------------

JOBS = 30

#: Workers, as their examples say to start them; and those that have begun by which all have.
WORKERS = {
    "dramatiq_actors": [[script("dramatiq"), "-p", "4", "-t", "2", "dramatiq_actors"]],
    "rq_jobs": [[sys.executable, str(EXAMPLES / "rq_jobs.py")]] * 4,
}
BEGUN = 5


@pytest.mark.thorough
@LONG
@pytest.mark.parametrize("example", list(WORKERS))
def test_thirty_jobs_leave_at_the_pace_of_the_quota(fake, tmp_path, redis_url, example):
    """Sixty a minute, of four processes or more; no turn is lost between them."""
    api = fake(rpm=60, burst=2)
    environment = {
        "REDIS_URL": redis_url,
        "CLAUDE_THROTTLE_RPM": "60",
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": api.url,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(EXAMPLES))),
    }
    send = [sys.executable, str(EXAMPLES / f"{example}.py"), *(f"text {n}" for n in range(JOBS))]
    with contextlib.ExitStack() as workers:
        for number, command in enumerate(WORKERS[example]):
            folder = tmp_path / str(number)
            folder.mkdir()
            workers.enter_context(running(command, api, folder, **environment))
        subprocess.run(send, env={**os.environ, **environment}, check=True, capture_output=True)
        wait_until(lambda: len(api.arrivals) >= JOBS, 100)
    assert [arrival.status for arrival in api.arrivals] == [200] * JOBS
    least = JOBS - BEGUN
    assert api.arrivals[-1].at - api.arrivals[BEGUN - 1].at <= 1.03 * least

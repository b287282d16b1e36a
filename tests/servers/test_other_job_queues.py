"""The examples for RQ and Dramatiq, with the real libraries and a real Redis."""

from __future__ import annotations

import os

import pytest

from tests.support.programs import ROOT

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


def test_actors_of_dramatiq_wait_for_their_turn(run):
    assert set(run(DRAMATIQ)) == ANSWERS


def test_jobs_of_rq_wait_for_their_turn_each_in_a_process_of_its_own(run):
    """A process that RQ ends without Python's exit hooks holds up none of those after it."""
    assert set(run(RQ)) > ANSWERS  # among what RQ says itself

"""The Celery application among them: on real prefork workers, with a real Redis."""

from __future__ import annotations

import os

import pytest
from celery import Celery

from claude_throttle.testing import ClaudeApi
from tests.support.programs import ROOT
from tests.support.running import celery_worker, running
from tests.support.thorough import LONG

TASKS = 30
BURST = 2

LEGACY = ROOT / "examples" / "legacy"
BEFORE, AFTER = LEGACY / "before", LEGACY / "after"

#: What the application has, and the other way in.
MIDDLEWARE = "middleware=[throttler.middleware()]"
TRANSPORT = "http_client=anthropic.DefaultHttpxClient(transport=throttler.transport())"

PATIENCE_SECONDS = 100


@pytest.fixture
def summaries(tmp_path, redis_url):
    """``summaries(where, rpm, **environment)``: the texts of thirty tasks, and what arrived."""

    def run(where, rpm, **environment):
        command = celery_worker("celery_tasks", processes=8)
        paths = os.pathsep.join([str(where), str(ROOT)])
        environment = {"REDIS_URL": redis_url, "PYTHONPATH": paths, **environment}
        environment["ANTHROPIC_API_KEY"] = "sk-ant-example"
        sender = Celery("sender", broker=redis_url, backend=redis_url, set_as_current=False)
        with ClaudeApi(rpm=rpm, burst=BURST) as api, sender:
            environment["ANTHROPIC_BASE_URL"] = api.url
            with running(command, api, tmp_path, **environment):
                name = "celery_tasks.summarise"
                sent = [sender.send_task(name, [f"text {n}"]) for n in range(TASKS)]
                return [one.get(PATIENCE_SECONDS) for one in sent], api.arrivals

    return run


def expected():
    return [f"echo: Summarise: text {n}" for n in range(TASKS)]


@pytest.mark.thorough
@LONG
@pytest.mark.parametrize("door", [MIDDLEWARE, TRANSPORT], ids=["middleware", "transport"])
def test_tasks_that_catch_everything_are_answered(summaries, tmp_path, door):
    """At the quota's pace, with a client that was made before the fork; no turn is lost."""
    tasks = (AFTER / "celery_tasks.py").read_text()
    assert MIDDLEWARE in tasks
    (tmp_path / "celery_tasks.py").write_text(tasks.replace(MIDDLEWARE, door))
    texts, arrivals = summaries(tmp_path, 60, CLAUDE_THROTTLE_RPM="60")
    assert texts == expected()
    assert {arrival.status for arrival in arrivals} == {200}
    gaps = [b.at - a.at for a, b in zip(arrivals, arrivals[1:])]
    assert sum(gaps) <= 1.03 * (TASKS - 1), [round(gap, 2) for gap in gaps if gap > 1.02]


@pytest.mark.thorough
@LONG
def test_the_quota_is_learned_by_all_processes_together(summaries):
    texts, arrivals = summaries(AFTER, 60)
    assert texts == expected()
    assert sum(arrival.status == 429 for arrival in arrivals) <= 2 * 8


@pytest.mark.thorough
@LONG
def test_without_us_many_fail(summaries):
    texts, _ = summaries(BEFORE, 60)
    assert len(set(texts) & set(expected())) < TASKS - 5

"""Children of a multiprocessing pool."""

from __future__ import annotations

import sys

import pytest

from tests.support.programs import ROOT
from tests.support.running import PATIENCE_SECONDS, latency, running
from tests.support.visiting import judge

PROGRAM = str(ROOT / "tests/servers/pool.py")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(fake, tmp_path, method):
    """Each child has its own, the parent keeps its own, and what they leave is done."""
    fake = fake(latency=latency)
    with running([sys.executable, PROGRAM, method], fake, tmp_path) as server:
        assert server.process.wait(PATIENCE_SECONDS) == 0
    judge(server.reports(), server, fake, forked=method == "fork")
    left = {note.split()[0] for note in server.noted() if "late left" in note}
    assert left == {str(server.reports()[-1]["pid"])}

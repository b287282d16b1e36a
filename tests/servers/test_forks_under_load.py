"""Many forks while four threads are busy; with greenlets in their place, too."""

from __future__ import annotations

import sys

import pytest

from tests.support.programs import ROOT
from tests.support.running import running
from tests.support.thorough import only_thorough

PROGRAM = str(ROOT / "tests/servers/forking.py")


@pytest.mark.parametrize("patch", ["no", "early"], ids=["threads", "greenlets"])
@pytest.mark.parametrize("forks", [12, only_thorough(100)])
def test_forks_under_load(fake, tmp_path, patch, forks):
    """Each child gets its own answer, the parent all of its own, and nothing is asked twice."""
    fake = fake(latency=0.01)
    with running([sys.executable, PROGRAM, str(forks)], fake, tmp_path, PATCH=patch) as server:
        assert server.process.wait(60) == 0
        assert server.noted() == []
    sent = [arrival.nonce for arrival in fake.arrivals]
    assert len(sent) == len(set(sent))
    assert sum("child" in nonce for nonce in sent) == forks

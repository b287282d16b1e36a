"""The benchmark itself can be run; what it measures is no matter of a test."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench.__main__ import ROWS, main
from tests.bench.figures import at_most, none_of
from tests.bench.peer_clients import CLIENTS
from tests.bench.peers import SCENES, side_by_side
from tests.support.thorough import only_thorough

ROOT = Path(__file__).resolve().parents[1]

#: Of the calls; enough to go through the motions.
SHARE = 0.004


def bench(*arguments):
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


@pytest.mark.parametrize(("measured", "code"), [(1.2, 0), (1.4, 1)])
def test_a_row_is_measured_and_the_exit_code_tells_whether_it_is_reached(
    monkeypatch, capsys, measured, code
):
    """One row prints its figures with what was asked; the exit code is 1 if any falls short."""

    def figures(share):
        assert share == 0.1
        return [at_most("as often", measured, 1.3, "{:.2f}"), none_of("times it was there", 0)]

    def pool(count, mp_context):
        return ThreadPoolExecutor(count)

    monkeypatch.setitem(ROWS, "import", ("made up", figures))
    monkeypatch.setattr("tests.bench.__main__.ProcessPoolExecutor", pool)
    assert main(["import", "--share", "0.1"]) == code
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["row", "what", "asked", "measured"]
    assert [line.split()[0] for line in lines] == ["import", "import"]
    assert "≤ 1.30" in lines[0]
    assert ("FALLS SHORT" in lines[0]) == (code == 1)
    assert lines[1].split() == ["import", "times", "it", "was", "there", "0", "0", "ok"]


#: Rows that together use the server, the processes, a shared store and the official SDK.
BY_DEFAULT = ("burst-20", "stream", "redis-8", "sdk-pace")


@pytest.mark.parametrize(
    "name", [name if name in BY_DEFAULT else only_thorough(name) for name in ROWS]
)
def test_every_row_can_be_measured(name):
    """A row that breaks would be found out only in the long run before a release."""
    figures = ROWS[name][1](SHARE)
    assert figures
    assert all(figure.what and figure.asked and figure.measured for figure in figures)


@pytest.mark.thorough
def test_others_are_measured_where_they_are_installed():
    """Each client has a line on each server, and one that is not there does no harm."""
    packages = [package for _, package, _ in CLIENTS]
    places = [packages.index("claude_throttle"), packages.index("langchain-core")]
    head, *lines = side_by_side(SHARE, places)
    assert head == ("server", "client", "used", "429s", "failed", "seconds")
    assert len(lines) == len(SCENES) * len(places)
    for _, client, used, *_ in lines:
        found = used.endswith("%")
        assert found if "claude_throttle" in client else found or used == "not installed"


def test_the_table_of_others_is_listed_beside_the_rows(capsys):
    """It takes minutes, so it is not in a run of everything, but must be found."""
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*ROWS, "peers"]
    assert set(BY_DEFAULT) < set(listed)


def test_a_row_nobody_knows_is_refused_before_anything_is_measured():
    """A slip in a name must not look like a benchmark that was passed."""
    run = bench("imports")
    assert run.returncode == 2
    assert "no such row: imports" in run.stderr
    assert run.stdout == ""

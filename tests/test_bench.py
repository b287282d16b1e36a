"""The benchmark itself can be run; what it measures is no matter of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_a_row_is_measured_and_the_exit_code_tells_whether_it_is_reached():
    """One row prints its figures with what was asked; the exit code is 1 if any falls short."""
    run = bench("import", "--share", "0.1")
    head, *lines = run.stdout.splitlines()
    assert head.split() == ["row", "what", "asked", "measured"]
    assert [line.split()[0] for line in lines] == ["import", "import"]
    assert "≤ 1.30" in lines[0]
    assert lines[1].split() == ["import", "times", "anthropic", "was", "loaded", "0", "0", "ok"]
    assert run.returncode == ("FALLS SHORT" in run.stdout), run.stderr


def test_a_row_nobody_knows_is_refused_before_anything_is_measured():
    """A slip in a name must not look like a benchmark that was passed."""
    run = bench("imports")
    assert run.returncode == 2
    assert "no such row: imports" in run.stderr
    assert run.stdout == ""

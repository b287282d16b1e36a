"""The guide in examples/ tells the truth: its blocks are a project whose tests pass."""

from __future__ import annotations

import re

from .conftest import ROOT

pytest_plugins = ["pytester"]

GUIDE = (ROOT / "examples" / "guides" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_guides_own_tests_pass(project):
    """All of them, in the files it names, with warnings as errors."""
    assert GUIDE.count("```python") == len(BLOCKS)
    for name, text in BLOCKS:
        (project.path / name).write_text(text, encoding="utf-8")
    written = sum(text.count("\ndef test_") for _, text in BLOCKS)
    done = project.runpytest_subprocess(timeout=90)
    done.assert_outcomes(passed=written + 1)  # one has two parameters


def test_it_fits_on_two_pages():
    """Somebody has to read it."""
    assert GUIDE.count("\n") < 200

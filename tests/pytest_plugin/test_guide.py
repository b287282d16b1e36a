"""The guides to tests tell the truth: their blocks are a project whose tests pass."""

from __future__ import annotations

import re

from tests.support.documents import DOCUMENTS, checked_by

pytest_plugins = ["pytester"]

GUIDE = DOCUMENTS["examples/guides/testing.md"].read_text(encoding="utf-8")
BLOCKS = checked_by("test_guide.py::test_the_guides_own_tests_pass")
PARTS = [re.match(r"# (\w+\.py)\n(.*)", block.text, re.S).groups() for block in BLOCKS]


def test_the_guides_own_tests_pass(project):
    """All of them, in the files they name, with warnings as errors."""
    assert GUIDE.count("```python\n# ") == sum("testing.md" in block.file for block in BLOCKS)
    assert len(dict(PARTS)) == len(PARTS)
    for name, text in PARTS:
        (project.path / name).write_text(text, encoding="utf-8")
    written = sum(text.count("\ndef test_") for _, text in PARTS)
    done = project.runpytest_inprocess()
    done.assert_outcomes(passed=written + 1)  # one has two parameters


def test_it_fits_on_two_pages():
    """Somebody has to read it."""
    assert GUIDE.count("\n") < 200

"""The rules for the tests themselves: what they may import from one another."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


@functools.cache
def tree_of(path):
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported_by(path):
    """The names of all modules, or of what is in them, that a file of ours imports."""
    package = ("tests", *path.relative_to(TESTS).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _imports_among_tests():
    """Pairs of a file and a name under ``tests`` that it imports."""
    return [
        (path.relative_to(TESTS).as_posix(), name)
        for path in FILES
        for name in _imported_by(path)
        if name.startswith("tests.")
    ]


def test_no_test_module_imports_another_and_none_imports_a_conftest():
    """What two of them need is in tests/support; a conftest.py holds fixtures only."""
    found = _imports_among_tests()
    assert len(found) > 100, "a rule that looks at nothing holds always"
    wrong = [
        f"{file} imports {name}"
        for file, name in found
        if any(part.startswith("test_") or part == "conftest" for part in name.split(".")[1:-1])
    ]
    assert wrong == []


def test_support_imports_no_other_tests():
    """But for the scenes of the simulation: else a folder's tests could not be read alone."""
    allowed = ("tests.support", "tests.simulation.scenes")
    wrong = [
        f"{file} imports {name}"
        for file, name in _imports_among_tests()
        if file.startswith("support/") and not name.startswith(allowed)
    ]
    assert wrong == []

"""README and guides, their blocks of code, and which test checks each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.programs import ROOT

GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *GUIDES)}


class Block(NamedTuple):
    """A code block of a document."""

    file: str
    #: Of its opening fence.
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{Path(self.file).name}:{self.line}"


def _blocks_of(file):
    opened, lines = None, []
    for number, line in enumerate(DOCUMENTS[file].read_text("utf-8").splitlines(), 1):
        if opened is None and line.startswith("```"):
            opened, lines = (number, line[3:]), []
        elif line == "```":
            yield Block(file, *opened, "".join(lines))
            opened = None
        elif opened is not None:
            lines.append(f"{line}\n")
    assert opened is None, f"{file}:{opened} is never closed"


BLOCKS = [block for file in DOCUMENTS for block in _blocks_of(file)]


def blocks(language, file="README.md"):
    """The texts of a document's blocks."""
    return [block.text for block in BLOCKS if (block.language, block.file) == (language, file)]


class Check(NamedTuple):
    """Which blocks a test checks."""

    by: str
    is_for: Callable[[Block], bool]
    #: Why they do not run as they stand; empty if they do.
    why: str = ""


#: A block is checked by the first of these that is for it.
CHECKS = [
    Check(
        "test_readme.py::test_the_two_commands_are_the_ones_ci_runs",
        lambda block: block.language == "bash" and block.file == "README.md",
        "they install from the network; .ci/run runs them in fresh clones",
    ),
    Check(
        "test_guides.py::test_the_picture_shows_the_folders_there_are",
        lambda block: block.language == "text" and block.text.startswith("claude_throttle/\n"),
        "a picture of folders",
    ),
    Check(
        "test_guides.py::test_the_way_of_a_call_names_what_there_is",
        lambda block: block.language == "text" and block.text.startswith("caller"),
        "a picture of a call",
    ),
    Check(
        "test_readme.py::test_the_fake_api_of_the_command_line_answers",
        lambda block: block.language == "console" and " serve-fake" in block.text,
        "it runs until Ctrl-C",
    ),
    Check("test_readme.py::test_console_blocks_run", lambda block: block.language == "console"),
    Check(
        "test_readme.py::test_django_blocks_make_a_site",
        lambda block: block.language == "python" and block.text.startswith("# settings.py\n"),
        "parts of several files of a site, which has more than these lines",
    ),
    Check(
        "pytest_plugin/test_guide.py::test_the_guides_own_tests_pass",
        lambda block: block.language == "python" and bool(re.match(r"# \w+\.py\n", block.text)),
        "files of one project, for pytest",
    ),
    Check(
        "test_readme.py::test_flask_blocks_answer",
        lambda block: block.language == "python" and "ClaudeThrottle(app)" in block.text,
        "they make an application, which then has to be asked",
    ),
    Check(
        "test_readme.py::test_celery_blocks_answer",
        lambda block: block.language == "python" and "ClaudeTask" in block.text,
        "they need a Redis and a worker; with both: tests/servers/test_celery_tickets.py",
    ),
    Check("test_readme.py::test_python_blocks_run", lambda block: block.language == "python"),
]


def check_of(block):
    """The first check that is for *block*; None if there is none."""
    return next((check for check in CHECKS if check.is_for(block)), None)


def checked_by(test):
    """The blocks that are left to a test."""
    return [block for block in BLOCKS if check_of(block) and check_of(block).by.endswith(test)]

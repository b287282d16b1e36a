"""What the plugin does to projects that do not use it: nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.plugin_projects import STRICT
from tests.support.programs import ROOT

pytest_plugins = ["pytester"]

STRANGER = """
import sys

def test_nothing_was_loaded():
    ours = [name for name in sys.modules if name.split(".")[0] == "claude_throttle"]
    assert ours == []
    assert "pytest_claude_throttle" in sys.modules
"""

USER = """
import pytest

@pytest.mark.parametrize("text", ["a", "b", "c", "d"])
def test_uses_it(claude_api, claude_throttler, text):
    message = [{"role": "user", "content": text}]
    claude_throttler.call(model="m", max_tokens=5, messages=message, raw=True)
    assert claude_api.prompts == [text]
"""


def run(project, tests, *options):
    """In this process: to start another one costs two seconds."""
    project.makepyfile(tests)
    return project.runpytest_inprocess(*options)


def run_alone(project, tests, *options):
    """In a process that has imported nothing yet."""
    project.makepyfile(tests)
    return project.runpytest_subprocess(*options, timeout=90)


def test_it_loads_nothing_but_itself():
    """At every start of pytest, in every project; socket is there since pytest 7.1."""
    look = (
        "import sys, socket, pytest; before = set(sys.modules); import pytest_claude_throttle;"
        "print(sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['pytest_claude_throttle']"


def test_a_stranger_does_not_notice(project):
    """Nothing of ours is loaded, no warning is given, and none is an error."""
    run_alone(project, STRANGER).assert_outcomes(passed=1)


def test_it_can_be_switched_off(project):
    """Then there are no fixtures; and who asks for none is not touched."""
    off = "-pno:pytest_claude_throttle"
    project.makepyfile(test_other="def test_other(): pass")
    done = run(project, USER, off)
    done.assert_outcomes(passed=1, errors=4)
    done.stdout.fnmatch_lines(["*fixture 'claude_api' not found*"])


def test_others_can_be_switched_off(project):
    """It needs no other plugin."""
    off = ("-pno:monkeypatch", "-pno:tmpdir", "-pno:threadexception", "-pno:logging", "-pno:xdist")
    run(project, USER, *off).assert_outcomes(passed=4)


def test_naming_it_once_more_does_no_harm(project):
    """In a conftest, or on the command line, as who does not know of the entry point would."""
    project.makeconftest('pytest_plugins = ["pytest_claude_throttle"]')
    run(project, USER, "-ppytest_claude_throttle").assert_outcomes(passed=4)


@pytest.mark.thorough
def test_it_works_in_xdists_workers(project):
    """Each has its own server, on a port of its own."""
    run_alone(project, USER, "-n2").assert_outcomes(passed=4)


def test_claude_throttle_may_be_loaded_before_pytest(project):
    """By a settings module, say: pytest cannot rewrite it then, and must not call that an error."""
    assert "claude_throttle" in sys.modules
    assert "filterwarnings = error" in STRICT
    run(project, USER).assert_outcomes(passed=4)


@pytest.mark.thorough
def test_a_program_may_load_claude_throttle_and_start_pytest(project):
    """The same in a process of its own."""
    path = project.makepyfile(USER)
    started = "import sys, claude_throttle, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = project.run(sys.executable, "-c", started, str(path), timeout=90)
    assert done.ret == 0, done.stderr.str()
    done.assert_outcomes(passed=4)

"""The oldest releases of all libraries: the guide, setup.cfg and CI name the same ones."""

from __future__ import annotations

import configparser
import re

import pytest

from tests.support.programs import ROOT

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", "utf-8")
#: Not for their users, but for our tests.
OPTIONAL = {k: v for k, v in SETUP["options.extras_require"].items() if k != "test"}
REQUIRED = "\n".join([SETUP["options"]["install_requires"], *OPTIONAL.values()])
TESTED = SETUP["options.extras_require"]["test"]

ROW = re.compile(r"^\| `([a-z0-9]+)` \| ([\d.]+) \| ([\d.]+) \|", re.M)
GUIDE = (ROOT / "examples" / "guides" / "versions.md").read_text("utf-8")
ROWS = {name: (oldest, newest) for name, oldest, newest in ROW.findall(GUIDE)}
LOWEST = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / ".ci" / "lowest.txt").read_text(), re.M))


def bounds(requirements, name):
    """Its lower bounds, the one of the oldest Python first."""
    return re.findall(rf"^{name}>=([\d.]+)", requirements, re.M)


def numbers(version):
    found = [int(number) for number in version.split(".")]
    return tuple([*found, 0, 0, 0][:3])


def test_the_guide_has_a_row_for_each_library():
    """And pytest, whose plugin is loaded only where it is installed."""
    required = set(re.findall(r"^([a-z0-9]+)>=", REQUIRED, re.M))
    assert set(ROWS) == required | {"pytest"}


@pytest.mark.parametrize("name", ROWS)
def test_the_oldest_release_is_the_same_everywhere(name):
    """In the guide, in setup.cfg for users and tests, and where CI installs the lowest of all."""
    oldest, newest = ROWS[name]
    declared = bounds(REQUIRED, name)[:1] + bounds(TESTED, name)
    assert declared, name
    assert set(declared) == {oldest}
    assert numbers(LOWEST[name]) == numbers(oldest) < numbers(newest)


def test_ci_runs_an_sdk_of_each_era():
    """The oldest is in the lowest of all, the newest in the commands of the README."""
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    eras = re.findall(r"^ +era \S+ (\S+)", run, re.M)
    assert {"0.18.1", "0.34.2", "0.40.0", "0.64.0", "0.99.0", "0.108.0", "0.125.0"} < set(eras)
    assert {numbers(era)[0] for era in eras} == {0, 1}

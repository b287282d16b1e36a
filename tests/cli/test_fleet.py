"""``claude-throttle fleet``: who shares a quota."""

from __future__ import annotations

import json

import pytest

import claude_throttle
from claude_throttle import Throttler
from claude_throttle.cli.main import main
from tests.support.calls import ask


@pytest.fixture
def shared(tmp_path, fake):
    """The address of a file that one process uses, which has just made a call."""
    url = f"sqlite://{tmp_path}/quota.db"
    with Throttler(api_key="sk-ant-secret", base_url=fake.url, rpm=300, shared=url) as throttler:
        throttler.call(**ask())
        yield url


def test_it_shows_members_and_lanes(shared, capsys):
    assert main(["fleet", "--shared", shared]) == 0
    out = capsys.readouterr().out
    assert ": 1 process\n" in out
    assert "pid" in out
    assert "sonnet-5" in out
    assert "of 300 a minute" in out
    assert "secret" not in out


def test_it_speaks_json(shared, capsys):
    assert main(["fleet", "--shared", shared, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [set(member["lanes"]) for member in told["members"]] == [{"sonnet-5"}]
    assert {lane["lane"] for lane in told["lanes"]} == {"sonnet-5"}


def test_the_environment_names_the_store(shared, capsys, monkeypatch):
    monkeypatch.setenv("CLAUDE_THROTTLE_SHARED", shared)
    assert main(["fleet"]) == 0
    assert "sonnet-5" in capsys.readouterr().out


def test_nobody_there_is_no_success(tmp_path, capsys):
    assert main(["fleet", "--shared", f"sqlite://{tmp_path}/new.db"]) == 1
    assert "nobody is there" in capsys.readouterr().out


@pytest.mark.parametrize("address", ["sqlite://relative.db", "postgres://host", "", "redis"])
def test_an_address_that_is_none_is_wrong_usage(address, capsys, monkeypatch):
    monkeypatch.delenv("CLAUDE_THROTTLE_SHARED", raising=False)
    assert main(["fleet", "--shared", address]) == 2
    assert "shared" in capsys.readouterr().err


def test_a_store_that_does_not_answer_says_so_without_its_password(capsys):
    assert main(["fleet", "--shared", "redis://me:hidden@127.0.0.1:1/0", "--timeout", "0.5"]) == 1
    err = capsys.readouterr().err
    assert "127.0.0.1:1" in err
    assert "hidden" not in err


def test_the_front_door_tells_the_same(shared):
    state = claude_throttle.fleet(shared)
    assert [lane.suspended for lane in state.lanes] == [None]
    assert "left now" in str(state)


def test_a_line_of_tickets_is_no_lane_of_its_own(fake, tmp_path):
    """It is said of the lane it leads to."""
    shared = f"sqlite://{tmp_path}/tickets.db"
    settings = {"api_key": "sk-ant-secret", "base_url": fake.url, "rpm": 60}
    with Throttler(shared=shared, **settings) as throttler:
        throttler.call(**ask())
        for _ in range(31):
            throttler.line_up(**ask())
        state = claude_throttle.fleet(shared)
    assert [20 < lane.line_seconds <= 31 for lane in state.lanes] == [True]
    assert "s of tickets" in str(state)

"""pause() says how far it reaches; pause(everywhere=True) holds all processes of a store."""

from __future__ import annotations

import json
import logging
from collections import Counter

import pytest

import claude_throttle
from claude_throttle import ConfigurationError, Throttler
from claude_throttle.cli.main import main
from claude_throttle.contrib import status
from claude_throttle.features.sharing.shared_pause import NO_LANE, SharedPause, change_request
from claude_throttle.features.sharing.stores.contract import ExchangeRequest, MemberClaim
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.testing import FakeClaude
from tests.support.calls import ask
from tests.support.waiting import wait_until

KEY = "sk-ant-test-key-0000"


@pytest.fixture
def fake():
    with FakeClaude() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    """A store of each kind in turn."""
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite://{tmp_path}/quota.db" if request.param == "sqlite" else f"memory://{tmp_path}"


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite://{tmp_path}/quota.db"


@pytest.fixture
def join(fake):
    """Makes members of a store, which stand for processes; their events are in ``join.events``."""
    made = []

    def make(url, **settings):
        pace = {"rpm": 6000, "burst": 10, "store_timeout": 10}  # a busy machine loses no store
        settings = {"api_key": KEY, "base_url": fake.url, **pace, **settings}
        throttler = Throttler(shared=url, on_event=join.events.append, **settings)
        made.append(throttler)
        return throttler

    join = make
    join.events = []
    yield make
    for throttler in made:
        throttler.close(timeout=0, cancel_pending=True)


def answered(throttler):
    return throttler.submit(**ask()).result(timeout=10)


def held(throttler):
    return throttler.limits().paused_everywhere


def named(events):
    return Counter((type(one).__name__, *one) for one in events if "ByHand" in type(one).__name__)


def test_all_processes_are_held_those_that_start_later_too_until_any_of_them_resumes_all(
    url, join, fake
):
    one, other = join(url), join(url)
    answered(one)
    answered(other)
    one.pause(everywhere=True)
    wait_until(lambda: held(other))
    late = join(url)
    waiting = [member.submit(**ask()) for member in (one, other, late)]
    wait_until(lambda: held(late))
    assert len(fake.arrivals) == 2
    assert not any(future.done() for future in waiting)
    found = claude_throttle.fleet(url)
    assert len(found.paused) == 1
    assert "is paused everywhere" in str(found)
    late.resume(everywhere=True)
    for future in waiting:
        future.result(timeout=10)
    assert claude_throttle.fleet(url).paused == ()
    each = {("PausedByHand", True): 3, ("ResumedByHand", True): 3}
    wait_until(lambda: named(join.events) == each)


def test_a_pause_of_this_process_says_that_the_others_go_on(sqlite, join, caplog):
    one, other = join(sqlite), join(sqlite)
    answered(one)
    answered(other)
    with caplog.at_level(logging.WARNING, "claude_throttle"):
        one.pause()
        one.pause()
    assert caplog.text.count("those that share its store go on: pause(everywhere=True)") == 1
    assert named(join.events) == {("PausedByHand", False): 1}
    waiting = one.submit(**ask())
    answered(other)
    assert not waiting.done()
    assert (one.limits().paused, held(one), other.limits().paused) == (True, False, False)
    wait_until(lambda: sorted(m.paused for m in claude_throttle.fleet(sqlite).members) == [0, 1])
    assert "paused by its own pause()" in str(claude_throttle.fleet(sqlite))
    one.resume()
    waiting.result(timeout=10)
    assert named(join.events)["ResumedByHand", False] == 1


@pytest.mark.parametrize(
    ("steps", "paused"),
    [
        (["pause all", "resume"], True),
        (["pause all", "resume all"], False),
        (["pause", "resume all"], False),
        (["pause", "pause all", "resume"], True),
        (["pause", "pause all", "resume all"], False),
        (["pause all", "pause all", "resume all"], False),
        (["pause all", "resume all", "pause"], True),
        (["resume all", "pause all"], True),
        (["resume all"], False),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else str(value),
)
def test_a_process_is_held_while_either_pause_is_in_force(steps, paused, join):
    throttler = join("memory://rules")
    for step in steps:
        word, _, everywhere = step.partition(" ")
        getattr(throttler, word)(everywhere=bool(everywhere))
    assert throttler.limits().paused is paused
    throttler.resume(everywhere=True)


def test_without_a_store_nobody_else_can_be_told():
    with Throttler(api_key=KEY) as throttler:
        for steer in (throttler.pause, throttler.resume):
            with pytest.raises(ConfigurationError, match=r"everywhere=True needs shared="):
                steer(everywhere=True)


def test_in_testing_mode_only_its_own_calls_are_held():
    with Throttler(api_key=KEY, shared="memory://canned", testing=True) as throttler:
        throttler.pause(everywhere=True)
        waiting = throttler.submit(**ask())
        assert throttler.limits().paused
        throttler.resume(everywhere=True)
        waiting.result(timeout=10)


def test_draining_ends_it_for_the_process_that_drains(sqlite, join):
    one, other = join(sqlite), join(sqlite)
    answered(other)
    one.pause(everywhere=True)
    waiting = one.submit(**ask())
    assert one.drain(timeout=10) == 0
    waiting.result(timeout=0)
    wait_until(lambda: held(other))
    other.resume(everywhere=True)


def test_permits_and_endpoints_are_held_and_those_made_later_too(join):
    throttler = join("memory://permits")
    throttler.pause(everywhere=True)
    with pytest.raises(claude_throttle.DeadlineExceeded):
        throttler.permit(model="m", timeout=0.05)
    throttler.resume(everywhere=True)
    with throttler.permit(model="m", timeout=10):
        pass


# -- the store fails -------------------------------------------------------------------------------


def test_without_its_store_a_process_stays_held_and_tells_the_others_when_it_returns(
    tmp_path, join
):
    """A pause is a person's wish: a broken store must not end it."""
    path = tmp_path / "later" / "quota.db"
    path.parent.mkdir()
    url = f"sqlite://{path}"
    one, other = join(url), join(url)
    answered(one)
    answered(other)
    hidden = path.parent.rename(tmp_path / "away")
    one.pause(everywhere=True)
    waiting = one.submit(**ask())
    assert held(one)
    assert not held(other)
    hidden.rename(path.parent)
    other_call = other.submit(**ask())
    wait_until(lambda: held(other))
    assert not waiting.done()
    one.resume(everywhere=True)
    waiting.result(timeout=10)
    other_call.result(timeout=10)


def exchanged(pause, store, now):
    request = pause.add_to(change_request("member", 1e18), now)
    return pause.adopt_response(request, store.transact("account", NO_LANE, request))


def test_a_store_that_lost_its_memory_is_told_again_by_whoever_is_held():
    pause, moments = SharedPause(), iter(range(10, 99))
    pause.want(True)
    exchanged(pause, MemoryStore(lambda: 1.0), next(moments))
    empty = MemoryStore(lambda: 1.0)
    exchanged(pause, empty, next(moments))
    assert pause.in_force
    exchanged(pause, empty, next(moments))
    late = SharedPause()
    assert exchanged(late, empty, next(moments))
    assert late.in_force


def test_whoever_was_cut_off_while_all_resumed_goes_on_when_it_is_back():
    store = MemoryStore(lambda: 1.0)
    one, cut_off = SharedPause(), SharedPause()
    one.want(True)
    exchanged(one, store, 10.0)
    exchanged(cut_off, store, 11.0)
    one.want(False)
    exchanged(one, store, 12.0)
    assert exchanged(cut_off, store, 13.0)
    assert not cut_off.in_force


@pytest.mark.parametrize("paused", [True, False])
def test_two_that_ask_for_the_same_at_once_get_it(paused):
    store = MemoryStore(lambda: 1.0)
    pair = [SharedPause(), SharedPause()]
    for pause in pair:
        pause.want(paused)
    requests = [pause.add_to(change_request("m", 1e18), 10.0) for pause in pair]
    for pause, request in zip(pair, requests):
        pause.adopt_response(request, store.transact("account", NO_LANE, request))
    for pause in (*pair, SharedPause()):
        exchanged(pause, store, 11.0)
        assert pause.in_force is paused


def test_an_older_version_neither_ends_it_nor_is_stopped_by_it():
    """Its heartbeats do not ask for the total, and what it says of suspensions is kept apart."""
    store, pause = MemoryStore(lambda: 1.0), SharedPause()
    pause.want(True)
    exchanged(pause, store, 10.0)
    claim = MemberClaim(0, 1, 0.0, 1e6)
    for notice in (None, '{"": ["spend limit", "words", null]}', ""):
        beat = ExchangeRequest("old", 1e18, (), notice=notice, claim=claim)
        response = store.transact("account", NO_LANE, beat)
        assert (response.granted, response.notice) == (1, notice or "")
    late = SharedPause()
    exchanged(late, store, 11.0)
    assert late.in_force


def test_of_a_pause_and_a_resume_at_once_the_later_one_holds_for_the_calls_too(join, monkeypatch):
    """Between what this process knows and what its lanes do there is no lock."""
    throttler = join("memory://race")
    want, undone = SharedPause.want, []

    def want_and_be_overtaken(pause, paused):
        want(pause, paused)
        if not undone:
            undone.append(True)
            throttler.resume(everywhere=True)

    monkeypatch.setattr(SharedPause, "want", want_and_be_overtaken)
    throttler.pause(everywhere=True)
    assert not held(throttler)
    assert answered(throttler)


# -- from outside ----------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_THROTTLE_SHARED"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_command_line_pauses_and_resumes_every_key_of_a_store(url, join, environment, capsys):
    members = [join(url), join(url, api_key="sk-ant-another")]
    for member in members:
        answered(member)
    assert main(["pause", "--shared", url]) == 0
    assert "all processes are paused" in capsys.readouterr().out
    for member in members:
        wait_until(lambda: held(member))  # noqa: B023
    assert main(["fleet", "--shared", url, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["paused"]) == 2
    environment.setenv("CLAUDE_THROTTLE_SHARED", url)
    assert main(["resume", "--shared", url]) == 0
    for member in members:
        wait_until(lambda: not held(member))  # noqa: B023


def test_it_can_pause_before_anybody_has_started(sqlite, fake, join, environment):
    environment.setenv("ANTHROPIC_API_KEY", KEY)
    environment.setenv("ANTHROPIC_BASE_URL", fake.url)
    assert main(["pause", "--shared", sqlite]) == 0
    first = join(sqlite)
    waiting = first.submit(**ask())
    wait_until(lambda: held(first))
    assert main(["resume", "--shared", sqlite]) == 0
    waiting.result(timeout=10)
    assert len(fake.arrivals) == 1


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_nobody_to_steer_and_no_store_are_told(command, sqlite, environment, capsys):
    assert main([command, "--shared", sqlite]) == 1
    assert "nobody is in the store" in capsys.readouterr().err
    assert main([command]) == 2
    assert "name the store with --shared" in capsys.readouterr().err
    assert main([command, "--shared", "redis://127.0.0.1:1/0", "--timeout", "0.2"]) == 1
    assert f"claude-throttle {command}: " in capsys.readouterr().err


def test_the_page_and_the_table_say_it(join):
    throttler = join("memory://page")
    throttler.pause(everywhere=True)
    (shown,) = status.data({"default": throttler})["throttlers"]
    assert (shown["paused"], shown["paused_everywhere"]) == (True, True)
    assert "paused everywhere: nothing leaves until" in str(throttler.limits())
    assert b"t.paused_everywhere" in status.page()
    throttler.resume(everywhere=True)

"""``throttlers`` and ``throttler``, as the settings tell them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from claude_throttle import Closed, ConfigurationError, Throttler, UnknownSetting
from claude_throttle.contrib.django import MissingThrottler, throttler, throttlers
from tests.support.calls import ask, echo

ROOT = Path(__file__).parents[2]
KEY = "sk-ant-api03-of-the-tests"


def run_alone(program, **environment):
    """In an interpreter that has seen nothing of it; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_both_are_what_the_settings_tell(told):
    """And the proxy is the default one, however often it is asked."""
    told(default={"rpm": 70}, batch={"RPM": 7, "Max_Queue": 3})
    assert throttler.settings.rpm.amount == 70
    assert throttlers["batch"].settings.max_queue == 3
    assert throttler.settings is throttlers["default"].settings
    assert echo(throttler.call(**ask("hello"))) == "hello"
    assert repr(throttler) == repr(throttlers["default"])
    assert "rpm=70" in repr(throttler)
    assert {throttler: "kept"}[throttlers["default"]] == "kept"


def test_no_setting_means_one_that_learns(monkeypatch):
    """Its key is the environment's."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with override_settings():
        assert list(throttlers) == ["default"]
        assert throttler.settings.api_key == KEY
        assert not throttler.settings.tells_rate
        throttlers.reset()


def test_changed_settings_make_new_ones(told):
    """What the old ones had not sent is cancelled, and nothing of them is left."""
    told(default={})
    old = throttlers["default"]
    old.pause()
    waiting = throttler.submit(**ask())
    with override_settings(CLAUDE_THROTTLE={"default": {"api_key": KEY, "rpm": 3}}):
        assert throttler.settings.rpm.amount == 3
        with pytest.raises(CancelledError):
            waiting.result(10)
        with pytest.raises(Closed):
            old.submit(**ask())
    assert throttler.settings.rpm.amount == 60_000
    assert throttlers["default"] is not old
    assert throttler.settings.base_url == told.server.url


def test_other_settings_change_nothing(told):
    """Only ours."""
    told(default={})
    mine = throttlers["default"]
    with override_settings(DEBUG=True):
        assert throttlers["default"] is mine


def test_one_for_all_threads(told):
    """Django's own handlers would make one a thread, and a quota each."""
    told(default={})
    begin = threading.Barrier(8)

    def get(_n):
        begin.wait(10)
        return throttlers["default"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(get, range(8)))) == 1


def test_a_name_that_is_not_there(told):
    """It is our error, Django's, and a KeyError; the closest name is in it."""
    told(default={}, batch={})
    for kind in (ConfigurationError, ImproperlyConfigured, KeyError, MissingThrottler):
        with pytest.raises(kind, match=r"CLAUDE_THROTTLE has no 'bach'.*did you mean 'batch'\?"):
            throttlers["bach"]
    with override_settings(CLAUDE_THROTTLE={"batch": {}}), pytest.raises(ImproperlyConfigured):
        throttler.stats()


@pytest.mark.parametrize("wrong", [["default"], {"default": 50}, None, "default"])
def test_what_is_no_dict_of_dicts(wrong):
    """Said in both's words, whoever looks first."""
    with override_settings(CLAUDE_THROTTLE=wrong):
        for kind in (ConfigurationError, ImproperlyConfigured):
            with pytest.raises(kind, match=r"CLAUDE_THROTTLE.* must be a dict"):
                throttlers["default"]


def test_an_unknown_option():
    """The error is the throttler's own."""
    with override_settings(CLAUDE_THROTTLE={"default": {"RMP": 5}}):
        with pytest.raises(UnknownSetting, match="did you mean rpm="):
            throttler.stats()


def test_importing_asks_for_no_settings():
    """So it may stand at the top of any module, models.py too."""
    program = """
from claude_throttle.contrib.django import throttler, throttlers
from django.conf import settings
assert not settings.configured
print(type(throttlers).__name__)
"""
    assert run_alone(program) == ["DjangoThrottlers"]


def test_the_application_starts_nothing():
    """No thread, no network, nothing heavy: it runs for every command, and before forks."""
    program = """
import socket, sys, threading

def connect(*_given):
    raise AssertionError("somebody connects")

socket.socket.connect = connect
import django
django.setup()
from django.apps import apps
print(apps.get_app_config("claude_throttle").name)
heavy = {"requests", "urllib3", "anthropic", "redis"} & set(sys.modules)
print(*heavy, threading.active_count(), len(threading.enumerate()))
from claude_throttle.contrib.django import throttlers
print(len(throttlers.made()))
"""
    environment = {"DJANGO_SETTINGS_MODULE": "tests.with_django.settings"}
    name, *rest = run_alone(program, **environment)
    assert (name, rest) == ("claude_throttle.contrib.django", ["1", "1", "0"])


def test_a_child_has_its_own(told):
    """Which begins with nothing, under the same name."""
    told(default={})
    throttler.call(**ask("parent"))
    pid = os.fork()
    if pid == 0:
        try:
            said = echo(throttler.call(**ask("child"), timeout=20))
            os._exit(0 if said == "child" and isinstance(throttlers["default"], Throttler) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert echo(throttler.call(**ask("parent again"))) == "parent again"

"""Throttlers by name, as an application's settings tell them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle import Closed, ConfigurationError, UnknownSetting
from claude_throttle.contrib.throttlers import NoSuchThrottler, Throttlers
from tests.support.calls import ask

KEY = "sk-ant-test"

feedback = []


def told(**named):
    return Throttlers(lambda: {"default": {"api_key": KEY, "rpm": 50}, **named})


def test_each_name_is_one_throttler():
    """With its own options, in either case."""
    throttlers = told(batch={"API_KEY": KEY, "RPM": 10})
    assert throttlers["batch"] is throttlers["batch"]
    assert throttlers["batch"] is not throttlers["default"]
    assert throttlers["batch"].settings.rpm.amount == 10
    assert throttlers["default"].settings.rpm.amount == 50


def test_naming_them_makes_none():
    """Settings are read often, by checks and commands."""
    throttlers = told(batch={})
    assert (list(throttlers), len(throttlers)) == (["default", "batch"], 2)
    assert "batch" in throttlers
    assert "bach" not in throttlers
    assert throttlers.made() == {}


def test_many_threads_get_the_same_one():
    """A throttler for each thread would be a quota for each thread."""
    before = set(threading.enumerate())  # another test's last call may be on its way out
    for _ in range(20):
        throttlers, begin = told(), threading.Barrier(8)

        def get(throttlers=throttlers, begin=begin):
            begin.wait(10)
            return throttlers["default"]

        with ThreadPoolExecutor(8) as pool:
            got = [pool.submit(get) for _ in range(8)]
        assert len({id(future.result()) for future in got}) == 1
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if "claude" in thread.name]


def test_a_name_that_is_not_there():
    """The closest is named; get() knows it as a KeyError."""
    throttlers = told(batch={})
    with pytest.raises(NoSuchThrottler) as caught:
        throttlers["bach"]
    text = "CLAUDE_THROTTLE has no 'bach'; it has 'default', 'batch'; did you mean 'batch'?"
    assert str(caught.value) == text
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, KeyError)
    assert throttlers.get("bach") is None
    with pytest.raises(NoSuchThrottler, match="it has none"):
        Throttlers(dict)["default"]


def test_an_option_that_is_not_there():
    """As the throttler says it."""
    with pytest.raises(UnknownSetting, match="did you mean rpm="):
        told(batch={"RPMM": 1})["batch"]


def test_a_listener_by_its_dotted_name(fake):
    """Settings files name what they must not import."""
    server = fake()
    told_url = {"api_key": KEY, "base_url": server.url, "ON_EVENT": f"{__name__}.heard.append"}
    with pytest.raises(ConfigurationError, match=r"on_event='.*heard\.append' cannot be imported"):
        told(default=told_url)["default"]
    told_url["ON_EVENT"] = f"{__name__}.hear"
    throttlers = told(default=told_url)
    throttlers["default"].call(**ask())
    throttlers.reset()
    assert feedback


def hear(event):
    """A listener."""
    feedback.append(event)


def test_reset_forgets_and_closes():
    """Tests that change settings get throttlers of the new ones."""
    throttlers = told()
    before = throttlers["default"]
    throttlers.reset()
    assert throttlers.made() == {}
    assert throttlers["default"] is not before
    with pytest.raises(Closed):
        before.submit(**ask())
    throttlers.reset()


def test_a_fork_in_the_middle_of_making():
    """No lock is held that a child would wait for."""
    throttlers = told()
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            throttlers["default"]
            throttlers.reset()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if throttlers["default"] is throttlers["default"] else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()

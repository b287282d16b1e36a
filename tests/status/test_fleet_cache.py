"""What a shared store says: asked once for all who look; one that is silent holds up nobody."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from claude_throttle import ConfigurationError, ThrottleError
from claude_throttle.contrib.fleet_cache import FAILED_SECONDS, FRESH_SECONDS, FleetCache
from tests.support.fleet_samples import FLEET, STORE


class Store:
    """Counts who asks."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, shared, timeout):
        self.asked.append((shared, timeout))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_what_is_told(manual):
    """Members with their sums, lanes with their quotas, and whose page it is."""
    told = FleetCache(Store(FLEET), manual).current(STORE)
    mine, other = told["members"]
    assert (mine["waiting"], mine["in_flight"], mine["this"]) == (4, 6, True)
    assert (other["waiting"], other["in_flight"], other["this"]) == (0, 0, False)
    (lane,) = told["lanes"]
    assert (lane["waiting"], lane["in_flight"]) == (4, 1)
    assert lane["quotas"] == {"requests": {"left": 3.0, "a_minute": 60.0}}
    assert mine["account"] == lane["account"] == "012345"
    assert (told["store"], told["error"], told["age_seconds"]) == (STORE, None, 0.0)


def test_it_is_asked_once_in_two_seconds(manual):
    """Whoever looks meanwhile is told the same, and how old it is."""
    store = Store(FLEET)
    cache = FleetCache(store, manual)
    for _ in range(5):
        cache.current(STORE)
    manual.advance(FRESH_SECONDS - 0.1)
    assert cache.current(STORE)["age_seconds"] == pytest.approx(FRESH_SECONDS - 0.1)
    assert len(store.asked) == 1
    manual.advance(0.1)
    assert cache.current(STORE)["age_seconds"] == 0.0
    assert len(store.asked) == 2


def test_each_store_by_itself(manual):
    """Two addresses are two stores; clients are told apart by what they are."""
    store, client = Store(FLEET), object()
    cache = FleetCache(store, manual)
    for shared in (STORE, "redis://other", client, client, STORE):
        cache.current(shared)
    assert [shared for shared, _ in store.asked] == [STORE, "redis://other", client]


@pytest.mark.parametrize(
    "error", [ThrottleError("it stands still"), ConfigurationError("no store")]
)
def test_a_failure_is_told_in_words_and_kept_longer(manual, error):
    """Asking a store that stands still costs half a second each time."""
    store = Store(error, FLEET)
    cache = FleetCache(store, manual)
    told = cache.current(STORE)
    assert (told["error"], told["members"], told["store"]) == (str(error), [], None)
    manual.advance(FAILED_SECONDS - 0.1)
    cache.current(STORE)
    assert len(store.asked) == 1
    manual.advance(0.2)
    assert cache.current(STORE)["error"] is None


def test_who_comes_while_it_is_asked_does_not_wait(manual):
    """Gets the answer before; or, at first, that it is being asked."""
    asked, may_answer = threading.Event(), threading.Event()

    def slow(_shared, timeout):
        asked.set()
        assert may_answer.wait(10)
        return FLEET

    cache = FleetCache(slow, manual)
    found = []
    thread = threading.Thread(target=lambda: found.append(cache.current(STORE)))
    thread.start()
    assert asked.wait(10)
    assert cache.current(STORE)["error"] == "the store is being asked"
    may_answer.set()
    thread.join()
    assert found[0]["error"] is None
    asked.clear()
    may_answer.clear()
    manual.advance(3.0)
    thread = threading.Thread(target=cache.current, args=(STORE,))
    thread.start()
    assert asked.wait(10)
    assert cache.current(STORE)["age_seconds"] == 3.0
    may_answer.set()
    thread.join()


def test_a_bug_in_the_asking_does_not_end_it(manual):
    """Nor does Ctrl-C: the next one asks again."""
    store = Store(KeyboardInterrupt(), FLEET)
    cache = FleetCache(store, manual)
    with pytest.raises(KeyboardInterrupt):
        cache.current(STORE)
    assert cache.current(STORE)["error"] is None


def test_a_child_forked_in_the_midst_asks_for_itself(manual):
    """Whoever asked in the parent is not there to end it."""
    reading, writing = os.pipe()

    def forking(_shared, timeout):
        if os.getpid() == parent and os.fork() == 0:
            told = cache.current(STORE)
            os.write(writing, b"none" if told["error"] else b"told")
            os._exit(0)
        return FLEET

    parent = os.getpid()
    cache = FleetCache(forking, manual)
    cache.current(STORE)
    os.wait()
    assert os.read(reading, 10) == b"told"
    os.close(reading)
    os.close(writing)


def test_stores_nobody_looks_at_are_forgotten(manual):
    """A web site under test makes many."""
    cache = FleetCache(Store(FLEET), manual)
    for n in range(100):
        cache.current(f"redis://{n}")
        manual.advance(5.0)
    assert len(cache._answers) < 20


def test_a_store_that_never_answers_is_given_up():
    """A real one: it takes the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cache = FleetCache()
        shared = f"redis://:hush-hush@127.0.0.1:{silent.getsockname()[1]}/0"
        begun = time.monotonic()
        told = cache.current(shared)
        assert told["error"]
        assert "hush" not in str(told)
        assert time.monotonic() - begun < 15.0
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                silent.accept()[0].close()
        assert cache.current(shared)["error"] == told["error"]
        with pytest.raises(BlockingIOError):  # it was not asked again
            silent.accept()

"""Several throttlers in one process that share a store, and what they do when it fails."""

from __future__ import annotations

import os
import threading
from collections import Counter
from functools import partial

import pytest
from anthropic import BadRequestError

from claude_throttle import AccountSuspended, DeadlineExceeded, QueueFull, Throttler
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.features.sharing import open_store
from claude_throttle.features.sharing.stores.contract import StoreFailed
from claude_throttle.features.sharing.stores.memory import MemoryStore
from claude_throttle.testing import CREDIT_TOO_LOW, FakeClaude, worst_excess
from tests.support import calls
from tests.support.inside import engine_of
from tests.support.waiting import wait_until


class Frail(MemoryStore):
    """Fails while it is told to."""

    name = "frail"

    def __init__(self):
        super().__init__(SYSTEM_CLOCK.monotonic)
        self.broken = False
        self.asked = threading.Event()

    def transact(self, account, lane, request):
        self.asked.set()
        self._require()
        return super().transact(account, lane, request)

    def read_clock(self):
        self._require()
        return super().read_clock()

    def _require(self):
        if self.broken:
            raise StoreFailed("frail is broken")


@pytest.fixture
def store(monkeypatch):
    """What shared="memory://here" opens."""
    store = Frail()
    monkeypatch.setitem(open_store._in_memory, f"{os.getpid()} here", store)
    return store


@pytest.fixture
def crew():
    """Makes throttlers that are closed in the end; their events are in ``crew.events``."""
    made = []

    def make(server, **settings):
        settings = {"api_key": "sk-ant-none", "base_url": server.url, **settings}
        throttle = Throttler(shared="memory://here", on_event=make.events.append, **settings)
        made.append(throttle)
        return throttle

    make.events = []
    yield make
    for throttle in made:
        throttle.close(timeout=0, cancel_pending=True)


#: Its lane is sonnet-4.
ask = partial(calls.ask, model="claude-sonnet-4-5")


def kinds(crew):
    return Counter(type(event).__name__ for event in crew.events)


def wait_for(crew, kind, times=1):
    """Until so many events of that name were told."""
    wait_until(lambda: kinds(crew)[kind] >= times)


def test_four_throttlers_keep_one_quota(store, crew):
    """By the server's own log; each call is answered, and with its own answer."""
    with FakeClaude(rpm=6000, burst=20) as server:
        four = [crew(server, rpm=3000) for _ in range(4)]
        futures = {f"{n}": throttle.submit(**ask(f"{n}")) for n, throttle in enumerate(four * 25)}
        for nonce, future in futures.items():
            assert nonce in future.result(60)["content"][0]["text"]
        at = [arrival.at for arrival in server.arrivals]
    assert len(at) == 100
    # Between the leave and the server's log lies a thread that may have to wait for the others.
    assert worst_excess(at, [1] * 100, 50.0, 1.0, tolerance_seconds=0.05) <= 0


def test_a_limit_is_learned_once_for_all(store, crew):
    with FakeClaude(rpm=600, burst=20) as server:
        one, two = crew(server), crew(server)
        one.call(**ask())
        wait_until(lambda: any(lane.facts for lane in store.fleet().lanes))
        two.call(**ask())
        quotas = {quota.kind: quota for quota in two.limits()["sonnet-4"].quotas}
    assert quotas["requests"].learned == 600
    assert kinds(crew)["LimitLearned"] == len(quotas)


def test_two_accounts_never_mix(store, crew):
    """The second has a key of its own, and with it a quota of its own."""
    with FakeClaude() as server:
        one = crew(server, rpm=60)
        two = crew(server, rpm=60, api_key="sk-ant-another")
        for throttle in (one, two):
            throttle.call(**ask(), timeout=5)
        assert len({account for account, _ in store._lanes}) == 2
        assert "none" not in repr(store._lanes)


def test_a_store_that_fails_costs_no_call(store, crew):
    """Each goes on with its part, says so, and comes back by itself."""
    with FakeClaude() as server:
        throttle = crew(server, rpm=6000)
        throttle.call(**ask())
        store.broken = True
        futures = [throttle.submit(**ask()) for _ in range(20)]
        for future in futures:
            future.result(30)
        assert kinds(crew)["StoreLost"] == 1
        store.broken = False
        wait_for(crew, "StoreReturned")
        throttle.call(**ask())
    assert kinds(crew)["StoreLost"] == kinds(crew)["StoreReturned"] == 1


def test_a_store_that_was_never_there_costs_no_call(store, crew):
    """A web application may start before its Redis does."""
    store.broken = True
    with FakeClaude() as server:
        crew(server, rpm=6000).call(**ask())
    assert kinds(crew)["StoreLost"] == 1


def test_stop_waits_for_the_store(store, crew):
    with FakeClaude() as server:
        throttle = crew(server, rpm=6000, on_store_failure="stop")
        throttle.call(**ask())
        store.broken = True
        future = throttle.submit(**ask())
        wait_for(crew, "StoreLost")
        assert len(server.arrivals) == 1
        store.broken = False
        future.result(30)


def test_a_deadline_holds_while_the_store_is_waited_for(store, crew):
    with FakeClaude() as server:
        throttle = crew(server, rpm=6000, on_store_failure="stop")
        store.broken = True
        future = throttle.submit(**ask(), timeout=0.3)
        with pytest.raises(DeadlineExceeded):
            future.result(10)
        assert not server.arrivals


def test_slots_in_flight_are_shared(store, crew):
    """Three between two throttlers; nobody starves."""
    with FakeClaude(latency=0.05) as server:
        two = [crew(server, rpm=60_000, max_concurrency=3) for _ in range(2)]
        futures = [throttle.submit(**ask()) for throttle in two * 15]
        for future in futures:
            future.result(60)
        assert max(arrival.in_flight for arrival in server.arrivals) <= 3


def test_a_limit_on_requests_in_flight_is_found_once_for_all(store, crew):
    """The API takes six: three throttlers share them, and whoever comes later knows."""
    with FakeClaude(max_concurrency=6, latency=0.1) as server:
        three = [crew(server) for _ in range(3)]
        futures = [throttle.submit(**ask()) for throttle in three * 30]
        for future in futures:
            future.result(60)
        refused = sum(arrival.status == 429 for arrival in server.arrivals)
        assert 0 < refused <= 30
        late = crew(server)
        late.call(**ask())
        assert 3 <= engine_of(late).account.limiter.of_all <= 8
    assert not kinds(crew)["LanePaused"]


def test_refusals_while_the_store_is_silent_hold_nobody_up(store, crew):
    """Each keeps to what it finds by itself, and to one request at least."""
    with FakeClaude(max_concurrency=2, latency=0.02) as server:
        two = [crew(server) for _ in range(2)]
        for throttle in two:
            throttle.call(**ask())
        store.broken = True
        futures = [throttle.submit(**ask()) for throttle in two * 20]
        for future in futures:
            future.result(60)


def test_the_first_call_after_a_rest_waits_for_no_beat(store, crew):
    """Its places were given back: it asks for one at once, not with the next sign of life."""
    with FakeClaude() as server:
        throttle = crew(server, rpm=60_000, max_concurrency=3)
        process = engine_of(throttle)
        for _ in range(2):
            throttle.call(**ask())
            wait_until(lambda: process.account.limiter.granted == 0)
            wait_until(lambda: process.account.coordinator._is_patient)
            throttle.call(**ask())
        assert throttle.stats().queue_wait_seconds.max < 0.2


def test_a_suspension_is_everybodys(store, crew):
    """One hears of it from the API, the other from the store; resume() ends it for both."""
    with FakeClaude() as server:
        one, two = crew(server, rpm=60_000), crew(server, rpm=60_000)
        two.call(**ask())
        two.pause()
        waiting = two.submit(**ask())
        server.outage(reply=CREDIT_TOO_LOW)
        with pytest.raises(BadRequestError, match="credit"):
            one.call(**ask())
        with pytest.raises(AccountSuspended, match="credit"):
            waiting.result(10)
        wait_for(crew, "Suspended", times=2)
        server.outage(False)
        one.resume()
        wait_for(crew, "SuspensionEnded", times=2)
        two.resume()
        two.call(**ask())


def test_close_says_good_bye(store, crew):
    """What it had is free at once, and what it took is told."""
    with FakeClaude() as server:
        throttle = crew(server, rpm=6000, max_concurrency=4)
        throttle.call(**ask())
        throttle.close()
    assert store.fleet().members == []


def test_a_bug_in_the_ledger_fails_no_call(store, crew, monkeypatch):
    """Whatever it raises, the store is taken for lost, and the calls go on."""

    def broken(account, lane, request):
        raise TypeError("a record of another shape")

    with FakeClaude() as server:
        throttle = crew(server, rpm=6000)
        monkeypatch.setattr(store, "transact", broken)
        throttle.call(**ask())
        wait_for(crew, "StoreLost")


def test_a_full_queue_says_so_whoever_has_the_slots(store, crew):
    with FakeClaude(latency=0.2) as server:
        throttle = crew(server, rpm=6000, max_concurrency=1, max_queue=1)
        throttle.pause()
        throttle.submit(**ask())
        with pytest.raises(QueueFull):
            throttle.submit(**ask())
        assert throttle.estimate_wait(**{k: v for k, v in ask().items() if k != "raw"}) > 0

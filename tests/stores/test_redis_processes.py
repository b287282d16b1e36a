"""Several processes on one Redis: together they never take more than there is."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from claude_throttle.features.sharing.stores.contract import MemberClaim
from claude_throttle.features.sharing.stores.redis import RedisStore
from tests.support.store_requests import LANE, new_account, reserving

PROCESSES = 3
INTERVAL = 2000.0  # microseconds
BATCHES = 100


def _reserve(url, account, name, start, told):
    """Batches of different sizes, now and then with a look at who else is there."""
    store = RedisStore(url, time.monotonic, timeout_seconds=10)
    store.read_clock()
    instants, longest = [], 0.0
    start.wait()
    for number in range(BATCHES):
        claim = MemberClaim(0, 4, 6.0, 15e6) if number % 10 == 0 else None
        asked = reserving(1 + number % 7, INTERVAL, 3.0, member=name, claim=claim, horizon=1e5)
        began = time.monotonic()
        response = store.transact(account, LANE, asked)
        longest = max(longest, time.monotonic() - began)
        assert response.granted <= 6
        instants += [response.now + wait for wait in response.waits]
    told.put((instants, longest))
    store.close()


@pytest.fixture
def reserved(redis_url):
    """The instants of each process, and its longest wait."""
    context = multiprocessing.get_context("spawn")
    start, told, account = context.Barrier(PROCESSES), context.Queue(), new_account()
    processes = [
        context.Process(target=_reserve, args=(redis_url, account, f"p{n}", start, told))
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        yield [told.get(timeout=60) for _ in processes]
    finally:
        for process in processes:
            process.join(60)
            assert process.exitcode == 0


def test_no_window_holds_more_than_the_quota(reserved):
    """Each instant is given once, whoever asks; nobody starves; nobody waits long for an answer."""
    instants = sorted(instant for mine, _ in reserved for instant in mine)
    assert len(instants) > PROCESSES * BATCHES
    for first in range(0, len(instants), 7):
        for last in range(first, min(first + 200, len(instants))):
            # A burst of 3, and 1 ms of slack.
            allowed = 3 + (instants[last] - instants[first] + 1001) / INTERVAL
            assert last - first + 1 <= allowed + 1e-6
    shares = [len(mine) for mine, _ in reserved]
    assert min(shares) * 3 > max(shares)
    assert max(longest for _, longest in reserved) < 1

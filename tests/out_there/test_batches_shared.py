"""Batches share their pace over the store, and appear in ``stats()``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from claude_throttle import Throttler
from tests.support.batches import pairs


@pytest.fixture
def shared(request, fake):
    """Throttlers with one store, as in two processes."""
    made = []

    def make(server, **settings):
        url = f"memory://{request.node.name}"
        made.append(Throttler(api_key="k", base_url=server.url, shared=url, **settings))
        return made[-1]

    yield make
    for throttler in made:
        throttler.close(timeout=0, cancel_pending=True)


def test_two_processes_keep_one_pace_for_batches(fake, shared):
    """The tier allows 1,000 requests about batches a minute: for both together."""
    server = fake()
    # On a busy machine what left in turn may arrive together; sixteen unpaced are too many.
    server.batches.limits(rpm=1000, burst=6)
    both = [shared(server, tier="start", max_retries=0) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(one.batches.recent) for one in both * 8]
        assert [answer.result(20) for answer in asked] == [[]] * 16
    assert {arrival.status for arrival in server.batches.arrivals} == {200}


def test_stats_tell_of_batches(fake, throttle):
    server = fake()
    server.batches.end({"r1": "expired"})
    throttler = throttle(server)
    handle = throttler.batches.submit(pairs(3), raw=True)
    assert throttler.stats().batch_results == {}
    assert len(handle.result(20)) == len(handle.result(20)) == 3
    stats = throttler.stats()
    assert (stats.batches_created, stats.batch_requests) == (1, 3)
    assert stats.batch_results == {"succeeded": 2, "expired": 1}
    assert stats.batch_input_tokens > 0 < stats.batch_output_tokens
    assert stats.batch_sends == len(server.batches.arrivals)
    assert (stats.submitted, stats.sent, stats.input_tokens) == (0, 0, 0)
    assert "1 created, 3 requests, 1 expired, 2 succeeded" in str(stats)

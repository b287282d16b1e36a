"""count_tokens="api": each call is counted by the API before it queues."""

from __future__ import annotations

import json

import pytest

from claude_throttle import ConfigurationError, DeadlineExceeded, Settings
from claude_throttle.testing import Reply
from claude_throttle.transport.count_tokens import COUNTED, count_body, read_count
from tests.support.calls import MODEL, ask, echo
from tests.support.inside import note_departures
from tests.support.waiting import wait_until


def counts(server):
    return [arrival for arrival in server.other_arrivals if arrival.path.endswith("count_tokens")]


def test_each_call_is_counted_once_and_booked_as_counted(fake, throttle):
    """The fake counts four characters a token; our own guess would be another."""
    server = fake()
    throttler = throttle(server, count_tokens="api")
    taken = note_departures(throttler, lambda cost, now: cost)
    futures = [throttler.submit(**ask("x" * 400 * n)) for n in (1, 2, 3)]
    for future in futures:
        future.result(10)
    assert len(counts(server)) == 3
    assert sorted(cost.input_tokens for cost in taken) == pytest.approx([100, 200, 300], abs=10)


def test_by_default_nobody_is_asked(fake, throttle):
    """The text tells well enough."""
    server = fake()
    throttle(server).call(**ask())
    assert counts(server) == []


@pytest.mark.parametrize(
    "setting", [{"count_rpm": 1, "count_burst": 1}, {"count_rpm": 60, "count_burst": 1}]
)
def test_a_count_that_is_refused_costs_nothing_but_precision(fake, throttle, setting):
    """The endpoint has a quota of its own; calls go on with their estimates."""
    server = fake(**setting)
    throttler = throttle(server, count_tokens="api")
    futures = [throttler.submit(**ask(str(n))) for n in range(20)]
    assert [echo(future.result(10)) for future in futures] == [str(n) for n in range(20)]
    assert throttler.stats().retried == 0


def test_a_call_that_is_cancelled_while_it_is_counted_frees_its_place(fake, throttle):
    """And is not sent afterwards."""
    server = fake(count_rpm=6, count_burst=1)
    throttler = throttle(server, rpm=1, count_tokens="api", max_queue=3)
    throttler.call(**ask("first"))
    waiting = [throttler.submit(**ask(str(n))) for n in range(3)]
    assert all(future.cancel() for future in waiting)
    assert throttler.stats().waiting == 0
    again = [throttler.submit(**ask(str(n))) for n in range(3)]
    throttler.close(timeout=0, cancel_pending=True)
    assert all(future.done() for future in again)
    assert len(server.arrivals) == 1


def test_a_deadline_holds_while_it_is_counted(fake, throttle):
    """The worker of the counting lane ends it."""
    server = fake(count_rpm=1, count_burst=1)
    throttler = throttle(server, rpm=1, count_tokens="api")
    throttler.call(**ask())
    future = throttler.submit(timeout=0.2, **ask())
    with pytest.raises(DeadlineExceeded):
        future.result(10)


def test_close_finishes_what_is_being_counted(fake, throttle):
    """It was accepted."""
    server = fake()
    throttler = throttle(server, count_tokens="api")
    futures = [throttler.submit(**ask(str(n))) for n in range(5)]
    throttler.close()
    assert [echo(future.result(0)) for future in futures] == [str(n) for n in range(5)]


def test_what_is_asked_is_the_same_request_without_what_the_endpoint_refuses():
    """max_tokens, stream and metadata would be a 400."""
    body = {"model": MODEL, "max_tokens": 5, "messages": [], "system": "ä", "metadata": {}}
    asked = json.loads(count_body(json.dumps(body).encode()))
    assert asked == {"model": MODEL, "messages": [], "system": "ä"}
    assert {"max_tokens", "metadata", "stream", "temperature"}.isdisjoint(COUNTED)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"input_tokens": -1}', b'{"input_tokens": true}']
)
def test_an_answer_that_is_no_count_is_none(body):
    """The estimate stands then."""
    assert read_count(body) is None


def test_only_two_ways_to_count():
    """A slip is told at once."""
    with pytest.raises(ConfigurationError, match='"estimate" or "api"'):
        Settings(count_tokens="API")


# -- the Rate Limits API ---------------------------------------------------------------------------


def test_an_admin_key_gives_a_head_start(fake, throttle):
    """Limits stand before the first answer has come."""
    server = fake(rpm=1200, itpm=100_000, burst=20, latency=0.5)
    throttler = throttle(server, rpm=None, admin_key="sk-ant-admin01-x")
    future = throttler.submit(**ask())
    wait_until(lambda: throttler.limits()["sonnet-5"].quotas)
    assert not future.done()
    told = {
        quota.kind: (quota.in_force, quota.source)
        for quota in throttler.limits()["sonnet-5"].quotas
    }
    assert told["requests"] == (1200, "rate limits API")
    future.result(10)
    sources = {quota.source for quota in throttler.limits()["sonnet-5"].quotas}
    assert sources == {"headers"}


def test_an_admin_key_that_is_refused_does_no_harm(fake, throttle, caplog):
    """One warning, without the key; limits are learned as ever."""
    server = fake(rpm=1200)
    throttler = throttle(server, rpm=None, admin_key="sk-not-an-admin")
    throttler.call(**ask())
    wait_until(lambda: "Rate Limits API did not tell" in caplog.text)
    assert "sk-not" not in caplog.text
    assert throttler.limits()["sonnet-5"].quotas[0].source == "headers"


def test_it_is_asked_once(fake, throttle):
    """However many models, threads and calls there are."""
    server = fake(rpm=60_000)
    throttler = throttle(server, rpm=None, admin_key="sk-ant-admin01-x")
    for model in (MODEL, "claude-haiku-4-5", MODEL):
        throttler.call(**{**ask(), "model": model})
    paths = [arrival.path for arrival in server.other_arrivals]
    assert len([path for path in paths if "rate_limits" in path]) == 1


def test_a_refusal_reply_can_be_scripted(fake, throttle):
    """A 500 at the first call does not keep the limits from being read."""
    server = fake(rpm=600)
    server.script(Reply(500))
    throttler = throttle(server, rpm=None, admin_key="sk-ant-admin01-x")
    throttler.call(**ask())
    wait_until(lambda: throttler.limits()["sonnet-5"].quotas)

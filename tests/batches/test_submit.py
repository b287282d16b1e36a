"""Requests in, results out: their names, their order, how they are cut into batches."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc

import anthropic
import pytest

from claude_throttle import BrokenAnswer, InvalidCall, Unprocessed
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.features.batches.upload import BatchBounds, split
from tests.support.batches import asked, bounded, pairs, params, text_of
from tests.support.calls import MODEL


def test_results_come_in_the_callers_order(fake, throttle):
    """The fake sends them shuffled, as the API may."""
    server = fake()
    sent = pairs(50)
    handle = throttle(server).batches.submit(sent, raw=True)
    results = handle.result(timeout=10)
    assert [result.custom_id for result in results] == [name for name, _ in sent]
    assert [text_of(result) for result in results] == [f"prompt {n}" for n in range(50)]
    assert {result.kind for result in results} == {"succeeded"}


def test_messages_are_the_sdks_and_pickle(fake, throttle):
    """As those of call()."""
    (result,) = throttle(fake()).batches.submit([params("one")]).result(timeout=10)
    assert isinstance(result.message, anthropic.types.Message)
    again = pickle.loads(pickle.dumps(result))
    assert text_of(again) == "one"
    assert again.message == result.message


def test_requests_may_be_written_in_three_ways(fake, throttle):
    """Parameters, the API's own form, a pair; who names none gets a name of place and content."""
    server = fake()
    requests = [params("a"), {"custom_id": "x", "params": params("b")}, ("y", params("c"))]
    handle = throttle(server).batches.submit(iter([*requests, params("a")]))
    first, *named, last = handle.custom_ids
    assert named == ["x", "y"]
    assert first.startswith("request-0-")
    assert last == first.replace("request-0-", "request-3-")
    assert server.batches.created == [[first, "x", "y", last]]
    again = throttle(fake()).batches.submit([params("a")])
    assert again.custom_ids == (first,)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (params(max_tokens=0), "max_tokens= must be a whole number"),
        ({"model": MODEL, "max_tokens": 5}, "messages= is missing"),
        (params(priority=3), "priority= is a word of submit()"),
        (params(stream=True), "stream="),
        (("two words", params()), "custom_id must be 1 to 64"),
        (("x" * 65, params()), "custom_id must be 1 to 64"),
        ({"custom_id": 7, "params": params()}, "custom_id must be 1 to 64"),
        (("r1", params()), "custom_id r1 was used by an earlier request"),
        ("a prompt", "a request is a dict"),
        ({"custom_id": "x", "params": "a prompt"}, "a request is a dict"),
    ],
)
def test_a_flaw_in_the_last_request_sends_none(fake, throttle, request_, words):
    """Found before anything was sent, and told by its place."""
    server = fake()
    with pytest.raises(InvalidCall) as caught:
        throttle(server).batches.submit([*pairs(3), request_])
    assert words in str(caught.value)
    assert "request 3 (from 0)" in str(caught.value)
    assert server.batches.arrivals == []


@pytest.mark.parametrize("requests", [[], iter(()), {"a": 1}, "text"])
def test_nothing_to_send_is_refused(fake, throttle, requests):
    """Also what is no list of requests."""
    server = fake()
    with pytest.raises(InvalidCall):
        throttle(server).batches.submit(requests)
    assert server.batches.arrivals == []


def test_who_breaks_off_while_he_brings_requests_has_sent_none(fake, throttle):
    """The caller's own error comes out as it is."""

    def broken():
        yield from pairs(3)
        raise LookupError("no more rows")

    server = fake()
    with pytest.raises(LookupError):
        throttle(server).batches.submit(broken())
    assert server.batches.arrivals == []


def test_more_than_a_batch_holds_become_several(fake, throttle):
    """By their number; the order goes through all of them."""
    server = fake()
    handle = bounded(throttle(server), BatchBounds(requests=4)).submit(pairs(10), raw=True)
    assert [len(names) for names in server.batches.created] == [4, 4, 2]
    assert len(handle.ids) == 3
    results = handle.result(timeout=10)
    assert [text_of(result) for result in results] == [f"prompt {n}" for n in range(10)]


def test_batches_are_cut_by_their_bytes(fake, throttle):
    """No body is longer than allowed, and as much as fits goes together."""
    server = fake()
    bounds = BatchBounds(bytes=1000)
    bounded(throttle(server), bounds).submit(pairs(30))
    sizes = [int(a.headers["content-length"]) for a in server.batches.arrivals]
    assert max(sizes) <= 1000
    assert min(sizes[:-1]) > 1000 - 200
    assert sum(map(len, server.batches.created)) == 30


def test_each_request_keeps_its_own_error(fake, throttle):
    """The SDK's exceptions for what the API refused, by the error's type; ours for the rest."""
    server = fake()
    refused = {"type": "invalid_request_error", "message": "temperature: no longer supported"}
    server.batches.end({"r1": refused, "r2": "errored", "r3": "canceled", "r4": "expired"})
    results = throttle(server).batches.submit(pairs(6), raw=True).result(timeout=10)
    kinds = ["succeeded", "errored", "errored", "canceled", "expired", "succeeded"]
    assert [result.kind for result in results] == kinds
    classes = [type(result.error) for result in results]
    expected = [anthropic.BadRequestError, anthropic.APIStatusError, Unprocessed, Unprocessed]
    assert all(issubclass(k, e) for k, e in zip(classes[1:5], expected))
    assert classes[0] is classes[5] is type(None)
    assert "temperature" in str(results[1].error)
    assert results[2].error.status_code == 529
    assert [results[n].error.reason for n in (3, 4)] == ["canceled", "expired"]
    for result in pickle.loads(pickle.dumps(results))[1:5]:
        assert "prompt" not in str(result.error)
        assert result.error.args


def test_progress_tells_how_they_stand(fake, throttle, manual):
    """All are processing until their batch ends: that is how the API tells it."""
    server = fake(clock=manual)
    server.batches.seconds = 30
    server.batches.end({"r0": "expired"})
    handle = throttle(server, clock=manual).batches.submit(pairs(3))
    assert (handle.progress().processing, handle.progress().total) == (3, 3)
    assert not handle.done()
    manual.advance(31)
    assert handle.done()
    assert handle.progress() == (0, 2, 0, 0, 1)


def test_canceling_ends_them(fake, throttle):
    """What had no turn yet says so."""
    server = fake()
    server.batches.seconds = 3600
    handle = throttle(server).batches.submit(pairs(2), poll_seconds=0.05)
    handle.cancel()
    assert [result.kind for result in handle.result(timeout=10)] == ["canceled", "canceled"]


def test_results_are_brought_once(fake, throttle):
    """Ask for them as often as you like."""
    server = fake()
    handle = throttle(server).batches.submit(pairs(2), raw=True)
    assert handle.result(timeout=10) == handle.result(timeout=10) == list(handle.results())
    assert asked(server).count(("GET", "results")) == 1


def test_the_ids_are_told_as_soon_as_they_are_known(fake, throttle):
    """And before that, what is about to be sent: a journal can be kept."""
    told = []
    batches = bounded(throttle(fake()), BatchBounds(requests=2))
    handle = batches.submit(pairs(3), on_create=lambda *news: told.append(news))
    first, second = handle.ids
    assert told == [
        (None, ["r0", "r1"]),
        (first, ["r0", "r1"]),
        (None, ["r2"]),
        (second, ["r2"]),
    ]


def test_bodies_stay_out_of_memory():
    """They wait in a file: what is kept of each is its name."""
    count = 20_000
    requests = ((f"r{number}", params("x" * 1500)) for number in range(count))
    tracemalloc.start(1)
    try:
        (part,) = split(requests, BatchBounds())
        sizes = [len(piece) for piece in part.body()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    part.close()
    assert sum(sizes) == part.size > 30e6
    # 33 MB of bodies; the file keeps 8 MB in memory before it becomes one, and names are names.
    assert peak < 26e6


SENDING = """
import resource, sys
from claude_throttle import Throttler
params = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x" * 2000}]}
with Throttler(api_key="sk-ant-test", base_url=sys.argv[1]) as throttler:
    throttler.batches.recent()  # connect, import
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    throttler.batches.submit((f"r{number}", params) for number in range(40_000))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.thorough
def test_bodies_go_from_their_file_to_the_wire(fake):
    """In a process of its own, as the server's memory is its own affair: 85 MB are sent."""
    server = fake()
    server.batches.seconds = 3600
    command = [sys.executable, "-c", SENDING, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (arrival,) = [a for a in server.batches.arrivals if a.model == "POST"]
    assert int(arrival.headers["content-length"]) > 80e6
    assert int(done.stdout) * 1024 < 45e6


@pytest.mark.thorough
def test_a_full_batch_goes_through(fake, throttle):
    """A hundred thousand and one: two batches, all answered, in order."""
    server = fake()
    count = 100_001
    began = SYSTEM_CLOCK.monotonic()
    handle = throttle(server).batches.submit(pairs(count), raw=True, poll_seconds=0.5)
    assert [len(names) for names in server.batches.created] == [100_000, 1]
    for number, result in enumerate(handle.results(timeout=120)):
        assert result.custom_id == f"r{number}"
        assert result.kind == "succeeded"
    assert number == count - 1
    # About 15 s here, most of it the fake's.
    assert SYSTEM_CLOCK.monotonic() - began < 120


def test_missing_results_are_told_and_strange_ones_left_out(fake, throttle):
    """A server that loses, invents and repeats results."""
    server = fake()

    def lying(lines):
        lines = sorted(lines)
        strange = lines[0].replace(b'"r0"', b'"r9"')
        twice = lines[1].replace(b"prompt 1", b"another")
        return [lines[0], strange, lines[1], twice, b"<html>\n", b"\n", b'{"custom_id": "r2"}\n']

    server.batches.rewrite = lying
    results = throttle(server).batches.submit(pairs(3), raw=True).result(timeout=10)
    assert [result.custom_id for result in results] == ["r0", "r1", "r2"]
    assert [text_of(result) for result in results[:2]] == ["prompt 0", "prompt 1"]
    assert results[2].kind == "missing"
    assert isinstance(results[2].error, BrokenAnswer)
    assert "r2" in str(results[2].error)


def test_a_kind_that_nobody_knows_is_no_success(fake, throttle):
    """The API may learn other endings."""
    server = fake()
    server.batches.rewrite = lambda lines: [b'{"custom_id":"r0","result":{"type":"postponed"}}\n']
    (result,) = throttle(server).batches.submit(pairs(1)).result(timeout=10)
    assert (result.kind, result.message) == ("missing", None)
    assert "postponed" in str(result.error)

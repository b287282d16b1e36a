"""What can be done to the fake server while it runs, and when its headers are written."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import (
    KEY_REFUSED,
    Drip,
    FakeClaude,
    ManualClock,
    Ok,
    Reply,
    Reset,
    Stall,
    Truncated,
)
from tests.support.fake_http import ask, body, raw_request, raw_socket, wait_for_arrivals


def statuses(server):
    return [arrival.status for arrival in server.arrivals]


def test_an_outage_lasts_until_it_is_switched_off():
    """529 without retry-after for all, in the log; quotas are not asked and nothing is taken."""
    with FakeClaude(rpm=2, clock=ManualClock()) as server:
        server.outage()
        answers = [ask(server) for _ in range(5)]
        server.outage(False)
        rest = [ask(server).status_code for _ in range(3)]
    assert [answer.status_code for answer in answers] == [529] * 5
    assert not [answer for answer in answers if "retry-after" in answer.headers]
    assert rest == [200, 200, 429]
    assert statuses(server) == [529] * 5 + rest
    assert {arrival.in_flight for arrival in server.arrivals[:5]} == {0}


def test_an_outage_may_look_otherwise():
    """Any scripted answer; the last one told counts."""
    with FakeClaude() as server:
        server.outage(reply=Reset())
        server.outage(reply=KEY_REFUSED)
        assert ask(server).status_code == 401
        with pytest.raises(TypeError, match="is not a scripted answer"):
            server.outage(reply=529)
        assert ask(server).status_code == 401


def test_the_script_waits_for_the_end_of_an_outage():
    """What was scripted is not lost."""
    with FakeClaude() as server:
        server.script(Reply(500), Ok("after"))
        server.outage()
        ask(server)
        server.outage(False)
        assert ask(server).status_code == 500
        assert ask(server).json()["content"][0]["text"] == "after"


def test_faults_change_while_running():
    """What is not named any more has no probability; nonsense changes nothing."""
    with FakeClaude(fault_rates={"500": 1.0}) as server:
        assert ask(server).status_code == 500
        server.faults({"529": 1.0})
        with pytest.raises(ValueError, match="unknown faults"):
            server.faults({"teapot": 1.0})
        assert ask(server).status_code == 529
        server.faults({})
        assert ask(server).status_code == 200


def test_everything_may_change_under_load():
    """From another thread; each call is answered and in the log once."""
    with FakeClaude() as server, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask, server) for _ in range(200)]
        for turn in range(50):
            server.outage(turn % 2 == 0)
            server.faults({"500": 0.5} if turn % 3 else {})
            server.limits(rpm=1000 + turn, others_rpm=10 + turn)
        answered = sorted(call.result().status_code for call in calls)
    assert sorted(statuses(server)) == answered
    assert set(answered) <= {200, 500, 529}


@pytest.mark.parametrize(("headers_at", "told"), [("admission", "58"), ("answer", "60")])
def test_headers_tell_the_moment_they_are_told_to(headers_at, told):
    """Half a minute passes between admission and answer: by then the bucket is full again."""
    clock = ManualClock()

    def half_a_minute(source, fields):
        clock.advance(30.0)
        return 0.0

    with FakeClaude(rpm=60, clock=clock, headers_at=headers_at, latency=half_a_minute) as server:
        ask(server)
        headers = ask(server).headers
    assert headers["anthropic-ratelimit-requests-remaining"] == told


@pytest.mark.parametrize(("headers_at", "told"), [("admission", "60000"), ("answer", "40000")])
def test_only_late_headers_know_the_answers_own_output(headers_at, told):
    """20,000 tokens are charged as they are produced, after the request was let in."""
    options = {"otpm": 60_000, "output_tokens": 20_000, "clock": ManualClock()}
    with FakeClaude(**options, headers_at=headers_at) as server:
        answer = ask(server, max_tokens=30_000)
    assert answer.headers["anthropic-ratelimit-output-tokens-remaining"] == told
    assert answer.json()["usage"]["output_tokens"] == 20_000


@pytest.mark.parametrize("stream", [False, True])
def test_late_headers_do_no_harm_to_answers_that_come_in_pieces(stream):
    """Such an answer is cut where it says, and its headers are those of its admission."""
    with FakeClaude(rpm=10, headers_at="answer", clock=ManualClock()) as server:
        server.script(Drip(0.0), Truncated(), Reset(after_bytes=20))
        whole = ask(server, stream=stream)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            raise_if_short(ask(server, stream=stream))
        with raw_socket(server) as sock:
            sock.sendall(raw_request(body(stream=stream)))
            assert sock.recv(20, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK\r\ndat"
        last = ask(server, stream=stream)
    assert whole.status_code == 200
    assert "echo: hello" in whole.text or stream
    # What is scripted uses the quota, too.
    assert [remaining(answer) for answer in (whole, last)] == ["9", "6"]


def raise_if_short(answer):
    """requests 2.28 does not say when a body is shorter than its length."""
    if len(answer.content) < int(answer.headers.get("content-length", 0)):
        raise requests.exceptions.ChunkedEncodingError


def remaining(answer):
    return answer.headers["anthropic-ratelimit-requests-remaining"]


def test_a_moment_nobody_knows_is_refused():
    """A slip would otherwise look like the default."""
    with pytest.raises(ValueError, match="headers_at must be 'admission' or 'answer'"):
        FakeClaude(headers_at="sometimes")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, (None, "true")),
        ({"concurrency_retry_after": 3}, ("3", "true")),
        ({"concurrency_should_retry": False}, (None, None)),
    ],
)
def test_too_many_at_once_may_be_told_in_several_ways(options, told):
    """No capture shows these headers, so a client must get along with each."""
    with FakeClaude(max_concurrency=1, **options) as server, raw_socket(server) as sock:
        server.script(Stall())
        sock.sendall(raw_request(body()))
        wait_for_arrivals(server, 1)
        answer = ask(server)
    assert answer.json()["error"]["message"].startswith("Number of concurrent connections")
    assert (answer.headers.get("retry-after"), answer.headers.get("x-should-retry")) == told


CONNECTIONS, EACH = 250, 10


def test_thousands_of_calls_each_take_their_own_time():
    """Latencies spread fifty-fold: no answer before its own, none held up by a slower one."""
    spread = {"latency": lambda source, fields: 0.004 * 50 ** source.random()}
    with FakeClaude(**spread, seed=3) as server:
        asked_at = SYSTEM_CLOCK.monotonic()
        took = asyncio.run(_ask_on_all(server))
        whole = SYSTEM_CLOCK.monotonic() - asked_at
        arrivals = server.arrivals
    source = random.Random("lengths 3")
    drawn = {arrival.nonce: 0.004 * 50 ** source.random() for arrival in arrivals}
    assert len(drawn) == len(took) == CONNECTIONS * EACH
    assert all(took[nonce] >= seconds - 0.002 for nonce, seconds in drawn.items())
    # One after the other they would take two minutes; a loaded machine adds to each of ten rounds.
    assert sum(drawn.values()) > 100
    assert whole < 30
    assert max(arrival.in_flight for arrival in arrivals) > CONNECTIONS / 5


async def _ask_on_all(server):
    port = int(server.url.rpartition(":")[2])
    found = await asyncio.gather(*(_ask_on_one(port, number) for number in range(CONNECTIONS)))
    return {nonce: seconds for pairs in found for nonce, seconds in pairs}


async def _ask_on_one(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pairs = []
    for turn in range(EACH):
        nonce = f"{number} {turn}"
        asked_at = SYSTEM_CLOCK.monotonic()
        writer.write(raw_request(body(nonce)))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        answer = json.loads(await reader.readexactly(length))
        assert answer["content"][0]["text"] == f"echo: {nonce}"
        pairs.append((nonce, SYSTEM_CLOCK.monotonic() - asked_at))
    writer.close()
    await writer.wait_closed()
    return pairs

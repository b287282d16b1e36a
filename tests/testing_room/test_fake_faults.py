"""Scripted answers and drawn faults, as a client on a real socket meets them."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import (
    Drip,
    FakeClaude,
    Garbage,
    Ok,
    Redirect,
    Reply,
    Reset,
    SpendCap,
    Stall,
    StreamError,
    Truncated,
)
from claude_throttle.testing.faults import FAULTS, FaultSampler
from tests.support.fake_http import (
    ask,
    ask_until,
    body,
    events,
    raw_request,
    raw_socket,
    read_answer,
    wait_for_arrivals,
)


@pytest.fixture(scope="module")
def server():
    with FakeClaude() as running:
        yield running


def test_scripted_refusals_use_no_quota_and_scripted_answers_do():
    """An exhausted quota does not matter to a refusal; an answer waits behind it."""
    with FakeClaude(rpm=1) as server:
        server.script(Reply(529), Ok(), Reply(500), Ok("later"))
        assert [ask(server).status_code for _ in range(5)] == [529, 200, 500, 429, 429]
        server.limits(rpm=None)
        assert ask(server).json()["content"][0]["text"] == "later"


def test_a_reply_is_sent_as_told(server):
    """Status, type, code, message and headers; the usual ones are there too."""
    told = {"Retry-After": "7", "anthropic-organization-id": None}
    server.script(Reply(429, told, message="slow down", error_code="ramp_limit_exceeded"))
    answer = ask(server)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert "anthropic-organization-id" not in answer.headers
    assert answer.json() == {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "slow down",
            "details": {"error_code": "ramp_limit_exceeded"},
        },
        "request_id": answer.headers["request-id"],
    }


def test_a_reply_may_have_any_body_and_type(server):
    """Verbatim bytes; a type of its own."""
    server.script(Reply(503, body=b"gone"), Reply(400, error_type="strange_error"))
    assert ask(server).content == b"gone"
    assert ask(server).json()["error"]["type"] == "strange_error"


def test_a_reply_can_close_the_connection(server):
    """With the header that says so."""
    server.script(Reply(500, {"connection": "close"}))
    with raw_socket(server) as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_request(body()))
        assert read_answer(stream)[0] == 500
        assert stream.read() == b""


def test_ok_says_what_it_is_told(server):
    """Text, usage and further blocks."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    server.script(Ok("four", {"cache_read_input_tokens": 9}, (tool,)))
    answer = ask(server).json()
    assert answer["content"] == [{"type": "text", "text": "four"}, tool]
    assert answer["usage"]["cache_read_input_tokens"] == 9
    assert answer["usage"]["output_tokens"] == 20
    assert answer["stop_reason"] == "tool_use"


def test_a_reset_comes_before_any_byte(server):
    """RST, not a polite end."""
    server.script(Reset())
    with raw_socket(server) as sock:
        sock.sendall(raw_request(body()))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    last = server.arrivals[-1]
    assert (last.status, last.admitted, last.in_flight) == (0, False, 0)


def test_a_reset_may_come_after_some_bytes(server):
    """The beginning of a good answer, then RST."""
    server.script(Reset(after_bytes=20))
    with raw_socket(server) as sock:
        sock.sendall(raw_request(body()))
        assert sock.recv(20, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK\r\ndat"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert (server.arrivals[-1].status, server.arrivals[-1].admitted) == (0, True)


@pytest.mark.parametrize("after_bytes", [0, 30])
def test_a_stall_lasts_until_it_is_released(after_bytes):
    """Until then the call is in flight; then the rest comes."""
    with FakeClaude() as server, raw_socket(server) as sock:
        server.script(Stall(after_bytes))
        sock.sendall(raw_request(body()))
        wait_for_arrivals(server, 1)
        before = sock.recv(30) if after_bytes else b""
        assert len(before) == after_bytes
        sock.settimeout(0.05)
        with pytest.raises(OSError, match="timed out"):
            sock.recv(1)
        sock.settimeout(5)
        server.release_stalled()
        with sock.makefile("rb") as stream:
            rest = stream.readline()
            assert (before + rest).startswith(b"HTTP/1.1 200 OK")
        assert ask(server).status_code == 200
        assert server.arrivals[0].status == 0


def test_a_stalled_call_is_in_flight_until_the_client_goes():
    """The client hanging up frees the place."""
    with FakeClaude(max_concurrency=1) as server:
        server.script(Stall())
        with raw_socket(server) as sock:
            sock.sendall(raw_request(body()))
            wait_for_arrivals(server, 1)
            assert ask(server).status_code == 429
        ask_until(server, 200)
        assert server.arrivals[-1].in_flight == 1


def test_garbage_is_no_json_and_no_answer_of_the_api(server):
    """200 from something in between."""
    server.script(Garbage())
    answer = ask(server)
    assert answer.status_code == 200
    assert answer.content.startswith(b"<html>")
    assert "request-id" not in answer.headers
    assert server.arrivals[-1].admitted is False


def test_truncated_promises_more_than_it_sends(server):
    """Then the connection ends."""
    server.script(Truncated())
    with raw_socket(server) as sock, sock.makefile("rb") as stream:
        sock.sendall(raw_request(body()))
        status, headers, content = read_answer(stream)
    assert status == 200
    assert 0 < len(content) < int(headers["content-length"])


def test_a_truncated_stream_has_no_end(server):
    """Chunks without the last one."""
    server.script(Truncated())
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(server, stream=True)


def test_a_drip_is_whole_in_the_end(server):
    """Byte by byte, and slow: each byte takes its time."""
    server.script(Drip(0.0001))
    asked_at = SYSTEM_CLOCK.monotonic()
    answer = ask(server)
    took = SYSTEM_CLOCK.monotonic() - asked_at
    assert answer.json()["content"][0]["text"] == "echo: hello"
    assert took >= len(answer.content) * 0.0001


def test_a_redirect_tells_where(server):
    """307 keeps the method."""
    server.script(Redirect("http://127.0.0.1:1/elsewhere"))
    answer = ask(server)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")


def test_the_spend_cap_is_a_429_without_retry_after(server):
    """The code is how to know it."""
    server.script(SpendCap())
    answer = ask(server)
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.json()["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("after", "before"), [(0, []), (2, ["ech", "o: "])])
def test_a_stream_may_break_after_200(server, after, before):
    """As the first event, or after some output."""
    server.script(StreamError(after_deltas=after))
    answer = ask(server, stream=True)
    pairs = events(answer.text)
    texts = [data["delta"]["text"] for name, data in pairs if name == "content_block_delta"]
    assert answer.status_code == 200
    assert [text[:3] for text in texts] == before
    assert pairs[-1][0] == "error"
    assert pairs[-1][1]["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_a_stream_error_without_a_stream_is_a_529(server):
    """What it would normally correspond to."""
    server.script(StreamError())
    assert ask(server).status_code == 529


def test_what_cannot_be_scripted_is_refused_at_once(server):
    """In the caller's thread, not later in the server's."""
    with pytest.raises(TypeError, match="is not a scripted answer"):
        server.script(500)


def test_the_dice_keep_to_their_rates():
    """All names, and the rest good; the same seed rolls the same."""
    rates = dict.fromkeys(FAULTS, 0.1)
    sampler, twin = FaultSampler(rates, 7, 3), FaultSampler(rates, 7, 3)
    drawn = [sampler.draw() for _ in range(5000)]
    assert [twin.draw() for _ in range(5000)] == drawn
    assert 0.25 < drawn.count(None) / 5000 < 0.35
    for name, fault in FAULTS.items():
        expected = Reply(529, {"x-should-retry": "true", "retry-after": "3"}, message="Overloaded")
        assert 400 < drawn.count(expected if name == "529" else fault) < 600


@pytest.mark.parametrize("rates", [{"teapot": 0.1}, {"429": 0.9, "500": 0.2}, {"reset": -0.1}])
def test_rates_that_make_no_sense_are_refused(rates):
    """Unknown names, more than certainty, less than nothing."""
    with pytest.raises(ValueError, match=r"fault"):
        FakeClaude(fault_rates=rates)


@pytest.mark.parametrize(
    ("name", "status"), [("429", 429), ("500", 500), ("529", 529), ("garbage", 200)]
)
def test_rolled_faults_reach_the_client(name, status):
    """With certainty, every call gets it."""
    with FakeClaude(fault_rates={name: 1.0}, overload_retry_after=4) as server:
        answers = [ask(server) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert answers[0].headers.get("retry-after") == {"429": "1", "529": "4"}.get(name)


@pytest.mark.parametrize("fault", ["500", "529"])
def test_a_fault_at_the_edge_costs_no_quota(fault):
    """Nothing was done, nothing is charged."""
    with FakeClaude(rpm=2, fault_rates={fault: 1.0}) as server:
        assert [ask(server).status_code for _ in range(4)] == [int(fault)] * 4


def test_scripting_from_many_threads_loses_nothing():
    """Each scripted answer is given exactly once."""
    with FakeClaude() as server, ThreadPoolExecutor(8) as pool:
        ready = threading.Barrier(8)

        def script_and_ask(number):
            ready.wait(5)
            server.script(Ok(text=str(number)))
            return json.loads(ask(server).content)["content"][0]["text"]

        assert sorted(pool.map(script_and_ask, range(8))) == list("01234567")

"""``Anthropic(middleware=[throttler.middleware()])``: streams hold their place until they end."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import pytest

from claude_throttle.testing import Reply, Stall, StreamError
from tests.support.calls import FIVE_SECONDS_AT_ONCE, HELLO, MODEL, ask, echo
from tests.support.inside import (
    answers_awaited,
    lane_of,
    locks_of,
    model_group_of,
    pacer_of,
    slots_in_use,
)
from tests.support.waiting import wait_until

NEEDS = ["middleware"]


def read(stream):
    """The whole text."""
    return "".join(stream.text_stream)


def test_the_stream_is_whole_and_its_place_comes_back_at_its_end(fake, throttle, client):
    """With the helper and without."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    with made.messages.stream(**HELLO) as stream:
        assert slots_in_use(throttler) == 1
        assert read(stream) == "echo: hello"
        assert slots_in_use(throttler) == 0
        assert stream.get_final_message().usage.output_tokens == 20
    events = [event.type for event in made.messages.create(**HELLO, stream=True)]
    assert (events[0], events[-1]) == ("message_start", "message_stop")
    with made.beta.messages.stream(**HELLO) as stream:
        assert read(stream) == "echo: hello"
    assert slots_in_use(throttler) == 0


def test_its_usage_settles_what_was_booked(fake, throttle, client, manual):
    """Read as it passes by."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    with client(server, throttler).messages.stream(**{**HELLO, "max_tokens": 1000}) as stream:
        read(stream)
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1
    assert model_group_of(throttler).estimator.cost(MODEL, 3.0, 1000).output_tokens < 300


def test_limits_are_learned_from_its_head(fake, throttle, client):
    """Before its end."""
    server = fake(rpm=600)
    throttler = throttle(server, rpm=None)
    with client(server, throttler).messages.stream(**HELLO):
        assert pacer_of(throttler).learned["requests"].limit == 600


@pytest.mark.parametrize("how", ["stream", "create"])
def test_leaving_early_gives_the_place_back(fake, throttle, client, how):
    """By the end of a with, or by close()."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    if how == "stream":
        with made.messages.stream(**HELLO) as stream:
            next(iter(stream))
            assert slots_in_use(throttler) == 1
    else:
        stream = made.messages.create(**HELLO, stream=True)
        next(iter(stream))
        assert slots_in_use(throttler) == 1
        stream.close()
        stream.close()
    assert slots_in_use(throttler) == 0
    assert echo(throttler.submit(**ask()).result(10)) == "hello"


def test_what_was_left_early_keeps_its_estimate_of_output(fake, throttle, client, manual):
    """Nobody knows what it had produced by then; the input is known."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, itpm=1000, clock=manual)
    pacer = pacer_of(throttler)
    settled, settle = [], pacer.settle
    pacer.settle = lambda held, actual, at: (
        settled.append((held, actual)) or settle(held, actual, at)
    )
    with client(server, throttler).messages.stream(**HELLO) as stream:
        next(iter(stream))
    ((held, actual),) = settled
    assert actual.output_tokens == held.output_tokens > 0
    assert actual.input_tokens == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("helper", [True, False])
def test_a_dropped_stream_comes_back_without_a_lock(fake, throttle, client, begun, helper):
    """While another thread holds every lock that there is."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    streams = [
        made.messages.stream(**HELLO).__enter__()
        if helper
        else made.messages.create(**HELLO, stream=True)
    ]
    if begun:
        next(iter(streams[0]))
    lane = lane_of(throttler)
    held, let_go, dropped = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as locks:
            for lock in locks_of(throttler):
                locks.enter_context(lock)
            held.set()
            let_go.wait(10)

    def drop_it():
        streams.clear()
        gc.collect()
        dropped.set()

    threads = [threading.Thread(target=hold), threading.Thread(target=drop_it)]
    threads[0].start()
    held.wait(10)
    threads[1].start()
    was_dropped = dropped.wait(10)
    let_go.set()
    for thread in threads:
        thread.join(10)
    assert was_dropped
    wait_until(lambda: slots_in_use(throttler) == 0)
    assert echo(throttler.submit(**ask()).result(10)) == "hello"
    wait_until(lambda: not any(lane.pacer.traffic.pending))


def test_a_call_made_while_iterating_rides_on_it(fake, throttle, client):
    """max_concurrency=1 cannot deadlock."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    with made.messages.stream(**HELLO) as stream:
        next(iter(stream))
        assert echo(throttler.call(**ask("nested"))) == "nested"
        assert made.messages.create(**HELLO).content[0].text == "echo: hello"
        assert read(stream) == "echo: hello"
    assert slots_in_use(throttler) == 0


def test_a_stream_that_stalls_ends_by_the_sdks_timeout(fake, throttle, client):
    """And gives its place back."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(Stall(after_bytes=400))
    made = client(server, throttler, timeout=0.3)
    with pytest.raises(Exception, match="timed out"):  # of httpx or of the SDK, by its release
        list(made.messages.create(**HELLO, stream=True))
    assert slots_in_use(throttler) == 0
    server.release_stalled()


def test_another_thread_may_read_and_close_it(fake, throttle, client):
    """Its place comes back once."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    stream = client(server, throttler).messages.create(**HELLO, stream=True)
    threads = [threading.Thread(target=stream.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert slots_in_use(throttler) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_leaves_the_parents_stream_alone(fake, throttle, client):
    """What it closes there is a copy."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    with client(server, throttler).messages.stream(**HELLO) as stream:
        pid = os.fork()
        if pid == 0:
            stream.response.stream._watched.closed()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert slots_in_use(throttler) == 1
        assert read(stream) == "echo: hello"
    assert slots_in_use(throttler) == 0


def test_a_refused_stream_is_tried_again(fake, throttle, client):
    """A 429 before it begins, with its body read for what it says."""
    server = fake()
    throttler = throttle(server)
    server.script(Reply(429, {"retry-after": "1"}, message="limit of 50 requests per minute"))
    with client(server, throttler).messages.stream(**HELLO) as stream:
        assert read(stream) == "echo: hello"
    refused, answered = server.arrivals
    assert answered.at - refused.at >= 1.0
    assert slots_in_use(throttler) == 0


def test_a_refusal_reaches_the_caller_with_its_words(fake, throttle, client):
    """Though we read it first."""
    server = fake()
    throttler = throttle(server)
    server.script(Reply(400, message="such a request"))
    made = client(server, throttler)
    with pytest.raises(anthropic.BadRequestError, match="such a request"):
        made.messages.create(**HELLO, stream=True)
    assert slots_in_use(throttler) == 0


class Broken(BaseHTTPRequestHandler):
    """Refuses the first request with half a body, and answers the next ones."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        first = not self.server.asked
        self.server.asked = True
        self.send_response(529 if first else 200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(EVENTS)))
        self.end_headers()
        self.wfile.write(EVENTS[:20] if first else EVENTS)
        self.close_connection = True

    def log_message(self, *_args):
        """Not on the terminal."""


@pytest.mark.parametrize("retries", [0, 2])
def test_half_a_refusal_is_a_refusal(listening, throttle, client, retries):
    """The SDK tries again, as it would without us, or raises the status it saw."""
    server = listening(Broken)
    server.asked = False
    throttler = throttle(server)
    made = client(server, throttler, max_retries=retries)
    if retries:
        with made.messages.stream(**HELLO) as stream:
            assert stream.get_final_message().usage.output_tokens == 5
    else:
        with pytest.raises(anthropic.APIStatusError) as refused:
            made.messages.create(**HELLO, stream=True)
        assert refused.value.status_code == 529
    assert slots_in_use(throttler) == 0


def test_an_error_in_the_midst_gives_the_place_back(fake, throttle, client):
    """The SDK raises what the event says."""
    server = fake()
    throttler = throttle(server)
    server.script(StreamError())
    with pytest.raises(anthropic.APIStatusError):
        list(client(server, throttler).messages.create(**HELLO, stream=True))
    assert slots_in_use(throttler) == 0


def test_a_streaming_response_is_metered_too(fake, throttle, client, manual):
    """with_streaming_response: the body of an ordinary answer, as it comes."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    body = {**HELLO, "max_tokens": 1000}
    with client(server, throttler).messages.with_streaming_response.create(**body) as response:
        assert slots_in_use(throttler) == 1
        assert b"echo: hello" in b"".join(response.iter_bytes())
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_many_streams_half_of_them_forgotten(fake, throttle, client):
    """Every place comes back, and everything is settled."""
    server = fake()
    throttler = throttle(server, max_concurrency=10)
    made = client(server, throttler)
    texts = []

    def use(number):
        with made.messages.stream(**HELLO) as stream:
            if number % 2:
                next(iter(stream))
            else:
                texts.append(read(stream))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == ["echo: hello"] * 25
    assert slots_in_use(throttler) == 0
    assert answers_awaited(throttler) == 0


# -- a server that compresses ----------------------------------------------------------------------

EVENTS = b"".join(
    b"event: %b\ndata: %b\n\n" % (kind, data)
    for kind, data in [
        (
            b"message_start",
            b'{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
            b'"model":"claude-sonnet-5","content":[],"stop_reason":null,"stop_sequence":null,'
            b'"usage":{"input_tokens":11,"output_tokens":1,"cache_read_input_tokens":4}}}',
        ),
        (
            b"message_delta",
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
            b'"usage":{"output_tokens":5}}',
        ),
        (b"message_stop", b'{"type":"message_stop"}'),
    ]
)


class Compressing(BaseHTTPRequestHandler):
    """Answers everything with those events, compressed."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = gzip.compress(EVENTS)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Not on the terminal."""


@pytest.fixture
def listening():
    """``listening(handler)`` starts a server; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(handler):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.shutdown)
            return server

        yield start


def test_a_compressed_stream_tells_its_usage(listening, throttle, client, manual):
    """Some proxies do that."""
    compressing = listening(Compressing)
    throttler = throttle(compressing, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    made = client(compressing, throttler)
    with made.messages.stream(**{**HELLO, "max_tokens": 1000}) as stream:
        assert stream.get_final_message().usage.output_tokens == 5
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1

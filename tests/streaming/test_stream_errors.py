"""What breaks a stream: before its first content, and after."""

from __future__ import annotations

import pickle
import threading
import time

import anthropic
import pytest

from claude_throttle import (
    AccountSuspended,
    BrokenAnswer,
    CircuitOpened,
    Closed,
    DeadlineExceeded,
    LanePaused,
    RetryScheduled,
)
from claude_throttle.core.dispatch.call import in_progress
from claude_throttle.testing import Garbage, Ok, Reply, Reset, Streamed, StreamError
from claude_throttle.transport import response_stream as streamed
from claude_throttle.transport import stream_error as in_stream
from tests.support.inside import connections_to, lane_of, slots_in_use
from tests.support.sdk_releases import error_class
from tests.support.streams import ask
from tests.support.waiting import wait_until

FRAME = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
START = {"type": "message_start", "message": {**FRAME, "usage": {"input_tokens": 3}}}
BLOCK = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "text", "text": "already"},
}


def failed(throttler, **more):
    """Open a stream, read it to its end; the error, and the events that came before."""
    seen = []
    with pytest.raises(Exception) as info:
        seen.extend(throttler.stream(raw=True, **ask(**more)))
    # A timeout is told by another thread, which may let go of the slot a moment later.
    wait_until(lambda: slots_in_use(throttler) == 0)
    assert throttler.stats().in_flight == 0
    assert not in_progress.mine()  # or this thread's close() would take it for a callback's
    return info.value


def error(kind, message="no"):
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize("opening", [(), (START,)])
@pytest.mark.parametrize("kind", ["overloaded_error", "api_error", "rate_limit_error", "new_error"])
def test_an_error_event_before_content_is_retried(fake, throttle, opening, kind, monkeypatch):
    """As the refusal it would have been outside, with a permit and a turn of its own."""
    monkeypatch.setattr(in_stream, "RATE_LIMIT_SECONDS", 0.05)
    server, events = fake(rpm=6000), []
    server.script(Streamed(events=(*opening, error(kind))))
    throttler = throttle(server, on_event=events.append, max_concurrency=1)
    with throttler.stream(raw=True, **ask()) as stream:
        starts = [event["type"] for event in stream].count("message_start")
        assert (starts, stream.get_final_text()) == (1, "echo: hello")
    (retry,) = [event for event in events if isinstance(event, RetryScheduled)]
    status = {"overloaded_error": 529, "rate_limit_error": 429}.get(kind, 500)
    assert (retry.status, retry.attempt) == (status, 1)
    paused = any(isinstance(event, LanePaused) for event in events)
    assert paused == (kind == "rate_limit_error")
    assert len(server.arrivals) == 2


def test_refusals_and_errors_share_the_retries(fake, throttle):
    """Two of each kind, with max_retries=3: the fourth is raised."""
    server = fake()
    server.script(*[Reply(529), StreamError()] * 2)
    found = failed(throttle(server, max_retries=3))
    assert isinstance(found, error_class("OverloadedError"))
    assert found.partial_message is None
    assert len(server.arrivals) == 4


def test_max_retries_0_sends_nothing_again(fake, throttle):
    """Not even for an error in a stream."""
    server = fake()
    server.script(StreamError())
    assert failed(throttle(server, max_retries=0)).status_code == 529
    assert len(server.arrivals) == 1


def test_a_429_with_a_time_pauses_the_lane(fake, throttle):
    """Before the stream begins it is a refusal like any other."""
    server, events = fake(), []
    server.script(Reply(429, {"retry-after-ms": "50", "x-should-retry": "true"}))
    with throttle(server, on_event=events.append).stream(**ask()) as stream:
        assert stream.get_final_text() == "echo: hello"
    assert any(isinstance(event, LanePaused) for event in events)


def test_overloads_in_streams_open_the_circuit(fake, throttle):
    """Five in a row, before content or after."""
    server, events = fake(), []
    server.script(*[StreamError(), StreamError(after_deltas=1)] * 2, StreamError())
    throttler = throttle(server, on_event=events.append, max_retries=0)
    for _ in range(5):
        failed(throttler)
    assert any(isinstance(event, CircuitOpened) for event in events)


def test_a_probe_that_begins_to_answer_closes_the_circuit(fake, throttle, manual):
    """Its end may be minutes away."""
    server = fake(clock=manual)
    server.script(*[StreamError()] * 5, Streamed(at=4, wrong="stall"))
    throttler = throttle(server, clock=manual, max_retries=0)
    for _ in range(5):
        failed(throttler)
    manual.advance(60)
    with throttler.stream(**ask()) as stream:
        next(stream.text_stream)
        (lane,) = throttler.limits().values()
        assert lane.circuit == "closed"


KINDS = {
    "invalid_request_error": anthropic.BadRequestError,
    "authentication_error": anthropic.AuthenticationError,
    "permission_error": anthropic.PermissionDeniedError,
    "not_found_error": anthropic.NotFoundError,
    "request_too_large": anthropic.APIStatusError,
    "rate_limit_error": anthropic.RateLimitError,
    "api_error": anthropic.InternalServerError,
    "overloaded_error": anthropic.APIStatusError,
    "new_error": anthropic.InternalServerError,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_after_content_is_raised_by_its_type(fake, throttle, kind):
    """With what was received, and never sent again."""
    server = fake()
    server.script(StreamError(kind, "no", after_deltas=2))
    throttler = throttle(server)
    found = failed(throttler)
    assert isinstance(found, KINDS[kind])
    assert found.partial_message["content"] == [{"type": "text", "text": "echo: "}]
    assert found.partial_message["usage"]["input_tokens"] == 2
    assert len(server.arrivals) == 1
    assert throttler.stats().failed_total == 1


def test_an_api_error_that_says_overloaded_is_one(fake, throttle):
    """Seen in the wild."""
    server = fake()
    server.script(StreamError("api_error", "Overloaded", after_deltas=1))
    assert failed(throttle(server)).status_code == 529


def test_an_account_error_in_a_stream_suspends(fake, throttle):
    """As it does outside."""
    server = fake()
    server.script(StreamError("billing_error", "your card", after_deltas=1))
    throttler = throttle(server)
    assert failed(throttler).status_code == 402
    assert isinstance(failed(throttler), AccountSuspended)


def test_the_error_comes_after_what_was_received(fake, throttle):
    """And again at each further look."""
    server = fake()
    server.script(StreamError(after_deltas=2))
    with throttle(server).stream(**ask()) as stream:
        pieces = []
        with pytest.raises(anthropic.APIStatusError):
            pieces.extend(stream.text_stream)  # as far as it comes
        assert "".join(pieces) == "echo: "
        with pytest.raises(anthropic.APIStatusError) as again:
            stream.get_final_message()
    assert again.value.partial_message.content[0].text == "echo: "


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Streamed(omit_stop=True), "ended without message_stop"),
        (Streamed(omit_stop=True, chunked=False), "ended without message_stop"),
        (Streamed(at=4), "broke off"),
        (Streamed(at=5, wrong="reset"), "broke off"),
        (Streamed(at=1), "broke off"),
        (Garbage(), "ended without message_stop"),
        (Garbage(b'{"type": "message", "content": []}'), "ended without message_stop"),
        (Streamed(body=b"event: message_start\ndata: no json\n\n"), "not a JSON object"),
        (Streamed(body=b"data: [1]\n\n"), "not a JSON object"),
        (Streamed(body=b'data: {"type": 7}\n\n'), "no type"),
        (Streamed(events=(BLOCK,)), "before message_start"),
        (Streamed(events=(START, BLOCK, START)), "second message_start"),
        (Streamed(events=(START, {"type": "content_block_delta", "index": 3})), "fits nothing"),
    ],
)
def test_what_is_no_whole_stream_is_a_broken_answer(fake, throttle, answer, words):
    """Not sent again: it may be billed."""
    server = fake()
    server.script(answer)
    throttler = throttle(server)
    found = failed(throttler)
    assert isinstance(found, BrokenAnswer)
    assert words in str(found)
    assert len(server.arrivals) == 1
    assert throttler.call(raw=True, **ask())  # nothing is left behind


def test_a_reset_before_any_answer_is_sent_again(fake, throttle):
    """As with any call."""
    server = fake()
    server.script(Reset())
    with throttle(server).stream(**ask()) as stream:
        assert stream.get_final_text() == "echo: hello"


def test_silence_ends_it(fake, throttle):
    """timeout= seconds without a byte, once content has begun."""
    server = fake()
    server.script(Streamed(at=4, wrong="stall"))
    found = failed(throttle(server), timeout=1)
    assert isinstance(found, anthropic.APITimeoutError)
    assert "silent for 1 s" in str(found)
    assert found.partial_message["content"][0]["text"]


def test_pings_are_a_sign_of_life(fake, throttle):
    """And a stream may take longer than its timeout."""
    server = fake()
    server.script(Streamed(pings=5, seconds_between=0.045))
    throttler = throttle(server)
    started = time.monotonic()
    with throttler.stream(timeout=2, **ask()) as stream:
        assert stream.get_final_text() == "echo: hello"
    assert time.monotonic() - started > 2
    assert (throttler.stats().succeeded, throttler.stats().failed_total) == (1, 0)


def test_message_start_comes_at_once_and_once(fake, throttle):
    """Content may be long in coming, and the attempt it comes with another one."""
    server = fake()
    refused = Streamed(events=(START, error("overloaded_error")), seconds_between=0.2)
    server.script(refused, Ok(), refused)
    throttler = throttle(server, max_concurrency=1)
    with throttler.stream(**ask()) as stream:
        first = next(stream)
        assert (first.type, first.message.id) == ("message_start", "msg_1")
        assert len(server.arrivals) == 1
        # Its place is lent already, and that of the next attempt will be.
        assert throttler.call(timeout=10, **ask("a"))
        assert next(stream).type == "content_block_start"
        assert throttler.call(timeout=10, **ask("b"))
        assert "message_start" not in [event.type for event in stream]
        assert stream.get_final_message().id != "msg_1"
        assert stream.get_final_message()._request_id == stream.request_id
    assert slots_in_use(throttler) == 0
    assert throttler.stats().retried == 2


def test_close_ends_a_wait_for_another_attempt(fake, throttle):
    """From another thread; the turn it waited for is given up, too."""
    server = fake()
    server.script(Streamed(events=(START, error("overloaded_error"))), *[Reply(529)] * 20)
    throttler = throttle(server, max_concurrency=1, max_retries=20)
    stream, errors = throttler.stream(**ask()), []

    def read():
        with pytest.raises(Closed) as info:
            list(stream)
        errors.append(info.value)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: throttler.stats().retried)
    stream.close()
    thread.join(10)
    assert errors
    wait_until(lambda: slots_in_use(throttler) == 0)
    assert throttler.stats().in_flight == 0
    assert not lane_of(throttler).backlog.waiting_locked()


@pytest.mark.parametrize("at", [0, 1])
def test_the_wait_for_content_ends_by_its_timeout(fake, throttle, manual, at):
    """Whether nothing came, or only message_start."""
    server = fake()
    server.script(Streamed(at=at, wrong="stall"))
    throttler, errors = throttle(server, clock=manual), []
    thread = threading.Thread(target=lambda: errors.append(failed(throttler, timeout=5)))
    thread.start()
    wait_until(lambda: server.arrivals)
    manual.advance(6)
    thread.join(10)
    assert isinstance(errors[0], DeadlineExceeded)
    assert errors[0].sent


def test_a_timeout_in_the_queue(fake, throttle, manual):
    """Nothing was sent."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=1, burst=1, clock=manual)
    throttler.call(raw=True, **ask())
    errors = []
    thread = threading.Thread(target=lambda: errors.append(failed(throttler, timeout=5)))
    thread.start()
    wait_until(lambda: throttler.stats().waiting)
    manual.wait_for_sleepers(1)
    manual.advance(6)
    thread.join(10)
    assert isinstance(errors[0], DeadlineExceeded)
    assert not errors[0].sent
    assert len(server.arrivals) == 1


def test_a_read_timeout_before_content_is_retried_if_allowed(fake, throttle, monkeypatch):
    """The server may be working on it: only by the caller's leave."""
    monkeypatch.setattr("claude_throttle.transport.http.READ_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("claude_throttle.transport.http.SECONDS_PER_TOKEN", 0)
    server = fake()
    server.script(Streamed(at=1, wrong="stall"))
    assert isinstance(failed(throttle(server)), anthropic.APITimeoutError)
    server.script(Streamed(at=1, wrong="stall"))
    with throttle(server, retry_read_timeouts=True).stream(**ask()) as stream:
        assert stream.get_final_text() == "echo: hello"
    assert len(server.arrivals) == 3


def test_ctrl_c_in_a_wait_for_another_attempt(fake, throttle, monkeypatch):
    """The turn that was waited for does not come, and keeps no place."""
    server = fake()
    server.script(Reply(529), Reply(529))
    throttler = throttle(server, max_concurrency=1)
    lane = lane_of(throttler)
    with monkeypatch.context() as patch:
        patch.setattr("claude_throttle.core.dispatch.call.RetryTicket.wait_for_grant", _interrupt)
        with throttler.permit(model=ask()["model"]), pytest.raises(KeyboardInterrupt):
            throttler.stream(**ask())
    assert slots_in_use(throttler) == 0
    assert not lane.backlog.waiting_locked()
    assert not lane.out
    assert throttler.stream(**ask()).get_final_text() == "echo: hello"


def test_errors_pickle_with_what_was_received(fake, throttle):
    """And hold neither key nor prompt."""
    server = fake()
    server.script(StreamError(after_deltas=1), Streamed(omit_stop=True, events=(START, BLOCK)))
    throttler = throttle(server)
    for _ in range(2):
        found = failed(throttler, text="SECRET prompt")
        copy = pickle.loads(pickle.dumps(found))
        assert type(copy).__name__ == type(found).__name__
        assert copy.partial_message == found.partial_message
        assert b"sk-ant-test" not in pickle.dumps(found)
        assert "SECRET" not in str(copy)


def test_a_server_that_does_not_end_its_body_does_not_hold_us(fake, throttle, monkeypatch):
    """message_stop is the end; the connection is not used again."""
    monkeypatch.setattr(streamed, "LAST_BYTES_SECONDS", 0.05)
    server = fake()
    whole = Streamed(events=(START, BLOCK, {"type": "message_stop"}, {"type": "after"}), at=3)
    server.script(Streamed(events=whole.events, at=3, wrong="stall"))
    throttler = throttle(server)
    with throttler.stream(raw=True, **ask()) as stream:
        assert stream.get_final_text() == "already"
    wait_until(lambda: not connections_to(server))
    assert throttler.call(raw=True, **ask())


def test_close_ends_a_read_of_another_thread(fake, throttle):
    """At once, and half an answer does not look like a whole one."""
    server = fake()
    server.script(Streamed(at=5, wrong="stall"))
    throttler = throttle(server)
    stream = throttler.stream(raw=True, **ask())
    errors, pieces = [], []

    def read():
        try:
            pieces.extend(stream.text_stream)
        except Closed as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: len(pieces) == 2)
    wait_until(stream._inner._in_use.locked)
    with pytest.raises(RuntimeError, match="another thread"):
        next(stream)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed before its end" in str(errors[0])
    wait_until(lambda: not connections_to(server))
    assert slots_in_use(throttler) == 0


@pytest.mark.parametrize("reads", [True, False])
def test_closing_the_throttler_ends_open_streams(fake, throttle, reads):
    """Those that are read, and those that nobody reads at the moment."""
    server = fake()
    server.script(Streamed(at=4, wrong="stall"))
    throttler = throttle(server)
    opened, errors, go = threading.Event(), [], threading.Event()

    def read():
        with throttler.stream(**ask()) as stream:
            opened.set()
            if not reads:
                go.wait(10)
            try:
                stream.until_done()
            except Closed as error:
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(10)
    throttler.close(timeout=0)
    assert slots_in_use(throttler) == 0
    go.set()
    thread.join(10)
    assert errors[0].sent
    assert errors[0].partial_message.id
    wait_until(lambda: not connections_to(server))


def test_closing_the_throttler_within_a_stream_does_not_wait_for_it(fake, throttle):
    """The one who would have to end it is the one who waits."""
    throttler = throttle(fake())
    with throttler.stream(**ask()) as stream:
        throttler.close()
        with pytest.raises(Closed):
            stream.until_done()


def test_ctrl_c_in_a_read_leaves_nothing(fake, throttle, monkeypatch):
    """Nor does it while the stream is being opened."""
    throttler = throttle(fake(), max_concurrency=1)
    with pytest.raises(KeyboardInterrupt), throttler.stream(**ask()) as stream:
        monkeypatch.setattr(stream._inner._events, "next", _interrupt)
        stream.until_done()
    assert slots_in_use(throttler) == 0
    monkeypatch.setattr(streamed.ResponseStream, "open", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        throttler.stream(**ask())
    assert slots_in_use(throttler) == 0
    assert throttler.stats().failed == {"Closed": 2}


def _interrupt(*_args):
    raise KeyboardInterrupt

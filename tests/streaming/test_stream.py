"""stream(): what a reader gets, and what is booked."""

from __future__ import annotations

import pytest

from claude_throttle import CallSucceeded, Closed, InvalidCall, MessageStream
from claude_throttle.testing import Ok, Streamed
from tests.support.inside import connection_pools_of, connections_to, lane_of, slots_in_use
from tests.support.streams import TEXT, THOUGHT, TOOL, ask
from tests.support.waiting import wait_until


def test_it_yields_the_sdks_events_without_pings(fake, throttle):
    """In their order, each of its own class."""
    with throttle(fake()).stream(**ask()) as stream:
        events = list(stream)
    assert [event.type for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
    assert {type(event).__module__.split(".")[0] for event in events} == {"anthropic"}
    assert "ping" not in {event.type for event in events}


def test_raw_yields_dicts(fake, throttle):
    """And the final message is one, too."""
    with throttle(fake()).stream(raw=True, **ask()) as stream:
        assert next(stream)["type"] == "message_start"
        assert stream.get_final_message()["content"][0]["text"] == "echo: hello"


def test_text_stream_and_the_final_text(fake, throttle):
    """Piece by piece, and all of it afterwards."""
    server = fake()
    server.script(Streamed(blocks=(THOUGHT, TEXT, TOOL)))
    with throttle(server).stream(**ask()) as stream:
        pieces = list(stream.text_stream)
        assert len(pieces) > 2
        assert "".join(pieces) == TEXT["text"] == stream.get_final_text()


def test_the_final_message(fake, throttle):
    """Blocks, reason, usage, request id, as call() would have given them."""
    server = fake(output_tokens=33)
    server.script(Streamed(blocks=(THOUGHT, TEXT, TOOL), usage={"cache_read_input_tokens": 7}))
    with throttle(server).stream(**ask()) as stream:
        message = stream.get_final_message()
    assert message.content[0].thinking == THOUGHT["thinking"]
    assert message.content[0].signature == THOUGHT["signature"]
    assert message.content[1].text == TEXT["text"]
    assert message.content[2].input == TOOL["input"]
    assert message.stop_reason in ("end_turn", "tool_use")
    assert (message.usage.output_tokens, message.usage.cache_read_input_tokens) == (33, 7)
    assert message._request_id == stream.request_id
    assert stream.request_id.startswith("req_")


def test_a_snapshot_grows_and_is_a_copy(fake, throttle):
    """What was received so far."""
    with throttle(fake()).stream(raw=True, **ask()) as stream:
        assert stream.current_message_snapshot["content"] in ([], [{"type": "text", "text": ""}])
        next(stream.text_stream)
        before = stream.current_message_snapshot
        stream.get_final_message()
        assert before["content"][0]["text"] < "echo: hello"


def test_the_body_asks_for_a_stream(fake, throttle):
    """And what a caller says of that is taken for granted."""
    server = fake()
    throttler = throttle(server)
    with throttler.stream(stream=True, **ask()) as stream:
        assert stream.get_final_text() == "echo: hello"
    with pytest.raises(InvalidCall, match="throttler.stream"):
        throttler.submit(stream=True, **ask())


def test_it_is_a_call_in_stats_and_events(fake, throttle):
    """Queued, sent, succeeded, with its usage."""
    events = []
    throttler = throttle(fake(output_tokens=33), on_event=events.append)
    with throttler.stream(**ask()) as stream:
        assert throttler.stats().in_flight == 1
        stream.until_done()
    names = [type(event).__name__ for event in events]
    assert [n for n in names if n.startswith("Call")] == ["CallQueued", "CallSent", "CallSucceeded"]
    done = next(event for event in events if isinstance(event, CallSucceeded))
    assert (done.usage.output_tokens, done.request_id) == (33, stream.request_id)
    stats = throttler.stats()
    assert (stats.succeeded, stats.output_tokens, stats.in_flight) == (1, 33, 0)


def test_input_is_settled_as_it_begins_and_output_at_the_end(fake, throttle, manual):
    """What was booked too much comes back as soon as it is known."""
    server = fake(clock=manual)
    server.script(
        Streamed(usage={"input_tokens": 10, "output_tokens": 5}, at=4, wrong="stall"), Ok("b")
    )
    throttler = throttle(server, rpm=None, itpm=600, otpm=12_000, clock=manual)
    lane = lane_of(throttler)
    with throttler.stream(**ask("x" * 1800)) as stream:
        next(stream.text_stream)
        (attempts,) = lane.out
        assert (attempts.counted_input, attempts.held.input_tokens) == (10, 0)
        assert attempts.held.output_tokens > 5
        assert throttler.estimate_wait(**ask("x" * 1800)) < 2  # 500 tokens would take 50
        server.release_stalled()
        stream.until_done()
    assert not lane.out
    assert throttler.estimate_wait(**ask("x" * 1800)) < 2


def test_limits_are_learned_from_its_headers_before_it_ends(fake, throttle):
    """A long stream must not keep that for itself."""
    server = fake(rpm=600, itpm=50_000)
    server.script(Streamed(at=4, wrong="stall"))
    throttler = throttle(server, rpm=None, burst=None)
    with throttler.stream(**ask()) as stream:
        next(stream.text_stream)
        (lane,) = throttler.limits().values()
        assert {q.kind: q.in_force for q in lane.quotas}["input_tokens"] == 50_000


def test_its_place_comes_back_with_its_last_event(fake, throttle):
    """Not only with close()."""
    throttler = throttle(fake(), max_concurrency=1)
    stream = throttler.stream(**ask())
    assert slots_in_use(throttler) == 1
    stream.until_done()
    assert slots_in_use(throttler) == 0
    assert list(stream) == []


def test_the_connection_is_used_again(fake, throttle):
    """A stream that was read to its end is as good as any answer."""
    server = fake()
    throttler = throttle(server)
    for _ in range(5):
        with throttler.stream(**ask()) as stream:
            stream.until_done()
        throttler.call(raw=True, **ask())
    (pool,) = connection_pools_of(throttler)
    assert pool.num_connections == 1


def test_leaving_early_closes_the_connection_and_settles(fake, throttle):
    """By what was seen of the answer."""
    server = fake()
    server.script(Streamed(blocks=({"type": "text", "text": "x" * 3600},), at=6, wrong="stall"))
    throttler = throttle(server, max_concurrency=1)
    with throttler.stream(**ask()) as stream:
        next(stream.text_stream)
    assert slots_in_use(throttler) == 0
    wait_until(lambda: not connections_to(server))
    stats = throttler.stats()
    assert (stats.succeeded, stats.failed_total) == (1, 0)
    assert stats.output_tokens == 200  # one fifth of it came
    with pytest.raises(Closed, match="before its end"):
        list(stream)
    with pytest.raises(Closed) as info:
        stream.get_final_message()
    assert info.value.partial_message.content[0].text == "x" * 720


def test_close_is_idempotent_and_its_repr_says_so(fake, throttle):
    """From any thread, as often as one likes."""
    stream = throttle(fake()).stream(**ask())
    assert "open" in repr(stream)
    stream.close()
    stream.close()
    assert "ended" in repr(stream)
    assert isinstance(stream, MessageStream)


def test_pieces_in_any_cut(fake, throttle):
    """Odd chunks, other line ends, no chunks at all."""
    server = fake()
    cuts = [{"chunk_bytes": n} for n in (1, 2, 3, 7)]
    cuts += [{"line_end": "\r\n", "chunk_bytes": 5}, {"line_end": "\r"}, {"chunked": False}]
    server.script(*(Streamed(blocks=(TEXT, TOOL), pings=2, **cut) for cut in cuts))
    throttler = throttle(server)
    for _ in cuts:
        with throttler.stream(**ask()) as stream:
            message = stream.get_final_message()
        assert (message.content[0].text, message.content[1].input) == (TEXT["text"], TOOL["input"])


def test_an_answer_without_content(fake, throttle):
    """Nothing but its frame."""
    server = fake()
    server.script(Ok(""))
    with throttle(server).stream(raw=True, **ask()) as stream:
        assert stream.get_final_text() == ""
    frame = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    events = ({"type": "message_start", "message": frame}, {"type": "message_stop"})
    server.script(Streamed(events=events))
    throttler = throttle(server)
    with throttler.stream(raw=True, **ask()) as stream:
        assert stream.get_final_message()["content"] == []
    assert slots_in_use(throttler) == 0

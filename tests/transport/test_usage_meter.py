"""Usage, read out of an answer as it passes by."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.cost import Usage
from claude_throttle.transport.usage_reader import LONGEST_LINE, UsageReader

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 3, "output_tokens": 1}},
}
TEXT = {"type": "content_block_delta", "delta": {"text": 'say "usage": {"output_tokens": 99}'}}
DELTA = {"type": "message_delta", "usage": {"output_tokens": 40, "input_tokens": None}}
STOP = {"type": "message_stop"}


def encode(*events, line=b"\n"):
    """As the API writes them."""
    return b"".join(
        b"event: " + e["type"].encode() + line + b"data: " + json.dumps(e).encode() + line + line
        for e in events
    )


WHOLE = encode(START, TEXT, DELTA, STOP)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20), st.sampled_from([b"\n", b"\r\n"]))
def test_however_it_is_cut(cuts, line):
    """Byte by byte, or in one piece."""
    body = encode(START, TEXT, DELTA, STOP, line=line)
    meter, begin = UsageReader(EVENTS), 0
    for cut in [*sorted(cuts), len(body)]:
        meter.feed(body[begin:cut])
        begin = max(begin, cut)
    meter.end()
    assert meter.usage == Usage(9, 40, 0, 3)
    assert meter.whole


def test_what_it_told_by_the_time_it_was_left():
    """Not the whole of it."""
    meter = UsageReader(EVENTS)
    assert meter.usage is None
    meter.feed(encode(START, TEXT))
    assert (meter.usage, meter.whole) == (Usage(9, 1, 0, 3), False)


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, 16 + zlib.MAX_WBITS])
def test_what_is_compressed_is_read_all_the_same(wbits):
    """gzip and deflate."""
    compressor = zlib.compressobj(wbits=wbits)
    body = compressor.compress(WHOLE) + compressor.flush()
    meter = UsageReader({**EVENTS, "content-encoding": "gzip"})
    for byte in body:
        meter.feed(bytes([byte]))
    assert meter.usage == Usage(9, 40, 0, 3)


def test_what_a_client_has_inflated_is_read_as_it_is():
    """Though the headers still say so."""
    meter = UsageReader({**EVENTS, "content-encoding": "gzip"})
    meter.feed(WHOLE)
    assert meter.usage == Usage(9, 40, 0, 3)


def test_an_ordinary_answer_tells_at_its_end():
    """JSON."""
    meter = UsageReader({"content-type": "application/json"})
    meter.feed(b'{"type": "message", "usage": {"input_to')
    assert meter.usage is None
    meter.feed(b'kens": 5, "output_tokens": 6}}')
    meter.end()
    assert (meter.usage, meter.whole) == (Usage(5, 6), True)


@pytest.mark.parametrize(
    "body",
    [
        b"data: [1, 2]\n\n",
        b'data: {"type": "message_start", "message": 3, "usage": 1}\n\n',
        b'data: {"type": "message_delta", "usage": [1]}\n\n',
        b'data: {"usage"\n\n',
        b"\x1f\x8bno gzip\n",
        b"data: " + b"x" * 100_000,
    ],
)
def test_nonsense_tells_nothing(body):
    """And breaks nothing."""
    meter = UsageReader({**EVENTS, "content-encoding": "gzip"})
    meter.feed(body)
    meter.end()
    assert (meter.usage, meter.whole) == (None, False)


def test_a_line_without_end_is_not_kept():
    """Memory has its bounds, whoever talks."""
    meter = UsageReader(EVENTS)
    for _ in range(8):
        meter.feed(b"x" * (1024 * 1024))
    assert len(meter._rest) <= LONGEST_LINE + 1024 * 1024
    meter.feed(b"\n" + WHOLE)
    assert meter.usage == Usage(9, 40, 0, 3)

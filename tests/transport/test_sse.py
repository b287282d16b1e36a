"""Server-sent events: bytes in any cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.transport import sse

LINES = [
    "event: one",
    'data: {"text": "Grüße \u2028 \x85 🎈"}',
    "",
    ": a comment",
    "data: first",
    "data:second",
    "data",
    "id: 7",
    "retry: 10",
    "",
    "event: lonely",
    "",
    "",
]
EVENTS = [("one", '{"text": "Grüße \u2028 \x85 🎈"}'), ("message", "first\nsecond\n")]


def decoded(chunks):
    decoder = sse.SseDecoder()
    return [tuple(event) for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@given(cuts=st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_gives_the_same_events(line_end, cuts):
    """Within characters, line ends, names."""
    stream = line_end.join(LINES).encode()
    places = [0, *sorted(cuts), len(stream)]
    assert decoded(stream[a:b] for a, b in zip(places, places[1:])) == EVENTS


def test_an_event_comes_with_its_last_byte():
    """Nobody waits for what follows it."""
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        assert decoded([b"data: x" + end]) == [("message", "x")]


def test_what_is_not_utf_8_is_no_accident():
    """It becomes a replacement character."""
    assert decoded([b"data: \xff\n\n"]) == [("message", "\ufffd")]


def test_an_event_without_an_end_is_refused(monkeypatch):
    """Whether it is one line or many."""
    monkeypatch.setattr(sse, "LONGEST_EVENT_BYTES", 100)
    with pytest.raises(sse.TooLong):
        decoded([b"data: " + b"x" * 200])
    with pytest.raises(sse.TooLong):
        decoded([b"data: xxxxxxxxxx\n"] * 11)
    assert len(decoded([b"data: xxxxxxxxxx\n\n"] * 11)) == 11

"""From bytes to requests and problems; no thread, no file."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_throttle.cli import lines
from claude_throttle.cli.lines import Line, LineRequest, Problem

FILL = {"model": "m", "max_tokens": 5}
USER_HI = [{"role": "user", "content": "hi"}]


def read(data: bytes, fill: Any = FILL) -> list[Line]:
    return list(lines.read_lines(io.BytesIO(data), fill))


def read_one(value: Any, fill: Any = FILL) -> Line:
    (line,) = read(json.dumps(value).encode(), fill)
    return line


def reason_of(data: bytes) -> str:
    (line,) = read(data)
    assert isinstance(line, Problem)
    return line.reason


@pytest.mark.parametrize(
    "value",
    [
        "hi",
        {"prompt": "hi"},
        {"messages": USER_HI},
        {"messages": USER_HI, "stream": False},
        {"custom_id": "a", "params": {"messages": USER_HI}},
        {"custom_id": "a", "messages": USER_HI},
    ],
)
def test_every_kind_of_line_becomes_the_same_request(value: Any) -> None:
    line = read_one(value)
    assert isinstance(line, LineRequest)
    assert line.params == {"model": "m", "max_tokens": 5, "messages": USER_HI}


def test_what_a_line_says_wins_over_what_the_command_fills_in() -> None:
    line = read_one({"prompt": "hi", "model": "own", "max_tokens": 9, "system": "s"})
    assert isinstance(line, LineRequest)
    assert line.params == {"model": "own", "max_tokens": 9, "system": "s", "messages": USER_HI}


def test_a_line_without_an_id_gets_one_from_its_place_and_content() -> None:
    first, second, third = read(b'"a"\n"a"\n"b"\n')
    assert first.custom_id.startswith("line-1-")
    assert second.custom_id == first.custom_id.replace("line-1-", "line-2-")
    assert third.custom_id[-8:] != first.custom_id[-8:]


def test_white_space_and_windows_newlines_do_not_change_an_id() -> None:
    assert read(b'"a"\r\n')[0] == read(b'  "a"\n')[0] == read(b'"a"')[0]


def test_empty_lines_are_passed_over_but_counted() -> None:
    assert [line.number for line in read(b'\n"a"\n \t\r\n\n"b"\n')] == [2, 5]


def test_a_byte_order_mark_is_no_content() -> None:
    assert read(b'\xef\xbb\xbf"a"\n') == read(b'"a"\n')


def test_a_second_use_of_an_id_gets_an_id_of_its_own() -> None:
    """Its error must not stand in the place of the first one's answer."""
    first, second = read(b'{"custom_id": "a", "prompt": "x"}\n{"custom_id": "a", "prompt": "y"}\n')
    assert isinstance(first, LineRequest)
    assert isinstance(second, Problem)
    assert second.custom_id.startswith("line-2-")
    assert "'a' was used" in second.reason


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"prompt": "hi"', "not JSON"),
        (b'{"prompt": NaN}', "NaN"),
        (b'["hi"]', "a list"),
        (b"null", "null"),
        (b"7", "a number"),
        (b"true", "true or false"),
        (b'""', "empty"),
        (b'{"prompt": 7}', "prompt must be a string"),
        (b'{"prompt": "a", "messages": []}', "both"),
        (b'{"custom_id": 7, "prompt": "a"}', "custom_id"),
        (b'{"custom_id": "a", "params": []}', "params must be an object"),
        (b'{"custom_id": "a"}', "no messages"),
        (b'{"prompt": "a", "raw": false}', "raw"),
        (b'{"prompt": "a", "stream": true}', "stream"),
        (b'{"prompt": "a", "self": 1}', "self"),
        (b'"caf\xe9"', "not UTF-8: byte 0xe9 at column 5"),
        ("\ufeff".encode("utf-16-le") + '"hi"'.encode("utf-16-le"), "UTF-16"),
        (b"[" * 200_000, "not JSON"),
        (b"9" * 5000, ""),
    ],
)
def test_what_cannot_be_sent_says_why(data: bytes, words: str) -> None:
    assert words in reason_of(data)


def test_every_line_of_a_utf_16_file_is_reported_by_its_number() -> None:
    text = '"one"\r\n"two"\r\n"three"\r\n'
    for encoding in ("utf-16", "utf-16-be"):
        problems = read(text.encode(encoding))
        assert [line.number for line in problems] == [1, 2, 3]
        assert all("UTF-16" in line.reason for line in problems if isinstance(line, Problem))


def test_model_and_max_tokens_can_be_missing_only_if_the_command_has_them() -> None:
    assert "--model" in read_one("hi", {"max_tokens": 1}).reason  # type: ignore[union-attr]
    assert "--max-tokens" in read_one("hi", {"model": "m"}).reason  # type: ignore[union-attr]


def test_what_the_command_can_fill_in_is_told_apart() -> None:
    """One argument mends every such line at once; nothing mends a line without messages."""
    both = read_one("hi", {})
    assert isinstance(both, Problem)
    assert both.reason.startswith("no model and no max_tokens; give them here or as --model and")
    assert both.fixed_by_option
    without = read_one({"custom_id": "a"}, {})
    assert isinstance(without, Problem)
    assert (without.reason, without.fixed_by_option) == ("no messages", False)


def test_a_huge_line_is_reported_and_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT", 16)
    monkeypatch.setattr(lines, "_CHUNK", 4)
    exactly = b'"' + b"x" * 14 + b'"'
    huge, fits, again = read(b'"' + b"x" * 99 + b'"\n' + exactly + b"\n" + b"y" * 99)
    assert isinstance(huge, Problem)
    assert "longer than" in huge.reason
    assert isinstance(fits, LineRequest)
    assert isinstance(again, Problem)


def test_nothing_is_read_ahead() -> None:
    stream = io.BytesIO(b'"a"\n"b"\n')
    next(lines.read_lines(stream, FILL))
    assert stream.readline() == b'"b"\n'


def test_lines_are_counted_without_being_taken() -> None:
    stream = io.BytesIO(b'"a"\n\n"b"')
    assert lines.count_lines(stream) == 2
    assert len(list(lines.read_lines(stream, FILL))) == 2


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_at_all_stop_the_reading(pieces: list[bytes]) -> None:
    """Each line is a request or a problem; numbers rise and ids differ."""
    found = read(b"\n".join(pieces))
    numbers = [line.number for line in found]
    assert numbers == sorted(set(numbers))
    assert len({line.custom_id for line in found}) == len(found)


texts = st.sampled_from(["", " ", "a", "\ud800"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=5,
)
fields = st.sampled_from(["custom_id", "params", "prompt", "messages", "model", "system"])


@settings(deadline=None)
@given(st.dictionaries(fields, json_values))
def test_any_object_is_a_request_or_a_problem(value: dict[str, Any]) -> None:
    line = read_one(value)
    if isinstance(line, LineRequest):
        assert {"model", "max_tokens", "messages"} <= set(line.params)
        assert "custom_id" not in line.params or "params" in value

"""A Messages request, checked and serialised before it costs anything."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.errors import InvalidCall
from claude_throttle.transport import request
from claude_throttle.transport.request import prepare, serialise

SECRET = "the prompt nobody else may see"
GOOD = {
    "model": "claude-x",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "hi"}],
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def refusal(**changes):
    """The words a changed request is refused with."""
    with pytest.raises(InvalidCall) as caught:
        serialise({**GOOD, **changes})
    return str(caught.value)


@given(json_values)
def test_the_body_is_the_request(value):
    """Whatever JSON can say arrives as it was said, in UTF-8 and without waste."""
    made = prepare({**GOOD, "metadata": value})
    assert json.loads(made.body) == {**GOOD, "metadata": value}
    assert (made.model, made.max_tokens) == ("claude-x", 10)


def test_the_body_is_compact_and_not_ascii():
    """Fewer bytes on the wire."""
    body = serialise({**GOOD, "system": "世界"})
    assert b", " not in body
    assert "世界".encode() in body


def test_the_body_is_a_snapshot():
    """Changing a list afterwards has no effect."""
    messages = [{"role": "user", "content": "before"}]
    body = serialise({**GOOD, "messages": messages})
    messages[0]["content"] = "after"
    assert b"before" in body


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_what_is_missing_is_named(name):
    """Refused before it costs a request."""
    params = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(InvalidCall, match=f"^{name}= is missing: write {name}="):
        serialise(params)


def test_a_misspelling_of_what_is_missing_is_suggested():
    """max_token= is meant to be max_tokens=."""
    params = {"model": "m", "max_token": 5, "messages": GOOD["messages"]}
    with pytest.raises(InvalidCall, match="write max_tokens= in place of max_token="):
        serialise(params)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("prioritty", "priority"), ("time_out", "timeout"), ("extra_header", "extra_headers")],
)
def test_a_slip_in_a_keyword_of_ours_is_found(slip, meant):
    """It would travel to the API as an unknown parameter, and cost a request."""
    assert refusal(**{slip: 1}) == f"unknown keyword {slip}=; did you mean {meant}=?"


def test_streaming_is_refused_with_the_reason():
    """submit() ends with one whole answer."""
    assert refusal(stream=True).startswith("stream= is not for submit()")


def test_a_parameter_the_api_will_learn_tomorrow_passes():
    """We need no release for it."""
    assert b'"brand_new":1' in serialise({**GOOD, "brand_new": 1})


@pytest.mark.parametrize("value", ["", "  ", None, 5, ["claude-x"]])
def test_a_model_is_a_name(value):
    """Not empty, not anything else."""
    assert "model=" in refusal(model=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", None, True])
def test_max_tokens_is_a_whole_number_from_one(value):
    """The message shows what was given."""
    assert repr(value) in refusal(max_tokens=value)


@pytest.mark.parametrize("value", [[], (), None, SECRET, {"role": "user"}])
def test_messages_are_a_list_with_something_in_it(value):
    """A bare prompt is the usual slip; the right form is shown, and the prompt is not."""
    words = refusal(messages=value)
    assert words.startswith("messages= must be a list with at least one message")
    assert words.endswith(': messages=[{"role": "user", "content": "…"}]')
    assert SECRET not in words


@pytest.mark.parametrize("value", [SECRET, {}, {"role": "user"}, {"content": SECRET}, None])
def test_a_message_has_a_role_and_content(value):
    """The message that has none is not shown."""
    words = refusal(messages=[GOOD["messages"][0], value])
    assert words.startswith('every message must be a dict with "role" and "content"; messages[1] ')
    assert words.endswith(': write {"role": "user", "content": "…"}')
    assert SECRET not in words


@pytest.mark.parametrize("given", [list, tuple])
def test_content_that_is_none_is_told_by_its_place(given):
    """An empty field of a table: no API takes it."""
    words = refusal(messages=given([GOOD["messages"][0], {"role": "user", "content": None}]))
    assert words == "messages[1].content is None: leave the message out"


def test_a_tuple_of_messages_is_a_list_to_json():
    """It is accepted, and sent as a list."""
    assert serialise({**GOOD, "messages": tuple(GOOD["messages"])}) == serialise(GOOD)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_has_no_place_in_json(value):
    """The API could only refuse it."""
    assert "NaN and infinity" in refusal(temperature=value)


@pytest.mark.parametrize("value", [object(), b"x", {(1,): 2}])
def test_what_json_cannot_write_is_refused_by_type(value):
    """The type is named, its content is not."""
    words = refusal(system=SECRET, metadata=value)
    assert words.startswith("the request cannot be written as JSON: ")
    assert SECRET not in words


def test_half_a_surrogate_pair_is_no_text():
    """UTF-8 cannot say it; the text around it is not shown."""
    words = refusal(system=SECRET + "\ud83d")
    assert words == "the request holds half a surrogate pair, which is no valid text, in system"


def test_a_request_that_contains_itself_is_refused():
    """In our words; a very deep one, too."""
    loop, deep = [], "x"
    loop.append(loop)
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        assert refusal(metadata=value).endswith("it contains itself")


def test_the_cause_is_not_carried_along():
    """json's own exception may quote the prompt, and holds it in its frames."""
    with pytest.raises(InvalidCall) as caught:
        serialise({**GOOD, "system": SECRET + "\ud83d"})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_body_that_is_too_large_is_refused_by_its_size(monkeypatch):
    """Exactly at the limit it passes; the figure is that of the bytes, not the characters."""
    size = len(serialise({**GOOD, "system": "世" * 1000}))
    monkeypatch.setattr(request, "MAX_BODY_BYTES", size)
    serialise({**GOOD, "system": "世" * 1000})
    monkeypatch.setattr(request, "MAX_BODY_BYTES", size - 1)
    assert "at most 32 MB" in refusal(system="世" * 1000)


def test_the_limit_is_that_of_the_api():
    """32 MB; the figures are told."""
    assert request.MAX_BODY_BYTES == 32 * 1024 * 1024
    assert "34.0 MB" in refusal(system="x" * (34 * 1024 * 1024))

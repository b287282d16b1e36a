"""What people put into a request is sent as the SDK sends it, or refused by the field's name."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import io
import json
import pickle
import sys
import uuid
from concurrent.futures import Future
from decimal import Decimal
from types import MappingProxyType

import pydantic
import pytest
from anthropic.types import Message

from claude_throttle.errors import InvalidCall
from claude_throttle.transport.request import prepare, serialise
from tests.support.calls import HELLO
from tests.support.sdk_releases import NOT_GIVEN, OMIT, text_block

TextBlock = text_block()

SECRET = "the prompt nobody else may see"

#: A response, as raw=True gives it.
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"citations": None, "text": "Let me look.", "type": "text"},
        {"id": "toolu_1", "input": {"city": "Rome"}, "name": "weather", "type": "tool_use"},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
TYPED = Message.construct(**ANSWER)


def sent(**changes):
    """What reaches the API of a changed request."""
    return json.loads(serialise({**HELLO, **changes}))


def refusal(**changes):
    """The words a changed request is refused with; they pickle, and hold no content."""
    with pytest.raises(InvalidCall) as caught:
        serialise({**HELLO, **changes})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


class Weather(pydantic.BaseModel):
    """A user's own model."""

    city: str = pydantic.Field(alias="cityName")
    days: int = 3
    day: datetime.date = datetime.date(2026, 1, 1)


@dataclasses.dataclass
class Place:
    city: str
    more: object = None


class Colour(enum.Enum):
    RED = "red"


class Model(str, enum.Enum):
    X = "claude-x"


class Level(enum.IntEnum):
    LOW = 3


def turns(*content):
    """The messages of a tool loop's second turn."""
    return [*HELLO["messages"], *content, {"role": "user", "content": "go on"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": TYPED.content},
        {"role": TYPED.role, "content": tuple(TYPED.content)},
        TYPED,
        ANSWER,
    ],
    ids=["content", "tuple", "message", "raw"],
)
def test_a_tool_loop_sends_an_answer_back(answer):
    """By its content, as the SDK's docs do it, or whole: the API takes the role and the content."""
    made = prepare({**HELLO, "messages": turns(answer)})
    assert json.loads(made.body)["messages"] == turns(
        {"role": "assistant", "content": ANSWER["content"]}
    )
    plain = prepare({**HELLO, "messages": turns({k: ANSWER[k] for k in ("role", "content")})})
    assert made.estimated_input == plain.estimated_input


def test_a_response_elsewhere_in_a_request_is_left_whole():
    """Only a message of the conversation is known to be one."""
    assert sent(metadata={"messages": [TYPED]})["metadata"]["messages"][0]["id"] == "msg_1"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Weather(cityName="Rome"), {"cityName": "Rome"}),
        (
            [Weather(cityName="Rome", day=datetime.date(2026, 2, 3))],
            [{"cityName": "Rome", "day": "2026-02-03"}],
        ),
        (Place("Rome", Place("Oslo", (1, NOT_GIVEN)[:1])), None),
        (Place("Rome", NOT_GIVEN), {"city": "Rome"}),
        ({"a": Colour.RED, "b": Model.X, "c": Level.LOW}, {"a": "red", "b": "claude-x", "c": 3}),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        ((n for n in (1, 2)), [1, 2]),
        (map(str, [1]), ["1"]),
        ({7}, [7]),
        ({"a": 1}.keys(), ["a"]),
        (collections.deque([1]), [1]),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        ({"a": NOT_GIVEN, "b": OMIT, "c": None}, {"c": None}),
        ({"x": {"y": OMIT}}, {"x": {}}),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        ({"type": "base64", "data": io.BytesIO(b"abc")}, {"type": "base64", "data": "YWJj"}),
        ({"type": "base64", "data": io.StringIO("abc")}, {"type": "base64", "data": "YWJj"}),
        (2**70, 2**70),
    ],
)
def test_a_value_is_written_as_the_sdk_writes_it(value, written):
    """By alias, without unset fields, with lists for what can be gone through."""
    if written is None:
        written = {"city": "Rome", "more": {"city": "Oslo", "more": [1]}}
    assert sent(metadata=value)["metadata"] == written


def test_the_oldest_pydantic_models_are_written_alike():
    """Those of version 1, which a program may have beside the SDK's."""
    try:
        from pydantic import v1
    except ImportError:
        v1 = pydantic  # which is that version

    class Old(v1.BaseModel):
        city: str = v1.Field(alias="cityName")
        days: int = 3
        day: datetime.date = datetime.date(2026, 1, 1)

    old = Old(cityName="Rome", day=datetime.date(2026, 2, 3))
    assert sent(tools=[old])["tools"] == [{"cityName": "Rome", "day": "2026-02-03"}]


def test_a_file_is_read_where_base64_is_asked_for(tmp_path):
    """And its name is in no error if it cannot be."""
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    source = {"type": "base64", "media_type": "image/png", "data": path}
    content = [{"type": "image", "source": source}]
    (message,) = sent(messages=[{"role": "user", "content": content}])["messages"]
    assert message["content"][0]["source"]["data"] == "YWJj"
    path.unlink()
    assert "metadata.data is a file that cannot be read (FileNotFoundError)" in refusal(
        metadata=source
    )


@pytest.mark.parametrize("kind", [io.BytesIO, io.StringIO])
def test_a_file_that_was_read_already_is_refused(kind):
    """It would be sent as an empty document by the second call that it is given to."""
    file = kind()
    words = refusal(metadata={"type": "base64", "data": file})
    assert "metadata.data is a file with nothing left to read: give each call its own" in words


class Number:
    """As much of a numpy scalar as it has."""

    shape = ()
    dtype = "float32"

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


def test_numpys_numbers_are_numbers():
    """A data frame's rows hold them; a column with a gap makes floats of its whole numbers."""
    assert sent(max_tokens=Number(5), temperature=Number(0.5))["max_tokens"] == 5
    assert sent(max_tokens=100.0)["max_tokens"] == 100
    assert "temperature is nan" in refusal(temperature=Number(float("nan")))
    assert "max_tokens= must be a whole number from 1, not 0.5" in refusal(max_tokens=0.5)


def test_an_enums_member_may_name_the_model():
    """The plain text of it is what lanes and events see."""
    for model in (Model.X, Number("claude-x")):
        made = prepare({**HELLO, "model": model})
        assert (type(made.model), made.model) == (str, "claude-x")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"abc", "metadata is of type bytes, which JSON lacks: write base64.b64encode("),
        ({"user_id": uuid.UUID(int=1)}, "metadata.user_id is of type UUID"),
        ([{"a": [Decimal(1)]}], "metadata[0].a[0] is of type Decimal"),
        ({SECRET: object()}, "metadata.… is of type object"),
        ({"sk-ant-1": object()}, "metadata.… is of type object"),
        ([OMIT], "metadata[0] is omit or NOT_GIVEN"),
        (Weather, "metadata is a class"),
        (len, "metadata is of type builtin_function_or_method"),
        (
            lambda: 1,
            'metadata is of type function, which JSON lacks: write its description: {"name"',
        ),
        (ValueError(SECRET), "metadata is of type ValueError"),
        (io.StringIO(SECRET), "metadata is of type StringIO, which JSON lacks: write its content"),
        ({(1, 2): SECRET}, "metadata has a key that is a tuple"),
        ({float("nan"): 1}, "metadata has NaN or infinity as a key"),
        ([float("-inf")], "metadata[0] is -inf: NaN and infinity have no place there"),
        ({"a\ud83d": 1}, "half a surrogate pair, which is no valid text, in metadata"),
        (
            (SECRET[1 // n :] for n in (1, 0)),
            "metadata cannot be read: it raised ZeroDivisionError",
        ),
    ],
)
def test_what_json_lacks_is_refused_by_its_field_with_what_to_write(value, words):
    """Names that may be a user's own words are not shown."""
    assert words in refusal(metadata=value)


def test_an_answers_format_is_a_schema():
    """The SDK's parse() takes a class; a call takes what it makes of it."""
    words = refusal(output_format=Weather)
    assert "output_format is a class" in words
    assert 'output_config={"format": {"type": "json_schema", "schema": anthropic.' in words


class LocalProxy:
    """As Flask has them: it says that it is what it stands for."""

    __class__ = property(lambda _self: str)  # type: ignore[assignment]


def test_a_proxy_is_refused_though_it_says_it_is_a_string():
    """With what to write for it, or for another value that is not there yet."""
    assert "system is of type LocalProxy, which JSON lacks: write str(…)" in refusal(
        system=LocalProxy()
    )
    content = [{"role": "user", "content": Future()}]
    assert "messages[0].content is of type Future, which JSON lacks: write future.result()" in (
        refusal(messages=content)
    )


class Torn(pydantic.BaseModel):
    text: str = SECRET

    def model_dump(self, **_options):
        raise ValueError(self.text)

    dict = model_dump


class Changing(collections.UserDict):
    def items(self):
        raise RuntimeError("dictionary changed size during iteration")


class Lazy(collections.UserDict):
    def __getitem__(self, _key):
        raise KeyError(SECRET)


def test_a_value_that_breaks_is_told_without_its_words():
    """Whoever raises them."""
    assert "metadata.x cannot be read: it raised KeyError" in refusal(metadata={"x": Lazy(a=1)})
    assert "metadata is a Torn that raised ValueError" in refusal(metadata=Torn())
    words = refusal(metadata=Changing())
    assert "metadata was changed while it was read, perhaps by another thread" in words


def test_a_circle_is_told_from_depth():
    """Of plain and of other containers."""
    loop, deep = {}, TextBlock(type="text", text=SECRET)
    loop["again"] = (loop,)
    for _ in range(3000):
        deep = (deep,)
    assert "metadata.again[0] is what it stands in: it contains itself" in refusal(metadata=loop)
    assert "metadata[0][0]" in refusal(metadata=deep)
    assert "is nested too deeply" in refusal(metadata=deep)
    twice = {"a": 1}
    assert sent(metadata=[twice, (twice,)])["metadata"] == [twice, [twice]]


def test_a_plain_request_that_is_nested_deeply_is_only_estimated_otherwise():
    """By the size of its body."""
    deep = "x"
    for _ in range(250):
        deep = {"type": "list", "content": [deep]}
    made = prepare({**HELLO, "messages": [{"role": "user", "content": [deep]}]})
    assert made.estimated_input >= len(made.body) / 8


def test_a_number_that_python_does_not_write_is_told():
    """Of the versions that have such a limit; 64 bits are none."""
    if hasattr(sys, "get_int_max_str_digits"):
        words = refusal(metadata=[10**5000])
        assert "metadata[0] is a whole number of too many digits" in words
    assert sent(metadata=[2**64])["metadata"] == [2**64]


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_what_must_be_given_and_is_not_given_is_missing(name):
    """As if it were left out."""
    assert refusal(**{name: NOT_GIVEN}).startswith(f"{name}= is missing: write {name}=")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (SECRET, "not a string"),
        (HELLO["messages"][0], "not a dict"),
        ([SECRET], "messages[0] is a string"),
        ([[SECRET]], "messages[0] is a list"),
        (iter(()), "at least one message:"),
        ([TextBlock(type="text", text=SECRET)], "messages[0] has not both"),
    ],
)
def test_messages_in_another_form_are_shown_the_right_one(messages, words):
    """In one line."""
    found = refusal(messages=messages)
    assert words in found
    assert '{"role": "user", "content": "…"}' in found
    assert "\n" not in found


def test_the_callers_own_values_are_not_changed():
    """A snapshot: neither what was given, nor what is sent."""
    content = [TextBlock(type="text", text="a")]
    messages = [{"role": "user", "content": content}]
    made = prepare({**HELLO, "messages": messages, "system": OMIT})
    content[0].text = "b"
    assert json.loads(made.body)["messages"][0]["content"][0]["text"] == "a"
    assert messages == [{"role": "user", "content": content}]

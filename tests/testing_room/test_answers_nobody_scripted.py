"""What is not scripted is answered alike by every helper, and fits what is asked."""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal, Optional, Union

import anthropic
import pydantic
import pytest
import requests
import responses

from claude_throttle import Throttler
from claude_throttle.features.test_mode.canned_transport import CANNED_TEXT
from claude_throttle.testing import ClaudeApi, FakeClaude, add_message
from claude_throttle.testing.minimal_json import minimal_json
from tests.support.fake_http import HEADERS, ask, body, events
from tests.support.needs import needs
from tests.support.thorough import only_thorough

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
FORMAT = {"type": "json_schema", "schema": PERSON}
LOOK = {"name": "look", "input_schema": PERSON}
MORE = {"name": "more", "input_schema": {"type": "object", "properties": {}}}
NOBODY = {"name": "", "age": 0}

#: What is asked, and the text (or the input) of the answer.
ASKED = {
    "prose": (body("Why?"), "echo: Why?"),
    "JSON": (body('{"a": [1, 2]}'), '{"a": [1, 2]}'),
    "long JSON": (body(json.dumps(["x" * 1000])), json.dumps(["x" * 1000])),
    "nearly JSON": (body("[sic] as it was"), "echo: [sic] as it was"),
    "a schema": (body(output_config={"format": FORMAT}), json.dumps(NOBODY)),
    "the beta's schema": (body(output_format=FORMAT), json.dumps(NOBODY)),
    "a tool": (body(tools=[MORE, LOOK], tool_choice={"type": "tool", "name": "look"}), NOBODY),
    "any tool": (body(tools=[LOOK, MORE], tool_choice={"type": "any"}), NOBODY),
    "a tool nobody gave": (body(tool_choice={"type": "tool", "name": "look"}), {}),
    "a tool if it likes": (body(tools=[LOOK], tool_choice={"type": "auto"}), "echo: hello"),
    "no tool": (body(tools=[LOOK], tool_choice={"type": "none"}), "echo: hello"),
}


def begun(text):
    """A call whose answer is begun by the caller."""
    asked = body("As JSON.")
    asked["messages"].append({"role": "assistant", "content": text})
    return asked


def content(answer):
    (block,) = answer["content"]
    assert answer["stop_reason"] == ("tool_use" if block["type"] == "tool_use" else "end_turn")
    return block["input"] if block["type"] == "tool_use" else block["text"]


def by_server(server, asked):
    return requests.post(server.url + "/v1/messages", json=asked, headers=HEADERS, timeout=5).json()


def by_batch(server, asked):
    with Throttler(api_key="any", base_url=server.url) as throttler:
        (result,) = throttler.batches.submit([asked], raw=True).results()
    return result.message


def by_mock(asked):
    with responses.RequestsMock() as rsps:
        add_message(rsps, base_url="https://gate.example")
        url = "https://gate.example/v1/messages"
        return requests.post(url, json=asked, headers=HEADERS, timeout=5).json()


@pytest.fixture(scope="module")
def servers():
    with ClaudeApi() as api, FakeClaude() as fake:
        yield api, fake


@pytest.fixture(scope="module")
def canned():
    throttler = Throttler(rpm=1e6, burst=1000)
    with throttler.testing_mode():
        yield throttler


@pytest.mark.parametrize("kind", ASKED)
def test_every_helper_answers_alike(servers, canned, kind):
    """Servers, mocks and testing mode, which says of prose that it is canned."""
    asked, expected = ASKED[kind]
    for server in servers:
        assert content(by_server(server, asked)) == expected
    assert content(by_mock(asked)) == expected
    shown = CANNED_TEXT if str(expected).startswith("echo: ") else expected
    assert content(canned.call(**asked, raw=True)) == shown


def test_streams_and_batches_answer_alike_too(servers, canned):
    """The same content, in pieces or in lines."""
    asked, expected = ASKED["a tool"]
    api = servers[0]
    answer = ask(api, stream=True, **{name: asked[name] for name in ("tools", "tool_choice")})
    deltas = [data["delta"] for name, data in events(answer.text) if name == "content_block_delta"]
    pieces = [delta["partial_json"] for delta in deltas]
    assert json.loads("".join(pieces)) == expected
    with canned.stream(**asked) as stream:
        assert stream.get_final_message().content[0].input == expected
    assert content(by_batch(api, asked)) == expected


@pytest.mark.parametrize(
    "start",
    [
        "{",
        '```json\n{"a": ["',
        *map(only_thorough, ["[", '{"a":', '{"a', '{"a": [1,', '{"a": "\\"']),
    ],
)
def test_json_that_the_caller_began_is_completed(servers, start):
    """json.loads(beginning + answer), as code without schemas has it."""
    text = content(by_server(servers[0], begun(start)))
    assert isinstance(json.loads(start.removeprefix("```json\n") + text), (dict, list))


@pytest.mark.parametrize("start", ["Well,", "{}", '{"a": 1}'])
def test_what_is_no_json_or_whole_is_not_completed(servers, start):
    """Then the answer is the echo."""
    assert content(by_server(servers[0], begun(start))) == "echo: As JSON."


class Kind(Enum):
    ONE = "one"


class Part(pydantic.BaseModel):
    count: int = pydantic.Field(ge=3, le=5)
    share: float = pydantic.Field(gt=0, lt=1)
    name: str = pydantic.Field(min_length=2)
    parts: list[Part]


class Whole(pydantic.BaseModel):
    kind: Kind
    word: Literal["yes", "no"]
    parts: list[Part] = pydantic.Field(min_length=2)
    maybe: Optional[Part]
    either: Union[int, str]
    table: dict[str, int]
    last: int = 7


@needs("parse")
def test_the_sdk_can_parse_it(servers):
    """messages.parse() gives an object, though the API's schemas know no limits."""
    with anthropic.Anthropic(api_key="any", base_url=servers[0].url, max_retries=0) as client:
        parsed = client.messages.parse(**body(), output_format=Whole).parsed_output
    assert isinstance(parsed, Whole)
    assert (parsed.kind, parsed.maybe, len(parsed.parts)) == (Kind.ONE, None, 2)
    Whole.model_validate(minimal_json(Whole.model_json_schema()))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"next": {"$ref": "#"}, "a": {"const": 1}}}, {"next": {"a": 1}, "a": 1}),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {}),
        ({"anyOf": [{"$ref": "#"}, {"const": 4}]}, 4),
        ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"enum": ["x"]}}}]}, {"a": "x"}),
        ({"type": ["integer", "null"]}, None),
        ({"prefixItems": [{"type": "boolean"}], "minItems": 2, "items": {"const": 3}}, [False, 3]),
        ({"type": "integer", "exclusiveMinimum": 5, "multipleOf": 5}, 10),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, 0.25),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"properties": {"$ref": {"type": "string"}}, "required": ["$ref"]}, {"$ref": ""}),
        (True, {}),
        (None, {}),
    ],
)  # fmt: skip
def test_the_least_value_of_a_schema(schema, expected):
    """Recursion ends, limits hold, and what is required is there."""
    assert minimal_json(schema) == expected

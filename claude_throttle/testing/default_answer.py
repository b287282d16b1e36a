"""The answer to a request that nobody scripted, wherever it is asked.

It fits what was asked: the schema, the tool or the beginning of the answer. A program that parses
what comes back can then be tested without a script. Pure functions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from claude_throttle.testing.minimal_json import minimal_json
from claude_throttle.testing.received_call import NONCE_CHARACTERS, last_user_text
from claude_throttle.transport.verdicts import read_json

#: Characters of English text in a token, roughly.
CHARACTERS_PER_TOKEN = 4.0

#: What closes each bracket of JSON.
_CLOSES = {"{": "}", "[": "]"}
_BEFORE_JSON = re.compile(r"^[^{\[]*")
#: A complete string of JSON.
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')


def default_content(
    body: Mapping[str, Any], message_id: str, prose: Optional[str] = None
) -> list[dict[str, Any]]:
    """The content blocks of the answer to *body*.

    A forced tool is used with the least input it takes. Where JSON is asked for, the text is the
    least JSON that fits; a prompt that is JSON comes back as it is. Everything else is answered by
    *prose*, or by an echo, so that a test with many threads can see whether each caller got the
    answer to its own request.
    """
    tool = _forced_tool(body)
    if tool is not None:
        given = minimal_json(tool.get("input_schema"))
        name, tool_id = tool.get("name", ""), "toolu_" + message_id.rpartition("_")[2]
        return [{"type": "tool_use", "id": tool_id, "name": name, "input": given}]
    return [{"type": "text", "text": _text(body, prose)}]


def output_tokens(content: Iterable[Mapping[str, Any]]) -> int:
    """The tokens that those content blocks count as; at least 1."""
    texts = (str(block.get("text", block.get("input", ""))) for block in content)
    return max(1, math.ceil(sum(map(len, texts)) / CHARACTERS_PER_TOKEN))


def _text(body: Mapping[str, Any], prose: Optional[str]) -> str:
    schema = _schema(body)
    if schema is not None:
        return json.dumps(minimal_json(schema))
    rest = _rest_of_json(body.get("messages"))
    if rest is not None:
        return rest
    asked = last_user_text(body.get("messages"))
    if _is_json(asked):
        return asked
    return f"echo: {asked[:NONCE_CHARACTERS]}" if prose is None else prose


def _forced_tool(body: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The tool that ``tool_choice`` demands; of any, the first."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    known = [tool for tool in tools or () if isinstance(tool, Mapping)]
    if isinstance(choice, Mapping) and kind == "tool":
        named = [tool for tool in known if tool.get("name") == choice.get("name")]
        return named[0] if named else {"name": choice.get("name")}
    return known[0] if kind == "any" and known else None


def _schema(body: Mapping[str, Any]) -> Any:
    """The schema of ``output_config.format``, or of the beta's ``output_format``."""
    config = body.get("output_config")
    for form in (
        config.get("format") if isinstance(config, Mapping) else None,
        body.get("output_format"),
    ):
        if isinstance(form, Mapping) and form.get("type") == "json_schema":
            return form.get("schema", {})
    return None


def _rest_of_json(messages: Any) -> Optional[str]:
    """What completes the JSON that the last message, in the assistant's name, begins."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    begun = _BEFORE_JSON.sub("", last_user_text([{**last, "role": "user"}]))
    bare = _STRING.sub("", begun)
    closing = ""
    for character in bare.partition('"')[0]:
        if character in _CLOSES:
            closing = _CLOSES[character] + closing
        elif closing.startswith(character):
            closing = closing[1:]
    rests = [more + closing for more in ("", '"', '""', ': ""', '": ""', '"": ""')]
    return next((rest for rest in rests if closing and _is_json(begun + rest)), None)


def _is_json(text: str) -> bool:
    """Whether *text* is a JSON object or array."""
    return isinstance(read_json(text.encode("utf-8", "replace")), (dict, list))

"""How these tests ask."""

from __future__ import annotations

from tests.support.calls import MODEL

TEXT = {"type": "text", "text": "Grüße, \u2028 and so on"}
THOUGHT = {"type": "thinking", "thinking": "hm … let me see", "signature": "c2ln"}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich", "n": 1}}


def ask(text="hello", **more):
    """Keywords of one stream, with the SDK's types unless told otherwise."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 100, "messages": messages, **more}

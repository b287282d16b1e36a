"""What the tests of batches ask."""

from __future__ import annotations

import json

from claude_throttle.features.batches.api import Batches
from tests.support.calls import MODEL


def params(text="hello", **more):
    """A Messages request."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def pairs(count, name="r"):
    """So many requests with names of their own."""
    return [(f"{name}{number}", params(f"prompt {number}")) for number in range(count)]


def bounded(throttler, bounds):
    """Batches that are cut smaller than the API would have them."""
    return Batches(throttler._batch_client, bounds)


def text_of(result):
    """What the fake says it was asked."""
    message = result.message
    if not isinstance(message, dict):
        message = json.loads(message.model_dump_json())
    return message["content"][0]["text"].removeprefix("echo: ")


def asked(server):
    """Method and last part of the path of each request about batches."""
    return [(a.model, a.path.rpartition("/")[2]) for a in server.batches.arrivals]

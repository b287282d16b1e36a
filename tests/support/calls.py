"""Calls that tests make, and what the fake API answers them."""

from __future__ import annotations

from claude_throttle import Quota

MODEL = "claude-sonnet-5"

#: Output tokens: what is booked too much is seen as a wait, a few tokens more than asked are not.
FIVE_SECONDS_AT_ONCE = Quota(1000, burst=1000 / 12)

#: The lane, and the model group, of that model.
LANE = "sonnet-5"

#: What the throttlers of the tests authenticate with.
KEY = "sk-ant-test-key-0000"

#: A call as the official SDK makes it.
HELLO = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


def ask(text="hello", **more):
    """Keywords of one call."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "raw": True,
        **more,
    }


def echo(message):
    """What the fake API says it was asked."""
    return message["content"][0]["text"].removeprefix("echo: ")

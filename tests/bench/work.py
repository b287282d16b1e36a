"""What is sent: bodies, and the throttlers that send them."""

from __future__ import annotations

from claude_throttle import Throttler

MODEL = "claude-sonnet-5"

#: More than any quota here binds.
UNBOUNDED_RPM = 1e9


def ask(text="x" * 400, max_tokens=50):
    """Keywords of one call."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": max_tokens, "messages": messages}


def throttler(url, **settings):
    """A throttler that talks to the fake API."""
    return Throttler(api_key="sk-ant-not-a-key", base_url=url, **settings)


def between(source, shortest, longest):
    """A random length; each size within the spread is as likely as its double."""
    return round(shortest * (longest / shortest) ** source.random())

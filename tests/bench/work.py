"""What is sent: bodies, and the throttlers that send them."""

from __future__ import annotations

import threading

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


def push(server, calls, **told):
    """Send *calls* through a throttler; the server's log, and how many failed."""
    with throttler(server.url, **told) as throttle:
        failed = failures([throttle.submit(raw=True, **call) for call in calls])
    return server.arrivals(), failed


def failures(futures):
    """How many of them failed, once all are done."""
    return sum(future.exception() is not None for future in futures)


def let_pass(seconds):
    """For what is measured to happen *because* nothing does: there is no one who could notify."""
    threading.Event().wait(seconds)


def between(source, shortest, longest):
    """A random length; each size within the spread is as likely as its double."""
    return round(shortest * (longest / shortest) ** source.random())

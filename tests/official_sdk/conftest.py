"""The official SDK itself, as it is installed, in front of the fake API."""

from __future__ import annotations

import contextlib

import anthropic
import pytest

from tests.conftest import MODEL

HELLO = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


def in_flight(throttler):
    """Places that are taken."""
    return throttler._process().limiter.in_use


@pytest.fixture
def client():
    """``client(server, throttler)``: an SDK client with its defaults, but for our middleware."""
    with contextlib.ExitStack() as stack:

        def make(server, throttler, before=(), terms=None, **options):
            middleware = [*before, throttler.middleware(**(terms or {}))]
            made = anthropic.Anthropic(
                api_key="sk-ant-test-key-0000",
                base_url=server.url,
                middleware=middleware,
                **options,
            )
            return stack.enter_context(made)

        yield make

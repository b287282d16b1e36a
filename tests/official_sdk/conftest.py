"""The official SDK itself, as it is installed, in front of the fake API."""

from __future__ import annotations

import contextlib

import anthropic
import pytest

from tests.support.calls import KEY
from tests.support.httpx_libraries import OF_THE_SDK


@pytest.fixture
def client():
    """``client(server, throttler)``: an SDK client with its defaults, but for our middleware."""
    with contextlib.ExitStack() as stack:

        def make(server, throttler, before=(), terms=None, **options):
            middleware = [*before, throttler.middleware(**(terms or {}))]
            made = anthropic.Anthropic(
                api_key=KEY,
                base_url=server.url,
                middleware=middleware,
                **options,
            )
            return stack.enter_context(made)

        yield make


@pytest.fixture
def sdk():
    """``sdk(server, transport)``: the SDK's client, around that transport."""
    with contextlib.ExitStack() as stack:

        def make(server, transport, **options):
            http_client = OF_THE_SDK.Client(transport=transport)
            made = anthropic.Anthropic(
                api_key=KEY, base_url=server.url, http_client=http_client, **options
            )
            return stack.enter_context(made)

        yield make

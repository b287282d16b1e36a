"""A throttler that was closed before anything used it lets nothing of other clients pass."""

from __future__ import annotations

import pytest
import requests

from claude_throttle import Closed
from tests.support.calls import HELLO, KEY, MODEL
from tests.support.httpx_libraries import INSTALLED, library
from tests.support.needs import needs

PATHS = {
    "a message": ("POST", "/v1/messages", HELLO),
    "a count": ("POST", "/v1/messages/count_tokens", {"model": MODEL, "messages": []}),
    "a batch": ("POST", "/v1/messages/batches", {"requests": []}),
    "a list of batches": ("GET", "/v1/messages/batches", None),
}

END = {
    "closed": lambda throttler: throttler.close(),
    "drained": lambda throttler: throttler.drain(),
}


@pytest.fixture(params=END)
def ended(request, fake, throttle):
    """A throttler that ended unused, and the server that nothing reaches."""
    server = fake()
    throttler = throttle(server)
    END[request.param](throttler)
    return throttler, server


def _reached(server):
    return server.arrivals + server.other_arrivals


@pytest.mark.parametrize(("method", "path", "body"), PATHS.values(), ids=PATHS)
def test_a_session_and_a_transport_of_an_ended_throttler_refuse(ended, method, path, body):
    """Whatever has a quota; it would go without a pace."""
    httpx = library(INSTALLED[0])
    throttler, server = ended
    headers = {"x-api-key": KEY}
    with throttler.session() as session, pytest.raises(Closed, match="make a new one"):
        session.request(method, server.url + path, json=body, headers=headers)
    with httpx.Client(transport=throttler.transport()) as client:
        with pytest.raises(Closed, match="make a new one"):
            client.request(method, server.url + path, json=body, headers=headers)
    assert not _reached(server)


def test_what_has_no_quota_passes_all_the_same(ended):
    """The throttler never was in its way."""
    throttler, server = ended
    with throttler.session() as session:
        answer = session.get(server.url + "/v1/models", headers={"x-api-key": KEY})
    assert isinstance(answer, requests.Response)


@needs("middleware", "batches")
def test_the_sdk_s_methods_raise_closed(ended):
    """Those with a quota of their own, too, and none is tried again."""
    import anthropic

    throttler, server = ended
    with anthropic.Anthropic(
        api_key=KEY, base_url=server.url, middleware=[throttler.middleware()]
    ) as client:
        for ask in (
            lambda: client.messages.create(**HELLO),
            lambda: client.messages.count_tokens(model=MODEL, messages=HELLO["messages"]),
            lambda: client.messages.batches.list(),
            lambda: client.messages.batches.create(requests=[]),
        ):
            with pytest.raises(Closed):
                ask()
    assert not _reached(server)

"""What the SDK's client does after a refusal under the middleware: as throttler.call() would."""

from __future__ import annotations

import anthropic
import pytest

from claude_throttle import LanePaused, Suspended
from claude_throttle.testing import KEY_REFUSED, NOT_PERMITTED, Garbage, Reply, gateway_rate_limit
from tests.support.calls import HELLO, KEY

NEEDS = ["middleware"]

LARGE = "This request would exceed your organization's rate limit of 9 input tokens per minute"
MONEY = b'{"error": {"message": "Insufficient credits", "code": "429"}}'


class Client:
    """The SDK's, behind one message that was answered."""

    def __init__(self, server, throttle, http):
        self.server, self.events = server, []
        self.throttler = throttle(server, on_event=self.events.append)
        paced = {"middleware": [self.throttler.middleware()], "http_client": http}
        self.sdk = anthropic.Anthropic(api_key=KEY, base_url=server.url, **paced)
        self.create()

    def create(self, **more):
        return self.sdk.messages.create(**{**HELLO, **more})

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def _http():
    with anthropic.DefaultHttpxClient(verify=False) as http:
        yield http


@pytest.fixture
def client(fake, throttle, _http):
    return Client(fake(), throttle, _http)


@pytest.mark.parametrize("refusal", [KEY_REFUSED, NOT_PERMITTED], ids=["401", "403"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_worked_a_moment_ago_is_tried_again(client, refusal, stream):
    client.server.script(refusal)
    client.create(stream=stream)
    assert len(client.server.arrivals) == 3
    assert not client.seen(Suspended)


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(429, {"retry-after": "9", "x-should-retry": "true"}, message=LARGE),
        Garbage(MONEY, 429),
        Reply(429, message="x", error_code="contract_spend_limit_reached"),
        Reply(429, message="This request would exceed your rate limit of 0 requests per minute"),
    ],
    ids=["larger than the limit", "a gateway's money", "the API's money", "no capacity"],
)
def test_what_no_wait_helps_is_sent_once_and_pauses_nobody(client, refusal):
    client.server.script(refusal)
    with pytest.raises(anthropic.RateLimitError):
        client.create(messages=[{"role": "user", "content": "a long text " * 20}])
    assert len(client.server.arrivals) == 2
    assert not client.seen(LanePaused)
    assert client.throttler.stats().in_flight == 0


def test_a_passing_429_is_tried_again(client):
    client.server.script(gateway_rate_limit(0.05))
    client.create()
    assert len(client.server.arrivals) == 3


def test_a_page_of_a_firewall_is_not_tried_again(client):
    client.server.script(Garbage(b"<html>", 403))
    with pytest.raises(anthropic.PermissionDeniedError):
        client.create()
    assert len(client.server.arrivals) == 2

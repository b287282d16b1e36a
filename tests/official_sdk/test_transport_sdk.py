"""``Anthropic(http_client=httpx.Client(transport=throttler.transport()))``: any release."""

from __future__ import annotations

import asyncio
import logging

import anthropic
import pytest

from claude_throttle import Closed, DeadlineExceeded
from claude_throttle.core.threads.clock import SYSTEM_CLOCK
from claude_throttle.testing import Ok, Reply, Reset
from tests.support.calls import HELLO, KEY, ask
from tests.support.httpx_libraries import OF_THE_SDK
from tests.support.inside import slots_in_use
from tests.support.sdk_releases import CAPABILITIES

#: Clients that the SDK itself offers; the oldest releases have none.
DEFAULT_CLIENTS = [getattr(anthropic, "DefaultHttpxClient", OF_THE_SDK.Client)]

NO_MONEY = "Your credit balance is too low to access the Anthropic API."


def stream(at, **request):
    with at.stream(**request) as each:
        return each.get_final_message()


def streaming(at, **request):
    with at.with_streaming_response.create(**request) as answer:
        return answer.parse()


#: The ways in which the SDK sends a request.
SENDS = {
    "create": lambda at, **request: at.create(**request),
    "stream=True": lambda at, **request: list(at.create(**request, stream=True)),
    "stream": stream,
    "with_raw_response": lambda at, **request: at.with_raw_response.create(**request),
    "with_streaming_response": streaming,
}


@pytest.mark.parametrize("send", SENDS)
def test_its_answers_come_as_without_it_and_give_their_places_back(fake, throttle, sdk, send):
    """However it is asked, each takes a permit of its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = sdk(server, throttler.transport())
    for _ in range(2):
        assert SENDS[send](made.messages, **HELLO)
        assert slots_in_use(throttler) == 0
    assert len(server.arrivals) == 2


@pytest.mark.parametrize("kind", DEFAULT_CLIENTS)
def test_its_default_client_takes_it_too(fake, throttle, kind):
    """The one with the SDK's own time-outs."""
    server = fake()
    throttler = throttle(server)
    http_client = kind(transport=throttler.transport())
    with anthropic.Anthropic(api_key=KEY, base_url=server.url, http_client=http_client) as made:
        assert made.messages.create(**HELLO).content[0].text == "echo: hello"
    assert throttler.stats().permits == 1


def test_each_of_its_retries_takes_a_permit(fake, throttle, sdk):
    """A refusal, a fault, a lost connection: three attempts to one answer."""
    server = fake()
    throttler = throttle(server)
    server.script(Reply(429, {"retry-after-ms": "1"}, "rate_limit_error"), Reset(), Ok())
    made = sdk(server, throttler.transport())
    assert made.messages.create(**HELLO).content[0].text == "echo: hello"
    assert (throttler.stats().permits, throttler.stats().rate_limited) == (3, 1)
    assert slots_in_use(throttler) == 0


def test_it_does_not_sleep_for_longer_than_the_lane_waits_for_its_first_probe(fake, throttle, sdk):
    """Nor take an instant for a number of seconds."""
    server = fake()
    throttler = throttle(server)
    made = sdk(server, throttler.transport()).with_options(max_retries=0)
    server.script(Reply(429, {"retry-after": "999999"}, "rate_limit_error"))
    with pytest.raises(anthropic.RateLimitError) as caught:
        made.messages.create(**HELLO)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("999999", "60000")
    soon = f"{(SYSTEM_CLOCK.wall() + 0.2) * 1000:.0f}"
    server.script(Reply(503, {"retry-after": soon}, "api_error"), Ok())
    other = throttle(server)
    assert sdk(server, other.transport()).messages.create(**HELLO)


def test_it_does_not_try_again_what_no_wait_helps(fake, throttle, sdk):
    """Money; the SDK's own exception comes at once."""
    server = fake()
    throttler = throttle(server)
    server.script(Reply(429, {}, "rate_limit_error", NO_MONEY))
    with pytest.raises(anthropic.RateLimitError, match="credit balance"):
        sdk(server, throttler.transport()).messages.create(**HELLO)
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("send", SENDS)
def test_our_errors_come_as_they_are_and_are_not_retried(fake, throttle, sdk, send):
    """The SDK would call them a lost connection, sleep, and try twice more."""
    server = fake()
    throttler = throttle(server, rpm=1, burst=1)
    made = sdk(server, throttler.transport(timeout=0.01))
    made.messages.create(**HELLO)
    with pytest.raises(DeadlineExceeded, match="nothing was sent"):
        SENDS[send](made.messages, **HELLO)
    throttler.close()
    with pytest.raises(Closed, match="make a new one"):
        SENDS[send](made.messages, **HELLO)
    assert len(server.arrivals) == 1
    assert slots_in_use(throttler) == 0


def test_an_error_of_ours_is_asked_for_once(fake, throttle, sdk, caplog):
    """One wait, not three."""
    caplog.set_level(logging.INFO, "claude_throttle")
    server = fake()
    throttler = throttle(server, rpm=1, burst=1)
    made = sdk(server, throttler.transport(timeout=0.01), max_retries=5)
    made.messages.create(**HELLO)
    with pytest.raises(DeadlineExceeded):
        made.messages.create(**HELLO)
    assert caplog.text.count("turned away: DeadlineExceeded") == 1


def test_what_the_client_cannot_be_made_with_comes_as_it_is(fake, throttle, sdk):
    """A proxy that is none is no lost connection."""
    server = fake()
    made = sdk(server, throttle(server).transport(proxy="ftp://proxy"))
    with pytest.raises(ValueError, match="[Pp]roxy") as caught:
        made.messages.create(**HELLO)
    assert not isinstance(caught.value, anthropic.APIError)


def test_an_asynchronous_sdk_is_told_what_to_write(fake, throttle):
    """As itself, too."""
    server = fake()
    http_client = OF_THE_SDK.AsyncClient(transport=throttle(server).transport())

    async def call():
        made = anthropic.AsyncAnthropic(
            api_key=KEY, base_url=server.url, http_client=http_client, max_retries=5
        )
        async with made:
            await made.messages.create(**HELLO)

    with pytest.raises(TypeError, match=r"synchronous.*use httpx\.Client\(transport="):
        asyncio.run(call())
    assert not server.arrivals


@pytest.mark.parametrize("method", ["adapter", *["middleware"] * CAPABILITIES["middleware"]])
def test_what_was_made_for_another_client_says_what_fits(fake, throttle, sdk, method):
    """Through the SDK, too."""
    server = fake()
    made = sdk(server, getattr(throttle(server), method)())
    with pytest.raises(TypeError, match=rf"{method}\(\) does not fit.*throttler\.transport\(\)"):
        made.messages.create(**HELLO)


def test_its_calls_and_ours_share_one_pace(fake, throttle, sdk):
    """What it sends is taken from the same quota."""
    server = fake()
    throttler = throttle(server, rpm=1)
    sdk(server, throttler.transport()).messages.create(**HELLO)
    assert throttler.estimate_wait(**ask()) > 30

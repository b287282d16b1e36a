"""``throttler.middleware()`` and ``throttler.transport()`` in one client of the official SDK."""

from __future__ import annotations

import pytest

from claude_throttle.testing import Ok, Reply
from tests.support.calls import HELLO
from tests.support.inside import slots_in_use

NEEDS = ["middleware"]


def stream(at, **request):
    with at.stream(**request) as each:
        return each.get_final_message()


#: The ways in which the SDK sends a request.
SENDS = {
    "create": lambda at, **request: at.create(**request),
    "stream=True": lambda at, **request: list(at.create(**request, stream=True)),
    "stream": stream,
}


def both(throttler, other):
    """Of each attempt: one throttler's middleware around another one's transport."""
    return {"transport": other.transport(), "middleware": [throttler.middleware()]}


@pytest.mark.parametrize("send", SENDS)
def test_middleware_and_transport_of_one_throttler_admit_a_request_once(fake, throttle, sdk, send):
    """Each of its attempts."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = sdk(server, **both(throttler, throttler))
    SENDS[send](made.messages, **HELLO)
    server.script(Reply(503, {"retry-after-ms": "1"}, "api_error"), Ok())
    SENDS[send](made.messages, **HELLO)
    assert (throttler.stats().permits, len(server.arrivals)) == (3, 3)
    assert slots_in_use(throttler) == 0


def test_two_middlewares_of_one_throttler_admit_a_request_once(fake, throttle, sdk):
    """Somebody wrote it twice."""
    server = fake()
    throttler = throttle(server)
    twice = [throttler.middleware(), throttler.middleware()]
    made = sdk(server, None, middleware=twice)
    made.messages.create(**HELLO)
    assert throttler.stats().permits == 1


def test_two_throttlers_in_one_client_are_told_of_once(fake, throttle, sdk, caplog):
    """Both pace it."""
    server = fake()
    one, other = throttle(server), throttle(server)
    made = sdk(server, **both(one, other))
    for _ in range(2):
        made.messages.create(**HELLO)
    assert (one.stats().permits, other.stats().permits) == (2, 2)
    assert caplog.text.count("two throttlers pace one client") == 1


def test_a_request_made_from_within_another_ones_middleware_is_admitted_too(fake, throttle, sdk):
    """As many permits as requests, and each of its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=2)
    judge = sdk(server, throttler.transport())

    def judged(request, call_next):
        judge.messages.create(**HELLO)
        return call_next(request)

    made = sdk(server, throttler.transport(), middleware=[throttler.middleware(), judged])
    made.messages.create(**HELLO)
    assert (throttler.stats().permits, len(server.arrivals)) == (2, 2)

"""Batches of requests as people write them for the SDK, and what goes with their creation."""

from __future__ import annotations

import math

import pytest

from claude_throttle import InvalidCall
from tests.support.batches import params
from tests.support.sdk_releases import NOT_GIVEN, OMIT, text_block

TextBlock = text_block()

BETA = "anthropic-beta"


def created(fake, throttle, requests, **extras):
    """The server, and the arrival of the creation of a batch."""
    server = fake()
    throttler = throttle(server, default_headers={BETA: "first"})
    handle = throttler.batches.submit(requests, **extras)
    assert [one.kind for one in handle.result(timeout=10)] == ["succeeded"] * len(handle.custom_ids)
    return server.batches.arrivals


def test_headers_betas_and_query_go_with_the_creation_only(fake, throttle):
    """The results are asked for as ever."""
    arrivals = created(
        fake,
        throttle,
        [params()],
        betas=["second"],
        extra_headers={"X-Team": "a"},
        extra_query={"beta": True},
        timeout=NOT_GIVEN,
    )
    creation, *others = arrivals
    assert creation.headers[BETA] == "first,second"
    assert creation.headers["x-team"] == "a"
    assert creation.nonce == "beta=true"
    assert {one.headers[BETA] for one in others} == {"first"}
    assert not any("x-team" in one.headers for one in others)


def test_extra_body_stands_beside_the_requests(fake, throttle):
    """It is counted among the bytes of the batch."""
    assert created(fake, throttle, [params()], extra_body={"note": "é", "gone": OMIT})
    with pytest.raises(InvalidCall, match="must not hold its requests"):
        created(fake, throttle, [params()], extra_body={"requests": []})


def test_a_batch_of_another_key_is_another_throttlers(fake, throttle):
    """Its results would be asked for with ours."""
    for name in ("X-Api-Key", "Authorization"):
        with pytest.raises(InvalidCall, match=r"Throttler\(api_key=") as caught:
            created(fake, throttle, [params()], extra_headers={name: "sk-secret"})
        assert "sk-secret" not in str(caught.value)


def test_a_request_is_what_the_sdk_takes(fake, throttle):
    """Typed blocks, what is not given, a body's extra fields."""
    block = TextBlock(type="text", text="hello", citations=None)
    messages = [{"role": "user", "content": (block,)}]
    left_out = {"system": NOT_GIVEN, "betas": None, "extra_headers": OMIT, "stream": False}
    body = {"max_tokens": 5}
    assert created(fake, throttle, [params(messages=messages, **left_out, extra_body=body)])


def test_the_name_of_a_request_comes_of_what_is_sent(throttle, fake):
    """However it was written."""
    batches = throttle(fake()).batches
    block = {"text": "hello", "type": "text"}
    plain = batches.check(params(messages=[{"role": "user", "content": [block]}]))
    for content in ((block,), iter([{**block, "citations": NOT_GIVEN}])):
        assert batches.check(params(messages=[{"role": "user", "content": content}])) == plain


@pytest.mark.parametrize(
    ("keyword", "instead"),
    [
        ({"betas": ["x"]}, 'batches.submit(requests, betas=["…"])'),
        ({"extra_headers": {"a": "sk-secret"}}, "batches.submit(requests, extra_headers={…})"),
        ({"extra_query": {"a": "b"}}, "batches.submit(requests, extra_query={…})"),
        ({"workspace_id": "w"}, 'extra_headers={"anthropic-workspace-id": …}'),
        ({"timeout": 5}, "timeout= is a word of submit()"),
        ({"api_key": "sk-secret"}, "api_key= is no parameter of a call"),
        ({"system": math.nan}, "system is nan"),
        ({"messages": "a prompt"}, 'messages=[{"role": "user"'),
    ],
)
def test_what_one_request_of_a_batch_cannot_have_is_told(fake, throttle, keyword, instead):
    """With its place, and before anything is sent."""
    server = fake()
    with pytest.raises(InvalidCall) as caught:
        throttle(server).batches.submit([params(), params(**keyword)])
    assert str(caught.value).startswith("request 1 (from 0): ")
    assert instead in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert not server.batches.arrivals

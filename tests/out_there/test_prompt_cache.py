"""Prompts that mostly come from the prompt cache: asked first, and booked by what they count."""

from __future__ import annotations

import json

import pytest
import requests

from claude_throttle import QuotaTooSmall
from claude_throttle.core.estimation.estimator import CACHE_MARK, Estimator, has_cache_mark
from claude_throttle.testing import Ok
from claude_throttle.transport.request import serialise
from tests.support.calls import KEY, MODEL, ask, echo
from tests.support.inside import note_departures

MARK = {"cache_control": {"type": "ephemeral"}}
AN_HOUR = {"cache_control": {"ttl": "1h", "type": "ephemeral"}}

#: About 12,000 tokens.
LONG = "x" * 43_000

#: Of 12,000 tokens of input, the part that each usage counts.
WRITTEN = {"input_tokens": 2_000, "cache_creation_input_tokens": 10_000}
READ = {"input_tokens": 2_000, "cache_read_input_tokens": 10_000}
NEITHER = {"input_tokens": 12_000}


def text(**more):
    return {"type": "text", "text": LONG, **more}


def said(*blocks):
    return [{"role": "user", "content": list(blocks)}]


MARKED = {
    "at the top level": ask(LONG, **MARK),
    "for an hour": ask(LONG, **AN_HOUR),
    "in system": ask(system=[text(**MARK)]),
    "in a tool": ask(tools=[{"name": "t", "description": LONG, "input_schema": {}, **MARK}]),
    "in a message": {**ask(), "messages": said(text(**MARK))},
    "in an earlier message": {**ask(), "messages": [*said(text(**MARK)), *ask()["messages"]]},
    "nested in a tool's result": {
        **ask(),
        "messages": said({"type": "tool_result", "tool_use_id": "t", "content": [text(**MARK)]}),
    },
    "in a document": {
        **ask(),
        "messages": said({"type": "document", "source": {"type": "text", "data": LONG}, **AN_HOUR}),
    },
}

UNMARKED = {
    "no mark": ask(LONG),
    "null": ask(LONG, cache_control=None),
    "only spoken of": ask(LONG + '{"cache_control":{"type":"ephemeral"}}'),
}


def estimate(estimator, cache_marked=True):
    return estimator.cost(MODEL, 12_000.0, 100, cache_marked).input_tokens


def teach(estimator, *usages, cache_marked=True):
    for usage in usages:
        whole = sum(usage.values())
        counted = whole - usage.get("cache_read_input_tokens", 0)
        known = float(whole) if cache_marked else 0.0
        estimator.learn(MODEL, 12_000.0, counted, 100, 1, known, cache_marked)


# -- nothing is refused for its size before it was asked -------------------------------------------


@pytest.mark.parametrize("params", MARKED.values(), ids=MARKED)
def test_a_marked_prompt_larger_than_the_quota_is_sent(fake, throttle, params):
    """How much of it counts, only its answer tells."""
    server = fake()
    server.script(Ok("from the cache", READ))
    throttler = throttle(server, rpm=60, itpm=10_000)
    assert echo(throttler.call(**params)) == "from the cache"


@pytest.mark.parametrize("params", UNMARKED.values(), ids=UNMARKED)
def test_without_a_mark_it_is_refused_unsent(fake, throttle, params):
    """It can never leave."""
    with pytest.raises(QuotaTooSmall):
        throttle(fake(), rpm=60, itpm=10_000).submit(**params)


@pytest.mark.parametrize("params", [*MARKED.values(), *UNMARKED.values()])
def test_the_mark_is_found_alike_in_bytes_and_in_a_request(params):
    """Our own calls are looked through as bytes, other clients' as what they are."""
    params = {name: value for name, value in params.items() if name != "raw"}
    assert (
        (CACHE_MARK in serialise(params))
        == has_cache_mark(params)
        == has_cache_mark(json.loads(serialise(params)))
    )


def test_a_model_whose_limit_counts_cache_reads_refuses_it_all_the_same(fake, throttle):
    """Nothing of it is free there."""
    with pytest.raises(QuotaTooSmall):
        throttle(fake(), rpm=60, itpm=10_000).submit(
            **{**MARKED["in system"], "model": "claude-3-haiku-20240307"}
        )


def test_other_clients_marked_requests_are_sent_and_teach_too(fake, throttle):
    """Here by the adapter of requests; the SDK's middleware goes the same way."""
    server = fake()
    server.script(Ok("", READ), Ok("", READ))
    throttler = throttle(server, rpm=60, burst=10, itpm=10_000)
    taken = note_departures(throttler, lambda cost, now: cost.input_tokens)
    body = {name: value for name, value in MARKED["in system"].items() if name != "raw"}
    with requests.Session() as session:
        session.mount("http://", throttler.adapter())
        for _ in range(2):
            headers = {"x-api-key": KEY}
            assert session.post(f"{server.url}/v1/messages", json=body, headers=headers).ok
            throttler.reconfigure(
                itpm=10_000_000
            )  # what the first one wrote need not be waited out
    assert taken[0] > 10_000 > 2_500 > taken[1]


# -- what counts is learned ------------------------------------------------------------------------


def test_until_an_answer_tells_a_marked_prompt_counts_in_full():
    """The first one writes the cache, and that counts."""
    assert estimate(Estimator()) == 12_000.0


@pytest.mark.parametrize(
    ("usages", "counted"),
    [
        pytest.param([WRITTEN], 12_000, id="the write alone teaches nothing"),
        pytest.param([WRITTEN, *[READ] * 6], 2_000, id="reads fall near to what is charged"),
        pytest.param([*[READ] * 20, *[WRITTEN] * 6], 12_000, id="a lost cache rises again"),
        pytest.param([NEITHER] * 5, 12_000, id="a mark below the least size changes nothing"),
        pytest.param([{"cache_read_input_tokens": 12_000}] * 3, 0, id="all of it may be read"),
        pytest.param([{"input_tokens": 0}] * 3, 12_000, id="an empty usage teaches nothing"),
    ],
)
def test_a_marked_prompt_is_booked_by_what_the_last_answers_counted(usages, counted):
    """Soon: a cache that was written or lost changes all answers after it."""
    estimator = Estimator()
    teach(estimator, *usages)
    assert estimate(estimator) == pytest.approx(counted, rel=0.1, abs=1)


def test_unmarked_prompts_are_not_estimated_by_marked_ones():
    """Mixed traffic on one model: each kind is booked as it is charged."""
    estimator = Estimator()
    for _ in range(20):
        teach(estimator, READ)
        teach(estimator, NEITHER, cache_marked=False)
    assert estimate(estimator) == pytest.approx(2_000, rel=0.1)
    assert estimate(estimator, cache_marked=False) == pytest.approx(12_000, rel=0.02)


def test_models_caches_are_learned_apart():
    """Each has its own."""
    estimator = Estimator()
    teach(estimator, *[READ] * 5)
    assert estimator.cost("claude-opus-5", 12_000.0, 100, True).input_tokens == 12_000.0


@pytest.mark.parametrize("mark", [MARK, {}], ids=["marked", "a relay caches by itself"])
def test_a_count_by_the_api_is_corrected_by_what_answers_counted(fake, throttle, mark):
    """40,000 of 40,200 tokens are read from the cache; the endpoint counts them all."""
    server = fake()
    server.script(*[Ok("", {"input_tokens": 200, "cache_read_input_tokens": 40_000})] * 3)
    throttler = throttle(server, rpm=6000, burst=10, itpm=1_000_000, count_tokens="api")
    taken = note_departures(throttler, lambda cost, now: cost.input_tokens)
    for _ in range(3):
        throttler.call(**ask("x" * 4 * 40_200, **mark))
    assert taken[0] > 40_000
    assert max(taken[1:]) < 300

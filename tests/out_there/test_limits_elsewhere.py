"""Limits that the API's own headers do not show: in words, under other names, and of one call."""

from __future__ import annotations

import gc
import json
import math
import pickle
import random

import anthropic
import pytest
import requests

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.feedback import (
    RATE,
    Feedback,
    RateLimit,
    RelayedLimit,
    StatedLimit,
)
from claude_throttle.core.pacing.pacer import AUTO, Pacer
from claude_throttle.simulation.quotas import SimulatedLimits
from claude_throttle.simulation.simulated_server import (
    SeenRequest,
    SimulatedRequest,
    SimulatedServer,
)
from claude_throttle.testing import Ok, Reply
from claude_throttle.transport.limit_headers import read_limits
from claude_throttle.transport.relay_limits import read_reset, reset_seconds
from claude_throttle.transport.verdicts import classify
from tests.simulation import scenes
from tests.support.calls import KEY, LANE, MODEL, ask, echo
from tests.support.inside import pacer_of
from tests.support.learning import answered, known, nothing_told
from tests.support.waiting import move_until_done, wait_until


@pytest.fixture
def simulate():
    """Runs a scene. Its worker ends in this thread, which holds its lock, and in no other."""
    yield scenes.simulate
    gc.collect()


# -- under other names -----------------------------------------------------------------------------

WALL = 1_764_510_000.0


def fields(family="x-ratelimit", kind="-requests", limit="60", remaining="59", **more):
    told = {f"{family}-limit{kind}": limit, f"{family}-remaining{kind}": remaining}
    return {**told, **{f"{family}-{item}{kind}": value for item, value in more.items()}}


def own(kind="requests", limit=50, remaining=49, prefix=""):
    return {
        f"{prefix}anthropic-ratelimit-{kind}-limit": str(limit),
        f"{prefix}anthropic-ratelimit-{kind}-remaining": str(remaining),
    }


RELAYED = {
    "requests": (fields(), {"requests": 60}),
    "tokens of all kinds": (fields(kind="-tokens"), {"tokens": 60}),
    "input tokens": (fields(kind="-input-tokens"), {"input_tokens": 60}),
    "output tokens": (fields(kind="-output-tokens"), {"output_tokens": 60}),
    "no kind is requests": (fields(kind=""), {"requests": 60}),
    "in any case": ({k.title(): v for k, v in fields().items()}, {"requests": 60}),
    "parted by a hyphen": (fields("x-rate-limit", ""), {"requests": 60}),
    "as the IETF has it": (fields("ratelimit", ""), {"requests": 60}),
    "with a window": (fields("ratelimit", "", "10, 10;w=1"), {"requests": 600}),
    "in a policy": (
        {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'},
        {"requests": 100},
    ),
    "in one field": ({"RateLimit": "limit=100, remaining=50, reset=5"}, {"requests": 100}),
    "a second's": (fields(kind="-second", limit="2", remaining="1"), {"requests": 120}),
    "an hour's": (fields(kind="-hour"), {"requests/3600": 60}),
    "a day's": (fields(kind="-tokens-day"), {"tokens/86400": 60}),
    "with thousands parted": (fields(limit="10,000", remaining="9,999"), {"requests": 10_000}),
    "passed on by LiteLLM": (own(prefix="llm_provider-"), {"requests": 50}),
    "passed on with hyphens": (own(prefix="llm-provider-"), {"requests": 50}),
    "as Mistral has it": (fields(kind="-req-minute"), {"requests": 60}),
    "passed on twice": (fields("llm_provider-x-ratelimit"), {"requests": 60}),
    "the nearer to the API the better": (
        {**fields(), **own(prefix="llm_provider-")},
        {"requests": 50},
    ),
    "the API's own first": ({**fields(), **own()}, {"requests": 50}),
    "each kind by itself": (
        {**own(), **fields(kind="-input-tokens")},
        {"requests": 50, "input_tokens": 60},
    ),
    "a sum is no limit": ({**own("input-tokens"), **fields(kind="-tokens")}, {"input_tokens": 50}),
    "beside a nonsense": ({**fields(limit="-1"), **fields("ratelimit", "")}, {"requests": 60}),
    "a user's or a model's is none": (fields(kind="-requests-of-someone"), {}),
    "only what is left": ({"x-ratelimit-remaining-requests": "5"}, {}),
}


@pytest.mark.parametrize(("headers", "limits"), RELAYED.values(), ids=RELAYED)
def test_a_relay_s_limits_are_read_where_the_api_s_own_are_missing(headers, limits):
    """By their kind, for a minute."""
    assert {kind: shown.limit for kind, shown in read_limits(headers).rate_limits.items()} == limits


NONSENSE = ["-1", "0", "1e18", "9" * 400, "nan", "inf", "unlimited", "", "\x00", "0.2", "60 000"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_relay_s_nonsense_is_ignored(text):
    """The limit that makes no sense, and the one of which nobody knows what is left."""
    assert read_limits(fields(limit=text)).rate_limits == {}
    assert (
        text == "0"
        or "requests" not in read_limits(fields(remaining=text)).rate_limits
        or text == "0.2"
    )


RESETS = {
    "6m0s": 360,
    "1s": 1,
    "250ms": 0.25,
    "1h2m3s": 3723,
    "8.64s": 8.64,
    "12": 12,
    "1764510010": 10,
    "1764510010500": 10.5,
    "2025-11-30T13:40:10Z": 10,
    "2025-11-30T13:40:10.123456789+00:00": 10,
    "Sun, 30 Nov 2025 13:40:10 GMT": 10,
    **dict.fromkeys(["", "soon", "-5", "0", "nan", "1e300", "1764509990", "1970-01-01T00:00:00Z"]),
}


@pytest.mark.parametrize(("text", "seconds"), RESETS.items())
def test_a_reset_is_read_in_every_spelling(text, seconds):
    """Durations, seconds, epochs and dates; the past and nonsense say nothing."""
    read = reset_seconds(text, WALL)
    assert read == (seconds if seconds is None else pytest.approx(seconds))
    empty = fields(remaining="0", reset=text)
    assert read_reset(empty, WALL) == read
    assert read_reset(fields(reset=text), WALL) is None


def test_a_refusal_without_a_time_waits_until_the_limit_that_is_used_up_resets():
    """And not for one of which something is left."""
    told = {**fields(remaining="0", reset="6m0s"), **fields(kind="-tokens", reset="9m0s")}
    body = b'{"error": {"message": "Too many requests", "code": "429"}}'
    assert classify(429, told, body, WALL).feedback.retry_after == pytest.approx(360)


@pytest.mark.parametrize(
    ("names", "source"),
    [("x-ratelimit", "x-ratelimit headers"), ("llm_provider", "llm_provider headers")],
)
def test_limits_of_a_relay_are_shown_with_their_source(fake, throttle, names, source):
    """And the pace keeps to them."""
    throttler = nothing_told(throttle, fake(rpm=60, itpm=1e5, limit_headers=names))
    throttler.call(**ask())
    for kind, amount in (("requests", 60), ("input_tokens", 1e5)):
        row = known(throttler)[kind]
        assert (row.learned, row.in_force, row.source) == (amount, amount, source)
    assert source in str(throttler.limits())


def relay_answer(**headers):
    text = [{"type": "text", "text": "ok"}]
    usage = {"input_tokens": 9, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": text, "usage": usage}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, given, body=json.dumps({**message, "model": MODEL}).encode())


def test_a_relay_s_limit_on_all_tokens_and_one_of_a_day_are_kept_too(fake, throttle):
    """They have rows of their own; what is left is believed."""
    server = fake()
    told = {**fields(kind="-tokens", limit="9000", remaining="100"), **fields(kind="-day")}
    server.script(relay_answer(**told))
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    rows = {(q.kind, q.per): q for q in throttler.limits()[LANE].quotas}
    tokens, day = rows["tokens", 60.0], rows["requests", 86_400.0]
    assert (tokens.learned, tokens.source, day.learned) == (9000, "x-ratelimit headers", 60)
    assert tokens.remaining <= 200
    assert "requests a day" in str(throttler.limits())


@pytest.mark.parametrize("shown_on_refusals", [True, False])
@pytest.mark.parametrize(("names_it", "most"), [(True, 60), (False, 75)])
def test_a_pace_learned_from_refusals_outweighs_what_a_relay_shows(
    monkeypatch, simulate, shown_on_refusals, names_it, most
):
    """It shows 10,000 a minute with every answer, and refuses above 60."""

    class Relay(SimulatedServer):
        def rate_limits(self, now):
            shown = RelayedLimit(10_000.0, 9_990.0)
            return {"requests": shown.of("requests", 60.0, "x-ratelimit headers")}

        def arrive(self, request, now):
            done_at, reply = super().arrive(request, now)
            return done_at, lambda at: self.told(reply(at))

        def told(self, feedback):
            if not feedback.cause:
                return feedback
            feedback = feedback if names_it else feedback._replace(kind=None, stated=None)
            return feedback if shown_on_refusals else feedback._replace(rate_limits={})

    monkeypatch.setattr(scenes, "SimulatedServer", Relay)
    requests = [SimulatedRequest(latency=1.0)] * 200
    ran = simulate(SimulatedLimits(rpm=60, burst=20), requests)
    assert scenes.unanswered(ran) == []
    assert 45 <= ran.pacer.learned["requests"].limit <= most
    assert scenes.refusals(ran) < 40


# -- in words --------------------------------------------------------------------------------------

OURS = "your organization's rate limit of"
WORDS = {
    "input": (f"{OURS} 30,000 input tokens per minute", "input_tokens", 30_000),
    "no commas": (f"{OURS} 120000 input tokens per minute", "input_tokens", 120_000),
    "output": (f"{OURS} 8,000 output tokens per minute", "output_tokens", 8_000),
    "fifty": (f"{OURS} 50 requests per minute", "requests", 50),
    "five": (f"{OURS} 5 requests per minute", "requests", 5),
    "older": (
        "the rate limit for your organization (a-1.b) of 40,000 input tokens per minute",
        *("input_tokens", 40_000),
    ),
    "tokens": (f"{OURS} 1,000,000 tokens per minute", "tokens", 1_000_000),
    "a day": (f"{OURS} 2,500,000 tokens per day", "tokens", 2_500_000),
    "an hour": (f"{OURS} 1,000 requests per hour", "requests", 1_000),
    "in short": (f"{OURS} 40k input tokens per min", "input_tokens", 40_000),
    "millions": (f"{OURS} 1.5M input tokens/minute", "input_tokens", 1_500_000),
    "all tokens": (f"{OURS} 2,000,000 total tokens every minute", "tokens", 2_000_000),
}
NO_WORDS = {
    "a ramp": "would exceed your organization's maximum usage increase rate for input tokens per "
    "minute. Your current limit is 58,276 input tokens per minute, and will increase to 68,276",
    "the oldest": "Number of request tokens has exceeded your per-minute rate limit",
    "nothing": "Rate limited. Please try again later.",
    "zero": "This request would exceed your organization's rate limit of 0 requests per minute",
    "more than a number": "would exceed your rate limit of " + "9" * 20 + " requests per minute",
}


def sentence(words):
    return f"This request would exceed {words} (org: 1-2, model: claude-x). For details, refer to …"


def envelope(message):
    error = {"type": "rate_limit_error", "message": message}
    return json.dumps({"type": "error", "error": error, "request_id": "r"})


SHAPES = {
    "the API's": envelope,
    "a gateway's, in its message": lambda m: json.dumps(
        {"error": {"message": f"AnthropicException - {envelope(m)}", "code": "429"}}
    ),
    "a gateway's, as a detail": lambda m: json.dumps({"detail": f"upstream said: {m}"}),
    "a gateway's, as plain text": lambda m: f"429 from upstream: {m}",
}


def feedback_of(body):
    return classify(429, {"retry-after": "1"}, body.encode(), WALL).feedback


@pytest.mark.parametrize(("words", "kind", "limit"), WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_limit_in_the_words_of_a_refusal_is_read(shape, words, kind, limit):
    """Whoever quotes the API's sentence."""
    told = feedback_of(shape(sentence(words)))
    per = {"day": 86_400.0, "hour": 3600.0}.get(words.rsplit(" ", 1)[1], 60.0)
    assert (told.cause, told.stated) == (RATE, StatedLimit(kind, limit, per))


@pytest.mark.parametrize("words", NO_WORDS.values(), ids=NO_WORDS)
def test_words_that_name_no_limit_teach_none(words):
    """A ramp's numbers are another matter."""
    assert feedback_of(envelope(words)).stated is None


def test_a_stranger_s_own_words_teach_no_limit():
    """A gateway that speaks for itself is not the API."""
    words = "Your plan has a limit of 3 requests per minute"
    assert feedback_of(json.dumps({"error": {"message": words}})).stated is None


class SlidingWindow(SimulatedServer):
    """Counts the input of the last minute, instead of letting it accrue."""

    def arrive(self, request, now):
        seen = [one for one in self.log if not one.cause and one.at > now - 60.0]
        if sum(one.request.input_tokens for one in seen) + request.input_tokens <= 120_000:
            return super().arrive(request, now)
        self.log.append(SeenRequest(now, request, RATE))
        stated = StatedLimit("input_tokens", 120_000.0)
        told = Feedback(RATE, 1.0, self.rate_limits(now), stated.kind, status=429, stated=stated)
        return now, lambda _: told


@pytest.mark.parametrize(
    ("server", "most_429s"),
    [(SimulatedServer, 8), (SlidingWindow, 24)],
    ids=["accrues smoothly", "counts the last minute"],
)
@pytest.mark.parametrize("tokens", [4_000, 10_000, 30_000])
def test_a_limit_that_no_header_shows_is_learned_from_its_refusals(
    monkeypatch, simulate, server, most_429s, tokens
):
    """Requests and output are shown, input is not: all are answered, few are refused."""
    monkeypatch.setattr(scenes, "SimulatedServer", server)
    chance = random.Random(tokens)
    requests = [
        SimulatedRequest(input_tokens=tokens * chance.uniform(0.9, 1.1), guess=tokens, latency=0.3)
        for _ in range(60)
    ]
    itpm = 120_000 if server is SimulatedServer else None  # the other one counts by itself
    limits = SimulatedLimits(rpm=1000, itpm=itpm, otpm=80_000)
    ran = simulate(limits, requests, hidden=("input_tokens",))
    assert scenes.unanswered(ran) == []
    assert scenes.refusals(ran) <= most_429s
    learned = ran.pacer.learned["input_tokens"]
    assert (learned.limit, learned.source) == (120_000, "words of a refusal")


@pytest.mark.parametrize("kind", ["requests", "output"])
def test_requests_and_output_are_learned_from_words_as_well(fake, throttle, kind):
    """And shown with their source."""
    words = WORDS["fifty" if kind == "requests" else "output"][0]
    server = fake()
    server.script(Reply(429, {"retry-after-ms": "1"}, message=sentence(words)), Ok())
    throttler = nothing_told(throttle, server)
    throttler.call(**ask(max_tokens=5))
    row = known(throttler)["requests" if kind == "requests" else "output_tokens"]
    assert (row.learned, row.source) == (50 if kind == "requests" else 8_000, "words of a refusal")


@pytest.mark.parametrize(("name", "per"), [("tokens", 60.0), ("a day", 86_400.0)])
def test_a_quota_of_all_tokens_or_of_a_day_is_learned_from_words(fake, throttle, name, per):
    """It gets a row of its own."""
    words, kind, limit = WORDS[name]
    server = fake()
    server.script(Reply(429, {"retry-after-ms": "1"}, message=sentence(words)), Ok())
    throttler = nothing_told(throttle, server)
    throttler.call(**ask(max_tokens=5))
    rows = {(q.kind, q.per): q for q in throttler.limits()[LANE].quotas}
    assert (rows[kind, per].learned, rows[kind, per].source) == (limit, "words of a refusal")


def test_the_api_s_own_headers_outweigh_the_words(fake, throttle):
    """A refusal whose headers tell of that kind is read there."""
    server = fake(rpm=1000, itpm=120_000)
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    message = sentence("your organization's rate limit of 30 input tokens per minute")
    server.script(Reply(429, {"retry-after-ms": "1"}, message=message), Ok())
    throttler.call(**ask(max_tokens=5))
    row = known(throttler)["input_tokens"]
    assert (row.learned, row.source) == (120_000, "headers")


NAMED = Feedback(RATE, 1.0, stated=StatedLimit("input_tokens", 60_000.0))


def refuse(lane, now, tokens=1_000.0, feedback=NAMED):
    """One call meets a limit in words; what it booked is given back."""
    cost = Cost(1.0, tokens, 0.0)
    dispatch = lane.take(cost, now)
    lane.refused(feedback, dispatch, cost, 1.0, 0, now)
    lane.settle(cost, Cost(1.0, 0.0, 0.0), now)


def test_a_limit_from_words_is_tried_again_an_hour_after_its_last_refusal():
    """It may have been raised, and no header would tell."""
    lane = Pacer({}, AUTO, jitter=lambda seconds: 0.0)
    refuse(lane, 0.0)
    lane.take(Cost(1.0, 500_000.0, 0.0), 2.0)
    assert lane.decide(Cost(1.0, 1_000.0, 0.0), 60.0).ready_at > 500.0
    lane.take(Cost(1.0, 5_000_000.0, 0.0), 3_500.0)
    assert lane.decide(Cost(1.0, 1_000.0, 0.0), 3_599.0).ready_at > 8_000.0
    assert lane.decide(Cost(1.0, 1_000.0, 0.0), 3_601.0).ready_at <= 3_601.0
    refuse(lane, 3_602.0)
    assert lane.decide(Cost(1.0, 1_000.0, 0.0), 3_602.5).ready_at == pytest.approx(3_603.0)


@pytest.mark.parametrize("waves", [1, 2, 3, 4])
def test_each_refusal_without_an_answer_in_between_is_waited_for_longer(waves):
    """The bucket may fill at the end of a minute; never longer than it and the call take."""
    lane = Pacer({}, AUTO, jitter=lambda seconds: 0.0)
    now = waited = 0.0
    for _ in range(waves):
        refuse(lane, now)
        at = lane.decide(Cost(1.0, 1_000.0, 0.0), now).ready_at
        assert at - now > waited
        now, waited = at, at - now
    assert waited == pytest.approx([1.0, 16.0, 31.0, 61.0][waves - 1], abs=0.1)


def test_what_a_wave_of_refusals_gives_back_is_not_in_the_bucket():
    """Ten that left together were refused together: one may try again, not ten."""
    lane = Pacer({}, AUTO, jitter=lambda seconds: 0.0)
    cost = Cost(1.0, 1_000.0, 0.0)
    sent = [lane.take(cost, 0.0) for _ in range(10)]
    for dispatch in sent:
        lane.refused(NAMED, dispatch, cost, 1.0, 0, 0.1)
        lane.settle(cost, Cost(1.0, 0.0, 0.0), 0.0)
    left = 0
    while lane.decide(cost, 2.15).ready_at <= 2.15:
        lane.take(cost, 2.15)
        left += 1
    assert left == 1


def test_a_hopeless_call_keeps_nobody_waiting_for_a_full_bucket():
    """It leaves at once, and finds out; one that may pass waits for what it takes."""
    lane = Pacer({}, AUTO, jitter=lambda seconds: 0.0)
    shown = {"input_tokens": RateLimit(30_000.0, 30_000.0)}
    dispatch = lane.take(Cost(1.0, 10.0, 0.0), 0.0)
    lane.answered(Feedback(rate_limits=shown), dispatch, NO_COST, 0.1)
    lane.take(Cost(1.0, 29_000.0, 0.0), 0.2)
    assert lane.decide(Cost(1.0, 56_000.0, 0.0), 0.2).ready_at <= 0.2
    assert lane.decide(Cost(1.0, 20_000.0, 0.0), 0.2).ready_at > 0.2


# -- one call that can never pass ------------------------------------------------------------------

#: Seconds that nobody waits in these tests.
LONG_WAIT = 300


def too_large(words="organization's rate limit of 30,000 input tokens per minute", **headers):
    given = {"retry-after": str(LONG_WAIT), "x-should-retry": "true", **headers}
    return Reply(429, given, message=sentence(f"your {words}"))


def text_of(tokens):
    return "word" * tokens


def refused(future, *numbers):
    """Its error: a rate limit that names its size and the limit, and pickles."""
    error = future.exception(20)
    assert isinstance(error, anthropic.RateLimitError)
    for number in numbers:
        assert number in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "wordword" not in str(error)
    return error


LARGE = {
    "input": ({}, text_of(56_000), {}, "30,000", "input tokens"),
    "all tokens": (
        {"words": "organization's rate limit of 40,000 tokens per minute"},
        *(text_of(56_000), {}, "40,000", "tokens"),
    ),
    "a day's": (
        {"words": "organization's rate limit of 30,000 input tokens per day"},
        *(text_of(56_000), {}, "30,000 a day", "input tokens"),
    ),
    "max_tokens": (
        {
            "words": "organization's rate limit of 8,000 output tokens per minute",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
        },
        *("hello", {"max_tokens": 20_000}, "20,000 output tokens", "8,000"),
    ),
    "only headers": (
        {
            "words": "account's rate limit",
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "30000",
        },
        *(text_of(56_000), {}, "30,000", "input tokens"),
    ),
}


@pytest.mark.parametrize(("refusal", "text", "more", "limit", "size"), LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_call_larger_than_a_limit_fails_at_once_and_nobody_else_waits(
    fake, throttle, streamed, refusal, text, more, limit, size
):
    """Its error names both numbers; ten small calls behind it are answered."""
    server = fake()
    throttler = nothing_told(throttle, server)
    throttler.call(**ask())
    server.script(too_large(**refusal))
    if streamed:
        with pytest.raises(anthropic.RateLimitError) as caught:
            throttler.stream(**{**ask(text), **more}).__enter__()
        assert limit in str(caught.value)
        assert size in str(caught.value)
    else:
        refused(throttler.submit(**{**ask(text), **more}), limit, size)
    small = [throttler.submit(**ask(str(n))) for n in range(10)]
    assert answered(small) == [str(n) for n in range(10)]
    assert [a.status for a in server.arrivals].count(429) == 1
    assert throttler.limits()[LANE].paused_seconds == 0


def test_a_call_the_api_counted_is_too_large_by_a_single_token(fake, throttle):
    """No estimate, so no doubt."""
    server = fake(itpm=30_000)
    throttler = nothing_told(throttle, server, count_tokens="api")
    throttler.call(**ask())
    refused(throttler.submit(**ask(text_of(30_100))), "30,100", "30,000")


def test_a_call_a_little_larger_by_our_estimate_is_tried_once_more(fake, throttle):
    """Estimates err: it waits alone, and may pass."""
    server = fake()
    throttler = nothing_told(throttle, server)
    text = "x" * int(3.6 * 33_000)
    server.script(too_large(**{"retry-after": "0"}, **{"retry-after-ms": "1"}), Ok())
    assert echo(throttler.call(**ask(text)))
    server.script(*[too_large(**{"retry-after": "0"}, **{"retry-after-ms": "1"})] * 2)
    error = refused(throttler.submit(**ask(text)), "30,000")
    assert "not sent again" in str(error)


def test_a_call_smaller_than_the_limit_is_never_taken_for_too_large(fake, throttle, manual):
    """It waits with its lane, as ever."""
    server = fake(clock=manual)
    throttler = nothing_told(throttle, server, clock=manual)
    server.script(too_large(), Ok())
    future = throttler.submit(**ask(text_of(9_000)))
    wait_until(lambda: throttler.limits()[LANE].paused_seconds >= LONG_WAIT)
    move_until_done(manual, [future], LONG_WAIT)
    assert future.result()


def test_a_prompt_with_a_cache_mark_is_not_judged_by_its_size(fake, throttle, manual):
    """What comes from the cache counts nothing: it waits with its lane."""
    server = fake(clock=manual)
    throttler = nothing_told(throttle, server, clock=manual)
    server.script(too_large(), Ok())
    future = throttler.submit(**ask(text_of(56_000), cache_control={"type": "ephemeral"}))
    wait_until(lambda: throttler.limits()[LANE].paused_seconds >= LONG_WAIT)
    move_until_done(manual, [future], LONG_WAIT)
    assert future.result()


def test_a_call_with_large_max_tokens_waits_where_others_used_up_the_output(fake, throttle):
    """The API counts output as it comes: a large max_tokens alone never fails a call."""
    server = fake()
    throttler = nothing_told(throttle, server, max_retries=3)
    told = own("output-tokens", 8_000, 0)
    words = "organization's rate limit of 8,000 output tokens per minute"
    reply = too_large(words, **told, **{"retry-after": "0", "retry-after-ms": "1"})
    server.script(reply, reply, reply, Ok())
    assert throttler.call(**ask(max_tokens=20_000))


def test_a_refusal_for_size_passes_through_the_adapter_and_pauses_nobody(fake, throttle):
    """Whoever sent it decides; the lane goes on."""
    server = fake()
    throttler = nothing_told(throttle, server)
    with requests.Session() as session:
        session.mount(server.url, throttler.adapter())
        server.script(too_large())
        body = {k: v for k, v in ask(text_of(56_000)).items() if k != "raw"}
        answer = session.post(f"{server.url}/v1/messages", json=body, headers={"x-api-key": KEY})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, str(LONG_WAIT))
    assert throttler.limits()[LANE].paused_seconds == 0
    assert echo(throttler.call(**ask("next"))) == "next"


def test_a_permit_larger_than_a_limit_pauses_nobody(fake, throttle):
    """A permit knows its tokens exactly enough."""
    throttler = nothing_told(throttle, fake())
    body = envelope(sentence("your organization's rate limit of 30,000 input tokens per minute"))
    with throttler.permit(model=MODEL, input_tokens=56_000, max_tokens=9) as permit:
        permit.settle(headers={"retry-after": "300"}, status=429, body=body.encode())
    assert throttler.limits()[LANE].paused_seconds == 0
    assert pacer_of(throttler).learned["input_tokens"].limit == 0


@pytest.mark.parametrize("shown", [RateLimit(50, 49), RelayedLimit(50, 49)])
def test_a_limit_is_a_pair_of_numbers_and_knows_its_source(shown):
    """Whoever showed it."""
    assert shown == (50, 49)
    assert shown.source.endswith("headers")
    assert math.isfinite(pickle.loads(pickle.dumps(shown)).limit)

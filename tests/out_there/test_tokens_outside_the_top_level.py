"""``usage.iterations``: tokens of compactions, fallbacks and advisors, booked where they belong."""

from __future__ import annotations

import anthropic
import pytest
import requests
from anthropic.types import Usage

from claude_throttle import IterationBooked, Quota, Throttler
from claude_throttle.testing import ManualClock, Ok
from tests.support.calls import HELLO, KEY, ask
from tests.support.inside import model_group_of
from tests.support.needs import needs

ASKED, OWN = "claude-fable-5", "fable-5"
OTHER, THEIRS = "claude-opus-4-8", "opus-4"

#: Tokens of each kind that may leave at once: what was taken is what is missing.
FULL = 10_000_000


def entry(kind, tokens, model=None, **more):
    """One iteration; *tokens*: input and output."""
    named = {} if model is None else {"model": model}
    counts = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, **more}
    return {"type": kind, "input_tokens": tokens[0], "output_tokens": tokens[1], **named, **counts}


def usage(tokens, *iterations, **more):
    return {
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "iterations": list(iterations),
        **more,
    }


COMPACTION = entry("compaction", (180_000, 3_500))

#: What the lanes of the asked model and of the other one took, for what the API says.
BOOKED = {
    "a compaction comes on top": (
        usage((23_000, 1_000), COMPACTION, entry("message", (23_000, 1_000))),
        (203_000, 4_500),
        (0, 0),
    ),
    "several compactions all count": (
        usage((10, 1), COMPACTION, COMPACTION, entry("message", (10, 1), ASKED)),
        (360_010, 7_001),
        (0, 0),
    ),
    "a compaction alone counts": (usage((0, 0), COMPACTION), (180_000, 3_500), (0, 0)),
    "a compaction that only read the cache": (
        usage((10, 1), entry("compaction", (5, 2), cache_read_input_tokens=180_000)),
        (15, 3),
        (0, 0),
    ),
    "a compaction that wrote the cache": (
        usage((10, 1), entry("compaction", (5, 2), cache_creation_input_tokens=7_000)),
        (7_015, 3),
        (0, 0),
    ),
    "messages of the asked model are the top level": (
        usage((30, 3), entry("message", (10, 1)), entry("message", (20, 2), ASKED)),
        (30, 3),
        (0, 0),
    ),
    "messages under the model's dated name are the top level": (
        usage((30, 3), entry("message", (30, 3), ASKED + "-20260901")),
        (30, 3),
        (0, 0),
    ),
    "one message under a name nobody knows is the asked model's": (
        usage((30, 3), entry("message", (30, 3), "claude-fable-internal")),
        (30, 3),
        (0, 0),
    ),
    "no iterations": (usage((30, 3)), (30, 3), (0, 0)),
    "null": (usage((30, 3), iterations=None), (30, 3), (0, 0)),
    "a fallback is the other's, and what declined the asked model's": (
        usage(
            (500, 20),
            entry("message", (480, 5), ASKED),
            entry("fallback_message", (500, 20), OTHER),
        ),
        (480, 5),
        (500, 20),
    ),
    "the top level may be the sum of all hops": (
        usage(
            (980, 25),
            entry("message", (480, 5), ASKED),
            entry("fallback_message", (500, 20), OTHER),
        ),
        (480, 5),
        (500, 20),
    ),
    "what no hop explains is the asked model's": (
        usage(
            (1_980, 25),
            entry("message", (480, 5), ASKED),
            entry("fallback_message", (500, 20), OTHER),
        ),
        (1_480, 5),
        (500, 20),
    ),
    "a fallback from the start takes nothing of the asked model": (
        usage((500, 20), entry("fallback_message", (500, 20), OTHER)),
        (0, 0),
        (500, 20),
    ),
    "a fallback's tool loop is the fallback's": (
        usage(
            (900, 30),
            entry("message", (400, 10), OTHER),
            entry("fallback_message", (500, 20), OTHER),
        ),
        (0, 0),
        (900, 30),
    ),
    "a fallback outside the top level": (
        usage((1_000, 10), entry("fallback", (5_000, 50), OTHER)),
        (1_000, 10),
        (5_000, 50),
    ),
    "a fallback of the same lane is in the top level": (
        usage((500, 20), entry("fallback_message", (500, 20), "claude-fable-5-1")),
        (500, 20),
        (0, 0),
    ),
    "an advisor is on its own lane": (
        usage((30, 3), entry("message", (30, 3)), entry("advisor_message", (700, 90), OTHER)),
        (30, 3),
        (700, 90),
    ),
    "an advisor of the asked model comes on top": (
        usage((30, 3), entry("advisor_message", (700, 90), ASKED)),
        (730, 93),
        (0, 0),
    ),
    "an advisor without a model comes on top": (
        usage((30, 3), entry("advisor_message", (700, 90))),
        (730, 93),
        (0, 0),
    ),
    "compaction, fallback and advisor at once": (
        usage(
            (500, 20),
            COMPACTION,
            entry("message", (480, 5), ASKED),
            entry("fallback_message", (500, 20), OTHER),
            entry("advisor_message", (700, 90), OTHER),
        ),
        (180_480, 3_505),
        (1_200, 110),
    ),
    "an unknown type of the asked model is in the top level": (
        usage((30, 3), entry("message", (30, 3)), entry("review", (9, 9))),
        (30, 3),
        (0, 0),
    ),
    "an unknown type of another model is that model's": (
        usage((30, 3), entry("message", (30, 3), ASKED), entry("review", (9, 9), OTHER)),
        (30, 3),
        (9, 9),
    ),
    "an entry without a type of another model is that model's": (
        usage((30, 3), entry("message", (30, 3), ASKED), {"model": OTHER, "input_tokens": 9}),
        (30, 3),
        (9, 0),
    ),
    "what is no entry is skipped": (
        usage((30, 3), None, 7, "compaction", [], {}, COMPACTION),
        (180_030, 3_503),
        (0, 0),
    ),
    "odd numbers count as nothing": (
        usage(
            (30, 3),
            entry("compaction", (None, None)),
            entry("compaction", ("180000", -5)),
            entry("compaction", (10**30, "")),
            entry("compaction", (float("inf"), float("nan"))),
            entry("compaction", (10**9, 4)),
            {"type": "compaction", "output_tokens": 2},
        ),
        (30, 9),
        (0, 0),
    ),
    "whole numbers in another form count": (
        usage((30.0, 3), entry("compaction", (1e5, True))),
        (100_030, 4),
        (0, 0),
    ),
    "odd names are the asked model's": (
        usage(
            (30, 3),
            entry("compaction", (9, 9), 7),
            entry("advisor_message", (9, 9), ""),
            entry("advisor_message", (9, 9), "claude\x1b[31m"),
            entry("advisor_message", (9, 9), "x" * 10_000),
        ),
        (66, 39),
        (0, 0),
    ),
    "not a list": (usage((30, 3), iterations={"type": "compaction"}), (30, 3), (0, 0)),
}


@pytest.fixture
def told(throttle, manual):
    """A throttler that nothing waits for, and whose books can be read."""

    def make(server, **more):
        quota = Quota(FULL, burst=FULL)
        return throttle(server, rpm=None, itpm=quota, otpm=quota, clock=manual, **more)

    return make


def taken(throttler, lane):
    """Input and output tokens that are booked in a lane."""
    state = throttler.limits().get(lane)
    if state is None:
        return 0, 0
    missing = {quota.kind: round(FULL - quota.remaining) for quota in state.quotas}
    return missing["input_tokens"], missing["output_tokens"]


@pytest.fixture(scope="module")
def alone():
    """One throttler for all rows; each asks what was booked since the row before."""
    quota = Quota(FULL, burst=FULL)
    with Throttler(api_key=KEY, itpm=quota, otpm=quota, clock=ManualClock()) as throttler:
        yield throttler


@pytest.mark.parametrize("rule", BOOKED)
def test_each_token_is_booked_once_and_where_it_belongs(rule, alone):
    """In the lanes, and in the totals."""
    said, own, theirs = BOOKED[rule]
    before = taken(alone, OWN), taken(alone, THEIRS), alone.stats()
    with alone.permit(model=ASKED, input_tokens=9, max_tokens=9) as permit:
        permit.settle(usage=said)
    after = taken(alone, OWN), taken(alone, THEIRS), alone.stats()
    assert tuple(n - m for n, m in zip(after[0], before[0])) == own
    assert tuple(n - m for n, m in zip(after[1], before[1])) == theirs
    written = after[2].output_tokens - before[2].output_tokens
    assert written == own[1] + theirs[1]


SAID = usage(
    (500, 20),
    COMPACTION,
    entry("message", (480, 5), ASKED),
    entry("fallback_message", (500, 20), OTHER),
)
OF_ASKED, OF_OTHER = (180_480, 3_505), (500, 20)


def by_call(throttler, server):
    message = throttler.call(**ask(model=ASKED))
    assert len(message["usage"]["iterations"]) == 3


def by_typed_call(throttler, server):
    message = throttler.call(**{**HELLO, "model": ASKED})
    assert len(message.usage.iterations) == 3


def by_stream(throttler, server):
    with throttler.stream(**{**HELLO, "model": ASKED}) as stream:
        stream.until_done()


def client_of(throttler, server):
    return anthropic.Anthropic(
        api_key=KEY, base_url=server.url, middleware=[throttler.middleware()]
    )


@needs("middleware")
def by_middleware(throttler, server):
    with client_of(throttler, server) as client:
        client.messages.create(**{**HELLO, "model": ASKED})


@needs("middleware")
def by_beta_middleware(throttler, server):
    with client_of(throttler, server) as client:
        client.beta.messages.create(**{**HELLO, "model": ASKED})


@needs("middleware")
def by_streaming_middleware(throttler, server):
    with client_of(throttler, server) as client:
        with client.beta.messages.stream(**{**HELLO, "model": ASKED}) as stream:
            stream.until_done()


def by_adapter(throttler, server, **more):
    with requests.Session() as session:
        session.mount(server.url, throttler.adapter())
        body = {**HELLO, "model": ASKED, **more}
        with session.post(server.url + "/v1/messages", json=body, stream=bool(more)) as answer:
            assert answer.content


def by_streaming_adapter(throttler, server):
    by_adapter(throttler, server, stream=True)


def by_typed_permit(throttler, server):
    with throttler.permit(model=ASKED, max_tokens=9) as permit:
        permit.settle(usage=Usage.construct(**SAID))


WAYS = (
    *(by_call, by_typed_call, by_stream, by_middleware, by_beta_middleware),
    *(by_streaming_middleware, by_adapter, by_streaming_adapter, by_typed_permit),
)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_booked_taught_and_shown_by_whichever_way_it_came(way, fake, told, manual):
    """Ours, the SDK's, a session's; whole and streamed."""
    server, events = fake(clock=manual), []
    server.script(Ok(usage=SAID))
    throttler = told(server, on_event=events.append)
    way(throttler, server)
    assert taken(throttler, OWN) == OF_ASKED
    assert taken(throttler, THEIRS) == OF_OTHER
    stats = throttler.stats()
    assert (stats.input_tokens, stats.output_tokens) == (180_980, 3_525)
    assert [event.model for event in events if isinstance(event, IterationBooked)] == [OTHER]


@pytest.mark.parametrize("way", [by_stream, by_middleware, by_adapter])
def test_the_next_call_is_estimated_with_its_compaction(way, fake, told, manual):
    """It took 180,000 more than its message: the next of its kind may, too."""
    server = fake(clock=manual)
    server.script(Ok(usage=usage((1_000, 20), COMPACTION)))
    throttler = told(server)
    way(throttler, server)
    assert model_group_of(throttler, ASKED).estimator.cost(ASKED, 10, 100).input_tokens > 100_000


def test_a_deployments_own_name_keeps_what_its_model_took(alone):
    """The answer names the model behind it, which is the one asked; a fallback is another."""
    said = usage(
        (500, 20),
        COMPACTION,
        entry("message", (400, 15), "claude-sonnet-4-5"),
        entry("message", (100, 5), "claude-sonnet-4-5"),
        entry("fallback_message", (7, 7), OTHER),
    )
    theirs = taken(alone, THEIRS)
    with alone.permit(model="my-deployment", max_tokens=9) as permit:
        permit.settle(usage=said)
    assert taken(alone, "my-deployment") == (180_500, 3_520)
    assert taken(alone, THEIRS) == (theirs[0] + 7, theirs[1] + 7)
    assert "sonnet-4" not in alone.limits()


def test_a_profiles_fallback_is_booked_in_its_region(alone):
    """The answer names the plain model; its quota is that of the profile's region."""
    said = usage((5, 2), entry("message", (5, 2), ASKED), entry("fallback_message", (7, 3), OTHER))
    with alone.permit(model=f"eu.anthropic.{ASKED}-v1:0", max_tokens=9) as permit:
        permit.settle(usage=said)
    assert (taken(alone, f"eu.{OWN}"), taken(alone, f"eu.{THEIRS}")) == ((5, 2), (7, 3))


def test_names_in_answers_make_no_lanes_without_end(alone):
    """Whoever answers chooses them."""
    for start in range(0, 2_000, 500):
        said = [entry("advisor_message", (1, 1), f"m-{n}") for n in range(start, start + 500)]
        with alone.permit(model=ASKED, max_tokens=9) as permit:
            permit.settle(usage=usage((1, 1), *said))
    assert len(alone.limits()) < 300


def test_an_answer_after_the_end_is_booked_without_an_error(manual):
    """Closed meanwhile: no lane can be made for the other model, and nobody asks for it."""
    throttler = Throttler(api_key=KEY, rpm=60_000, clock=manual)
    permit = throttler.permit(model=ASKED, max_tokens=9)
    throttler.close(timeout=0)
    permit.settle(usage=SAID)
    permit.close()
    assert THEIRS not in throttler.limits()

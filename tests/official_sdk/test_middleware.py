"""``Anthropic(middleware=[throttler.middleware()])``: whole answers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import anthropic
import pydantic
import pytest

from claude_throttle import (
    SYSTEM_CLOCK,
    AccountSuspended,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    InvalidCall,
    QuotaTooSmall,
    Throttler,
)
from claude_throttle.core.pacing.circuit_breaker import FAILURES_IN_A_ROW
from claude_throttle.testing import KEY_REFUSED, Ok, Reply, Reset, worst_excess
from claude_throttle.transport import sdk
from tests.support.calls import FIVE_SECONDS_AT_ONCE, HELLO, MODEL, ask
from tests.support.inside import (
    answers_awaited,
    endpoint_lane_of,
    engine_of,
    lane_of,
    model_group_of,
    note_departures,
    pacer_of,
    slots_in_use,
)
from tests.support.waiting import wait_until

NEEDS = ["middleware"]

RATE_429 = Reply(429, {"retry-after": "1"}, message="rate limit of 50 requests per minute")


def test_an_answer_comes_as_without_it_and_gives_its_place_back(fake, throttle, client):
    """The SDK's own type, and a permit while it was out."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    for _ in range(3):
        message = made.messages.create(**HELLO)
        assert isinstance(message, anthropic.types.Message)
        assert message.content[0].text == "echo: hello"
        assert slots_in_use(throttler) == 0
    assert made.beta.messages.create(**HELLO).content[0].text == "echo: hello"
    raw = made.messages.with_raw_response.create(**HELLO)
    assert raw.parse().content[0].text == "echo: hello"
    assert slots_in_use(throttler) == 0


def test_its_calls_and_ours_share_one_pace(fake, throttle, client):
    """1,200 a minute from both sides, never faster, and no 429."""
    server = fake(rpm=1200, burst=20)
    throttler = throttle(server, rpm=1200)
    departures = note_departures(throttler)
    made = client(server, throttler)
    with ThreadPoolExecutor(8) as pool:
        theirs = [pool.submit(made.messages.create, **HELLO) for _ in range(10)]
        ours = [throttler.submit(**ask()) for _ in range(10)]
        assert [future.result(30).content[0].text for future in theirs] == ["echo: hello"] * 10
        assert len([future.result(30) for future in ours]) == 10
    assert [arrival.status for arrival in server.arrivals] == [200] * 20
    assert worst_excess(departures, [1.0] * 20, 1200 / 60, 1.0) <= 0


def test_the_answer_settles_what_was_booked(fake, throttle, client, manual):
    """max_tokens of a whole minute's quota, of which 20 were used."""
    server = fake(clock=manual)
    server.script(Ok(usage={"input_tokens": 10, "output_tokens": 20}))
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    client(server, throttler).messages.create(**{**HELLO, "max_tokens": 1000})
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


USED = {"input_tokens": 10, "output_tokens": 20}


def raw(made, **more):
    return made.messages.with_raw_response.create(**more)


def as_dict(made, **more):
    return made.post("/v1/messages", cast_to=object, body=more)


@pytest.mark.parametrize("call", [raw, as_dict])
def test_it_settles_whatever_its_caller_makes_of_the_answer(call, fake, throttle, client, manual):
    """A wrapper, a dict."""
    server = fake(clock=manual)
    server.script(*[Ok(usage=USED)] * 2)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    call(client(server, throttler), **{**HELLO, "max_tokens": 1000})
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_an_answer_its_caller_cannot_read_is_settled_all_the_same(fake, throttle, client, manual):
    """Structured output that is none: the SDK raises, and the tokens are paid for."""

    class Weather(pydantic.BaseModel):
        degrees: int

    server = fake(clock=manual)
    server.script(Ok(text="no JSON", usage=USED))
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    made = client(server, throttler)
    with pytest.raises(pydantic.ValidationError):
        made.messages.parse(**{**HELLO, "max_tokens": 1000}, output_format=Weather)
    assert len(server.arrivals) == 1
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_an_answer_that_is_none_keeps_what_was_booked(fake, throttle, client, manual):
    """JSON by its type and not by its body; strange usage: who knows what it took."""
    server = fake(clock=manual)
    json = {"content-type": "application/json"}
    strange = b'{"type": "message", "content": [], "usage": {"input_tokens": "many"}}'
    server.script(Reply(200, json, body=b"{"), Reply(200, json, body=strange))
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    made = client(server, throttler)
    with pytest.raises(ValueError, match="Expecting"):
        made.messages.create(**{**HELLO, "max_tokens": 1000})
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) > 10
    manual.advance(600)
    assert made.messages.create(**HELLO).usage.input_tokens == "many"
    assert slots_in_use(throttler) == 0
    assert throttler.stats().input_tokens == 0


def test_what_answers_really_take_is_learned(fake, throttle, client):
    """The estimates of all calls to the model profit."""
    server = fake(output_tokens=7)
    throttler = throttle(server)
    made = client(server, throttler)
    for _ in range(30):
        made.messages.create(**{**HELLO, "max_tokens": 5000})
    model_group = model_group_of(throttler)
    assert model_group.estimator.cost(MODEL, 10.0, 5000).output_tokens < 100


def test_limits_are_learned_from_its_answers(fake, client, throttle):
    """Told nothing, from the headers."""
    server = fake(rpm=600, itpm=70_000)
    throttler = throttle(server, rpm=None)
    client(server, throttler).messages.create(**HELLO)
    learned = pacer_of(throttler).learned
    assert (learned["requests"].limit, learned["input_tokens"].limit) == (600, 70_000)


def test_its_requests_are_in_the_stats(fake, throttle, client):
    """Each attempt by itself: of the SDK's retries nothing is known."""
    server = fake(output_tokens=5)
    throttler = throttle(server)
    server.script(Reply(429, {"retry-after-ms": "1"}, "rate_limit_error"), Ok())
    made = client(server, throttler)
    made.messages.create(**HELLO)
    with made.messages.stream(**HELLO) as stream:
        stream.get_final_message()
    stats = throttler.stats()
    assert (stats.sent, stats.permits) == (3, 3)
    assert (stats.permits_answered, stats.permits_refused) == (2, 1)
    assert (stats.rate_limited, stats.output_tokens) == (1, 10)


@pytest.mark.parametrize("status", [429, 503])
def test_the_sdk_does_not_take_an_instant_for_a_number_of_seconds(fake, throttle, client, status):
    """It would sleep for weeks."""
    server = fake()
    throttler = throttle(server)
    soon = f"{(SYSTEM_CLOCK.wall() + 0.5) * 1000:.0f}"
    server.script(Reply(status, {"retry-after": soon}, "api_error"))
    assert client(server, throttler).messages.create(**HELLO).content[0].text == "echo: hello"
    assert [arrival.status for arrival in server.arrivals] == [status, 200]


def test_the_sdk_sleeps_until_the_first_probe_of_a_long_pause(fake, throttle, client):
    """And not for as long as was named."""
    server = fake()
    server.script(Reply(429, {"retry-after": "999999"}, "rate_limit_error"))
    made = client(server, throttle(server)).with_options(max_retries=0)
    with pytest.raises(anthropic.RateLimitError) as caught:
        made.messages.create(**HELLO)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("999999", "60000")


def test_a_429_pauses_the_lane_and_the_sdk_tries_again(fake, throttle, client):
    """Its own sleep and our pause end together; nothing is sent meanwhile."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    server.script(RATE_429)
    paused = []

    def look(request, call_next):
        response = call_next(request)
        paused.append(throttler.limits()["sonnet-5"].paused_seconds)
        return response

    made = made.with_options(middleware=[look, *made.middleware])
    assert made.messages.create(**HELLO).content[0].text == "echo: hello"
    refused, answered = server.arrivals
    assert (refused.status, answered.status) == (429, 200)
    assert 0.5 < paused[0] < 2.0
    assert 1.0 <= answered.at - refused.at < 2.5
    assert slots_in_use(throttler) == 0


def test_others_wait_out_the_pause(fake, throttle, client):
    """A call of ours that comes after the SDK's refusal."""
    server = fake()
    throttler = throttle(server)
    server.script(RATE_429)
    with pytest.raises(anthropic.RateLimitError):
        client(server, throttler, max_retries=0).messages.create(**HELLO)
    assert throttler.estimate_wait(**ask()) > 0.5
    throttler.submit(**ask()).result(30)
    assert server.arrivals[1].at - server.arrivals[0].at >= 1.0


def test_failures_in_a_row_open_the_circuit(fake, throttle, client):
    """And an answer closes it."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler, max_retries=0)
    server.outage(Reply(529))
    for _ in range(FAILURES_IN_A_ROW):
        with pytest.raises(anthropic.APIStatusError):
            made.messages.create(**HELLO)
    assert throttler.limits()["sonnet-5"].circuit != "closed"
    server.outage(None)
    made.messages.create(**HELLO)
    assert throttler.limits()["sonnet-5"].circuit == "closed"


def test_a_refusal_takes_no_tokens(fake, throttle, client, manual):
    """429 and 529 come back at once."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    server.script(Reply(529))
    with pytest.raises(anthropic.APIStatusError):
        client(server, throttler, max_retries=0).messages.create(**{**HELLO, "max_tokens": 900})
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_a_lost_connection_gives_the_place_back(fake, throttle, client):
    """The SDK sends it again, each time with a permit of its own."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(Reset(), Reset())
    assert client(server, throttler).messages.create(**HELLO).content[0].text == "echo: hello"
    assert slots_in_use(throttler) == 0


class Nowhere:
    """Where nobody listens."""

    url = "http://127.0.0.1:1"


def test_nobody_there_takes_nothing(fake, throttle, client, manual):
    """No connection: the SDK's own error, and what was booked comes back."""
    throttler = throttle(fake(clock=manual), rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    made = client(Nowhere, throttler, max_retries=0)
    with pytest.raises(anthropic.APIConnectionError):
        made.messages.create(**{**HELLO, "max_tokens": 900})
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


def test_counts_have_a_pace_of_their_own(fake, throttle, client):
    """A paused messages lane does not hold them up, and they take nothing from it."""
    server = fake()
    throttler = throttle(server, rpm=1)
    throttler.submit(**ask()).result(10)
    counted = client(server, throttler).messages.count_tokens(
        model=MODEL, messages=HELLO["messages"]
    )
    assert counted.input_tokens > 0
    assert endpoint_lane_of(throttler, "count_tokens").pacer._number == 1


def test_batches_have_a_pace_of_their_own(fake, throttle, client):
    """Made, looked at and read: each a request of their own quota, and none of the models'."""
    server = fake(output_tokens=5)
    server.batches.seconds = 0.0
    throttler = throttle(server, rpm=1)
    throttler.submit(**ask()).result(10)
    batches = client(server, throttler).messages.batches
    made = batches.create(requests=[{"custom_id": "one", "params": HELLO}])
    assert batches.retrieve(made.id).processing_status == "ended"
    (found,) = batches.results(made.id)
    assert found.result.message.content[0].text == "echo: hello"
    lane = endpoint_lane_of(throttler, "batches")
    # The SDK looks at the batch once more, for the address of the results.
    assert lane.pacer._number == len(server.batches.arrivals) == 4
    assert not lane.out
    assert [state.lane for state in throttler.limits().values()] == ["sonnet-5"]


def test_everything_else_passes(fake, throttle, client):
    """Whatever the path, whatever the method: no permit, no lane."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    with pytest.raises(anthropic.NotFoundError):
        made.models.list()
    with pytest.raises(anthropic.NotFoundError):
        made.post("/v1/something", body={"model": MODEL}, cast_to=object)
    assert engine_of(throttler).account.lanes() == []


def test_what_is_no_request_is_the_apis_to_judge(fake, throttle, client):
    """No model, or a shape nobody knows: sent as it is."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)
    for body in ({}, {"model": 7}, {"model": MODEL, "messages": 3}, {"model": MODEL}):
        with pytest.raises(anthropic.BadRequestError):
            made.post("/v1/messages", body=body, cast_to=object)
    assert slots_in_use(throttler) == 0


def test_extra_body_counts(fake, throttle, client):
    """A prompt of more than a whole quota, where the SDK merges it in last."""
    throttler = throttle(server := fake(), rpm=None, itpm=1000)
    with pytest.raises(QuotaTooSmall):
        client(server, throttler).messages.create(**HELLO, extra_body={"system": "x" * 36_000})
    assert len(server.arrivals) == 0


# -- our own errors --------------------------------------------------------------------------------


def test_our_errors_come_as_they_are_and_are_not_tried_again(fake, throttle, client):
    """With the SDK's default retries."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler, terms={"timeout": 0.05})
    got = []
    with throttler.permit(model=MODEL):
        thread = threading.Thread(target=lambda: got.append(_raised(made)))
        thread.start()
        thread.join(10)
    assert [type(error) for error in got] == [DeadlineExceeded]
    throttler.close()
    with pytest.raises(Closed):
        made.messages.create(**HELLO)
    with pytest.raises(Closed):
        made.messages.count_tokens(model=MODEL, messages=HELLO["messages"])
    assert len(server.arrivals) == 0


def _raised(made):
    with pytest.raises(Exception) as caught:
        made.messages.create(**HELLO)
    return caught.value


def test_a_refused_key_suspends_until_an_answer_comes(fake, throttle, client, manual):
    """The first gets the SDK's error, the next ours; then one is let through."""
    server = fake(clock=manual)
    throttler = throttle(server, clock=manual)
    made = client(server, throttler)
    server.script(KEY_REFUSED)
    with pytest.raises(anthropic.AuthenticationError):
        made.messages.create(**HELLO)
    with pytest.raises(AccountSuspended) as refused:
        made.messages.create(**HELLO)
    assert refused.value.reason == "key refused"
    assert len(server.arrivals) == 1
    manual.advance(61)
    assert made.messages.create(**HELLO).content[0].text == "echo: hello"
    assert throttler.submit(**ask()).result(10)


def test_a_refused_key_that_is_not_the_throttlers_suspends_nothing(fake, throttle, client):
    """Another workspace's, say: its caller sees it, the others go on."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler).with_options(api_key="sk-ant-of-somebody-else")
    server.script(KEY_REFUSED)
    with pytest.raises(anthropic.AuthenticationError):
        made.messages.create(**HELLO)
    assert made.messages.create(**HELLO)
    assert throttler.submit(**ask()).result(10)


def test_closing_the_throttler_refuses_who_waits(fake, throttle, client):
    """In the SDK's methods, too; nobody is left behind."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    got = []
    with throttler.permit(model=MODEL):
        threads = [threading.Thread(target=lambda: got.append(_raised(made))) for _ in range(3)]
        for thread in threads:
            thread.start()
        lane = lane_of(throttler)
        wait_until(lambda: len(lane.backlog.waiting_locked()) == 3)
        throttler.close(timeout=0)
        for thread in threads:
            thread.join(10)
    assert [type(error) for error in got] == [Closed] * 3


def test_options_are_checked_when_it_is_made(fake, throttle):
    """Not at the first request."""
    throttler = throttle(fake())
    with pytest.raises(InvalidCall):
        throttler.middleware(priority="high")
    with pytest.raises(ConfigurationError):
        throttler.middleware(timeout=-1)
    with pytest.raises(InvalidCall):
        throttler.adapter(tenant=7)


def test_ctrl_c_in_the_midst_gives_the_place_back(fake, throttle, client):
    """And everything else that is no Exception."""
    server = fake()
    throttler = throttle(server)
    made = client(server, throttler)

    def interrupt(_request, _call_next):
        raise KeyboardInterrupt

    made = made.with_options(middleware=[*made.middleware, interrupt])
    with pytest.raises(KeyboardInterrupt):
        made.messages.create(**HELLO)
    assert slots_in_use(throttler) == 0
    assert answers_awaited(throttler) == 0


def test_an_answer_that_another_middleware_makes_up_takes_nothing(fake, throttle, client, manual):
    """A cache behind ours: nothing was sent."""
    server = fake(clock=manual)
    throttler = throttle(server, rpm=None, otpm=FIVE_SECONDS_AT_ONCE, clock=manual)
    made = client(server, throttler)
    made = made.with_options(middleware=[*made.middleware, lambda _request, _next: "cached"])
    assert made.messages.create(**{**HELLO, "max_tokens": 1000}) == "cached"
    assert slots_in_use(throttler) == 0
    assert throttler.estimate_wait(**ask(max_tokens=900)) < 1


# -- clients it is not for -------------------------------------------------------------------------


def test_async_clients_are_told_what_to_do(fake, throttle):
    """When they are made, not at their first call."""
    middleware = throttle(fake()).middleware()
    with pytest.raises(TypeError, match="synchronous.*use anthropic.Anthropic"):
        anthropic.AsyncAnthropic(api_key="sk-ant-test", middleware=[middleware])


def test_an_sdk_without_middleware_is_named(fake, throttle, monkeypatch):
    """With the release that has it."""

    class Old:
        __version__ = "0.97.0"

    monkeypatch.setattr(sdk, "load", lambda: Old)
    with pytest.raises(ConfigurationError, match=r"anthropic 0\.97\.0 .*0\.108"):
        throttle(fake()).middleware()


def test_it_needs_no_key_of_its_own(fake, client):
    """The SDK has one."""
    server = fake()
    with Throttler(base_url=server.url, rpm=6000) as throttler:
        assert client(server, throttler).messages.create(**HELLO)
    assert "sk-ant" not in repr(throttler.middleware())


def test_a_forked_child_has_its_own_pace(fake, throttle, client):
    """The same middleware, in a child."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    made = client(server, throttler)
    made.messages.create(**HELLO)
    with throttler.permit(model=MODEL):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                fresh = anthropic.Anthropic(
                    api_key="sk", base_url=server.url, middleware=made.middleware
                )
                status = 0 if fresh.messages.create(**HELLO) else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_testing_mode_lets_no_request_of_the_sdk_through(fake, throttle, client):
    """It would be a real one; after the mode it goes."""
    server = fake()
    throttler = throttle(server)
    sdk = client(server, throttler)
    with throttler.testing_mode(), pytest.raises(ConfigurationError, match="testing mode"):
        sdk.messages.create(**HELLO)
    assert not server.arrivals
    assert sdk.messages.create(**HELLO).content[0].text == "echo: hello"

"""Limits apart from a model's own: fast mode has a lane, the others are shown, never paced on."""

from __future__ import annotations

import json

import anthropic
import pytest
import requests

from claude_throttle import IterationBooked, LanePaused
from claude_throttle.testing import Ok, Reply
from claude_throttle.transport.verdicts import classify
from tests.support.calls import KEY, ask, echo
from tests.support.needs import needs
from tests.support.waiting import wait_until

MODEL = "claude-opus-5-5"
LANE, FAST_LANE = "opus-5-5", "opus-5-5+fast"

#: No limit of theirs is met by any test here.
STANDARD = {"rpm": 60_000, "itpm": 10_000_000, "otpm": 1_000_000}


def call(text="hello", **more):
    return ask(text, model=MODEL, **more)


def fast(text="hello", **more):
    return call(text, speed="fast", **more)


def body(**more):
    return {name: value for name, value in call(**more).items() if name != "raw"}


def learned(throttler, lane):
    return {quota.kind: quota.learned for quota in throttler.limits()[lane].quotas}


def message(**usage):
    """A 200's body."""
    counts = {"input_tokens": 5, "output_tokens": 5, **usage}
    return json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "usage": counts,
        }
    ).encode()


def answer(headers, **usage):
    """A 200 with those headers."""
    return Reply(200, {"content-type": "application/json", **headers}, body=message(**usage))


# -- fast mode has a lane of its own ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "lane"),
    [
        ("claude-opus-5-5", "opus-5-5+fast"),
        ("claude-opus-5-5-20261001", "opus-5-5+fast"),
        ("claude-opus-4-8", "opus-4+fast"),
        ("claude-fable-5-2", "fable-5+fast"),
        ("claude-mythos-5-2", "mythos-5+fast"),
        ("a-model-of-tomorrow", "a-model-of-tomorrow+fast"),
    ],
)
def test_the_lane_of_fast_mode_is_named_after_the_models(fake, throttle, model, lane):
    """In limits(), in the fleet and in a shared store."""
    throttler = throttle(fake())
    throttler.call(**{**fast(), "model": model})
    assert set(throttler.limits()) == {lane}


def test_a_model_that_is_moved_to_another_lane_takes_its_fast_mode_along(fake, throttle):
    """By its entry in lanes=, or by a pattern."""
    throttler = throttle(fake(), lanes={"claude-opus-*": "mine"})
    throttler.call(**fast())
    assert set(throttler.limits()) == {"mine+fast"}


@pytest.mark.parametrize("speed", ["standard", None, "", "turbo", "FAST", True, 1, ["fast"]])
def test_any_other_speed_goes_the_standard_way(fake, throttle, speed):
    """The API says what is wrong with it."""
    throttler = throttle(fake(**STANDARD))
    throttler.call(**call(speed=speed))
    assert set(throttler.limits()) == {LANE}


def _submit(throttler, _server):
    return throttler.submit(**fast()).result(10)


def _stream(throttler, _server):
    params = {name: value for name, value in fast().items() if name != "raw"}
    with throttler.stream(**params) as stream:
        return stream.get_final_message()


def _map(throttler, _server):
    return list(throttler.map([fast()]))


@needs("middleware")
def _middleware(throttler, server):
    with anthropic.Anthropic(
        api_key=KEY, base_url=server.url, middleware=[throttler.middleware()], max_retries=0
    ) as client:
        return client.messages.create(**body(), extra_body={"speed": "fast"})


def _adapter(throttler, server):
    with requests.Session() as session:
        session.mount("http://", throttler.adapter())
        headers = {"x-api-key": KEY}
        return session.post(f"{server.url}/v1/messages", json=body(speed="fast"), headers=headers)


@pytest.mark.parametrize("door", [_submit, _stream, _map, _middleware, _adapter])
def test_fast_calls_learn_fast_limits_by_whichever_door_they_came(fake, throttle, door):
    """And what the answer shows of the standard limits is not theirs."""
    server = fake(**STANDARD, fast={"itpm": 20_000, "otpm": 8_000})
    throttler = throttle(server, rpm=None)
    door(throttler, server)
    assert learned(throttler, FAST_LANE) == {"input_tokens": 20_000, "output_tokens": 8_000}
    assert LANE not in throttler.limits()


def test_standard_calls_learn_nothing_of_fast_limits(fake, throttle):
    """Even where their answers show them."""
    server = fake()
    shown = {"anthropic-fast-input-tokens-limit": "1000"}
    server.script(answer({**shown, "anthropic-fast-input-tokens-remaining": "0"}))
    throttler = throttle(server, rpm=None)
    throttler.call(**call())
    assert learned(throttler, LANE) == {}


@pytest.mark.parametrize("limit", ["", "-1", "NaN", "1e400", "many", "0.5", "9" * 30])
def test_odd_fast_limits_are_ignored(fake, throttle, limit):
    """They never crash, and never become a pace."""
    server = fake()
    kinds = ("input-tokens", "output-tokens")
    odd = {f"anthropic-fast-{k}-{f}": limit for k in kinds for f in ("limit", "remaining")}
    server.script(answer(odd))
    throttler = throttle(server, rpm=None)
    throttler.call(**fast())
    assert learned(throttler, FAST_LANE) == {}


def test_a_fast_429_pauses_only_the_fast_lane(fake, throttle, manual):
    """Standard calls of the model neither wait nor lose their burst."""
    server = fake(**STANDARD)
    throttler = throttle(server, clock=manual)
    throttler.call(**call())
    before = {q.kind: (q.burst, q.learned) for q in throttler.limits()[LANE].quotas}
    server.script(Reply(429, {"retry-after": "30"}, message=fast_words(20_000)))
    future = throttler.submit(**fast("later"))
    wait_until(lambda: throttler.limits()[FAST_LANE].paused_seconds > 0)
    assert echo(throttler.call(**call("at once"))) == "at once"
    assert throttler.limits()[LANE].paused_seconds == 0
    assert {q.kind: (q.burst, q.learned) for q in throttler.limits()[LANE].quotas} == before
    assert not future.done()
    manual.advance(40)
    assert echo(future.result(10)) == "later"


def fast_words(limit):
    return (
        f"This request would exceed your rate limit of {limit:,} fast mode input tokens per minute"
        f" (org: 0, model: {MODEL})."
    )


NO_FAST = {
    "anthropic-fast-input-tokens-limit": "0",
    "anthropic-fast-input-tokens-remaining": "0",
}


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(429, {"retry-after": "60", **NO_FAST}, message="Rate limited."),
        Reply(429, {"retry-after": "60", "x-should-retry": "true"}, message=fast_words(0)),
        Reply(
            429,
            {"retry-after": "60", "anthropic-fast-output-tokens-limit": "0"},
            message="Rate limited.",
        ),
    ],
    ids=["the headers say so", "its words say so", "of output only"],
)
def test_a_fast_limit_of_0_fails_that_call_at_once_and_holds_up_nobody(fake, throttle, refusal):
    """Fast mode is not to be had: no wait helps, and no pause says anything."""
    server = fake(**STANDARD)
    server.script(refusal, refusal)
    throttler = throttle(server)
    for _ in range(2):
        with pytest.raises(anthropic.RateLimitError):
            throttler.submit(**fast()).result(10)
    assert echo(throttler.call(**call("standard"))) == "standard"
    assert [arrival.status for arrival in server.arrivals] == [429, 429, 200]
    assert all(lane.paused_seconds == 0 for lane in throttler.limits().values())


def test_a_fast_limit_of_0_says_nothing_to_a_standard_call_that_is_refused(fake, throttle):
    """It meets a rate limit of its own, and is tried again."""
    server = fake(**STANDARD)
    server.script(Reply(429, {"retry-after-ms": "20", **NO_FAST}, message="Rate limited."))
    assert echo(throttle(server).call(**call("again"))) == "again"


def test_what_was_served_at_standard_speed_is_booked_in_the_standard_lane(fake, throttle):
    """As usage.speed says, though fast mode was asked: it spent the model's own limits."""
    server = fake()
    served = {"input_tokens": 700, "output_tokens": 30, "speed": "standard"}
    server.script(*[Ok("slowly", served)] * 2)
    events = []
    throttler = throttle(server, on_event=events.append)
    assert echo(throttler.call(**fast())) == "slowly"
    with throttler.stream(**{k: v for k, v in fast().items() if k != "raw"}) as stream:
        stream.get_final_message()
    booked = [event for event in events if isinstance(event, IterationBooked)]
    assert [(event.lane, event.usage[:2]) for event in booked] == [(LANE, (700, 30))] * 2


def test_what_is_told_holds_for_each_lane_by_itself(fake, throttle, manual):
    """A fast call does not use up the standard calls' quota."""
    throttler = throttle(fake(), rpm=2, burst=2, clock=manual)
    for request in (call, fast):
        for text in ("one", "two"):
            assert echo(throttler.call(**request(text))) == text


def test_the_fake_keeps_fast_limits_apart(fake, throttle):
    """So that users can script them: a limit of 0 refuses as the API does."""
    server = fake(fast={"itpm": 0, "otpm": 0})
    throttler = throttle(server)
    with pytest.raises(anthropic.RateLimitError, match="0 fast mode input tokens"):
        throttler.call(**fast())
    assert echo(throttler.call(**call("standard"))) == "standard"


def test_processes_share_a_fast_lane_and_older_ones_go_on(fake, throttle):
    """A lane is a name in the store, so a fast lane is one more of them."""
    server, shared = fake(**STANDARD), "memory://fast-lanes"
    first, second = (throttle(server, rpm=6000, burst=9, shared=shared) for _ in range(2))
    for throttler in (first, second):
        assert echo(throttler.call(**fast("fast"))) == "fast"
        assert echo(throttler.call(**call("standard"))) == "standard"


def test_an_estimate_of_the_wait_is_the_fast_lanes_own(fake, throttle, manual):
    """It is what submit() would meet."""
    throttler = throttle(fake(), rpm=1, clock=manual)
    throttler.call(**fast())
    params = body()
    assert throttler.estimate_wait(**params) == 0
    assert throttler.estimate_wait(**params, speed="fast") > 50


# -- Priority Tier, and windows of usage -----------------------------------------------------------

PRIORITY = {
    "anthropic-priority-input-tokens-limit": "10000",
    "anthropic-priority-input-tokens-remaining": "0",
    "anthropic-priority-output-tokens-limit": "10000",
    "anthropic-priority-output-tokens-remaining": "6000",
}


def unified(**fields):
    """Headers of windows: ``_5h_status="rejected"`` …"""
    return {
        f"anthropic-ratelimit-unified{name.replace('__', '-')}": str(value)
        for name, value in fields.items()
    }


def test_priority_limits_are_shown_and_never_paced_on(fake, throttle):
    """Where nothing is left of them, calls are served at the standard tier."""
    server = fake()
    server.script(answer(PRIORITY))
    throttler = throttle(server, rpm=None)
    for _ in range(3):
        throttler.call(**call())
    lane = throttler.limits()[LANE]
    assert lane.quotas == ()
    shown = {kind: (limit.limit, limit.remaining) for kind, limit in lane.priority.items()}
    assert shown == {"input_tokens": (10_000, 0), "output_tokens": (10_000, 6_000)}
    assert "priority tier: 0 of 10,000 input tokens" in str(throttler.limits())


def test_windows_are_shown_and_never_paced_on(fake, throttle):
    """With their status, their use and their end."""
    server = fake()
    headers = unified(
        __status="allowed_warning",
        __5h__status="allowed_warning",
        __5h__utilization="0.93",
        __5h__reset="1796000000",
        __7d_oi__status="allowed",
        __7d_oi__utilization="0.25",
        __7d__reset="2026-12-01T00:00:00Z",
    )
    server.script(answer(headers))
    throttler = throttle(server, rpm=None)
    for _ in range(2):
        throttler.call(**call())
    windows = throttler.limits()[LANE].windows
    assert windows["5h"] == ("allowed_warning", 0.93, 1796000000.0)
    assert windows["7d_oi"] == ("allowed", 0.25, None)
    assert windows["7d"].resets_at == 1796083200.0
    assert windows["overall"].status == "allowed_warning"
    assert "5h: allowed_warning, 93 % used" in str(throttler.limits())


HOUR, NOW = 3_600.0, 1_790_000_000


def window(name, status="rejected", seconds=HOUR, now=NOW):
    """The headers of one window that is rejected until *seconds* from *now*."""
    return unified(**{f"__{name}__status": status, f"__{name}__reset": int(now + seconds)})


def overall(status="rejected", seconds=HOUR):
    return unified(__status=status, __reset=int(NOW + seconds))


@pytest.mark.parametrize(
    ("headers", "here", "elsewhere"),
    [
        pytest.param(overall(), HOUR, HOUR, id="all together"),
        pytest.param(window("5h"), HOUR, HOUR, id="five hours"),
        pytest.param(
            {**overall(), **window("5h", seconds=600), **window("7d", seconds=2 * HOUR)},
            *(2 * HOUR, 2 * HOUR),
            id="two, and the later counts",
        ),
        pytest.param(
            {**overall(), **window("7d_oi"), **window("5h", "allowed")},
            *(HOUR, 0),
            id="of some models only",
        ),
        pytest.param({**window("5h"), "retry-after": "60"}, HOUR, HOUR, id="longer than named"),
        pytest.param({**overall(seconds=30), "retry-after": "90"}, 90, 30, id="named longer"),
        pytest.param(
            {**overall("allowed"), **window("5h"), "retry-after": "60"},
            *(60, 0),
            id="paid for beyond the window",
        ),
        pytest.param(
            {**window("overage"), **overall("allowed"), "retry-after": "60"},
            *(60, 0),
            id="nobody has ordered more",
        ),
        pytest.param({**window("5h", seconds=-60), "retry-after": "60"}, 60, 0, id="over already"),
        pytest.param(
            {**window("5h", "allowed_warning"), "retry-after": "60"}, 60, 0, id="only a warning"
        ),
        pytest.param(
            {**unified(__5h__status="rejected"), "retry-after": "60"}, 60, 0, id="without an end"
        ),
        pytest.param(
            {**unified(__5h__status="rejected", __5h__reset="soon"), "retry-after": "60"},
            *(60, 0),
            id="an end that is no time",
        ),
        pytest.param(
            unified(__5h__status=" Rejected ", __5h__reset=f"{(NOW + 3600) * 1000}"),
            *(HOUR, HOUR),
            id="milliseconds and capitals",
        ),
    ],
)
def test_a_used_up_window_pauses_those_it_is_about_until_its_end(headers, here, elsewhere):
    """The account's lanes, or the one of its models; as judged from the refusal's headers."""
    feedback = classify(429, {"x-should-retry": "true", **headers}, RATE_LIMITED, NOW).feedback
    assert feedback.pauses_lane
    assert feedback.retry_after == pytest.approx(here)
    assert feedback.others.account_pause == pytest.approx(elsewhere)


RATE_LIMITED = b'{"type":"error","error":{"type":"rate_limit_error","message":"Rate limited."}}'


@pytest.mark.parametrize(
    "headers",
    [
        {f"anthropic-ratelimit-unified-{n}h-status": "rejected" for n in range(500)},
        unified(__status="\x1b[31m", __5h__utilization="lots", __5h__reset="1e999"),
        unified(__status="", __5h__utilization="-3", __5h__reset="-1"),
        unified(__7d__reset="9" * 400, __7d__status="r" * 9_999),
        {"anthropic-ratelimit-unified-": "x", "anthropic-ratelimit-unified--status": "rejected"},
        {"anthropic-priority-input-tokens-limit": "NaN", **unified(__fallback="available")},
        unified(__representative__claim="five_hour", __fallback__percentage="0.5"),
    ],
)
def test_odd_windows_never_crash_and_never_pause(headers):
    """What comes from outside is checked where it enters."""
    others = classify(429, headers, RATE_LIMITED, NOW).feedback.others
    assert others.account_pause == 0
    assert len(others.windows) <= 16
    assert all(len(window.status) <= 32 for window in others.windows.values())


def test_a_used_up_window_on_an_answer_pauses_nothing(fake, throttle, manual):
    """What was answered was not refused."""
    server = fake()
    server.script(answer({**overall(), **window("5h")}))
    throttler = throttle(server, clock=manual)
    throttler.call(**call())
    assert throttler.limits()[LANE].paused_seconds == 0
    assert throttler.limits()[LANE].windows["5h"].status == "rejected"


def test_a_used_up_window_pauses_all_lanes_of_the_account_and_new_ones(fake, throttle, manual):
    """One refusal tells for all; another lane's calls wait instead of meeting their own."""
    server = fake()
    throttler = throttle(server, clock=manual)
    throttler.call(**ask(model="claude-haiku-5-5"))
    headers = {**overall(seconds=300), **window("5h", seconds=300)}
    server.script(Reply(429, headers, message="Rate limited."))
    futures = [throttler.submit(**call())]
    wait_until(lambda: throttler.limits()["haiku-5-5"].paused_seconds > 0)
    futures += [
        throttler.submit(**ask(model=model)) for model in (MODEL_NEVER_ASKED, "claude-haiku-5-5")
    ]
    assert all(lane.paused_seconds > 290 for lane in throttler.limits().values())
    assert len(server.arrivals) == 2
    manual.advance(400)
    for future in futures:
        future.result(10)
    assert len(server.arrivals) == 5


def test_a_window_of_days_is_probed_in_each_lane_and_the_first_answer_ends_its_pause(
    fake, throttle, manual
):
    """Whatever was named: the end of a window may be moved, and calls need not wait for days."""
    events = []
    server = fake()
    throttler = throttle(server, clock=manual, on_event=events.append)
    throttler.call(**ask(model="claude-haiku-5-5"))
    server.script(Reply(429, {**overall(seconds=50 * HOUR)}, message="Rate limited."))
    futures = [throttler.submit(**call())]
    wait_until(lambda: throttler.limits()["haiku-5-5"].paused_seconds > 20 * HOUR)
    futures.append(throttler.submit(**ask(model="claude-haiku-5-5")))
    wait_until(lambda: len([e for e in events if isinstance(e, LanePaused)]) == 2)
    assert all(50 < e.probe_in_seconds < 70 for e in events if isinstance(e, LanePaused))
    manual.wait_for_sleepers(2)
    manual.advance(70)
    for future in futures:
        future.result(10)
    assert all(lane.paused_seconds == 0 for lane in throttler.limits().values())


MODEL_NEVER_ASKED = "claude-sonnet-5-5"


def test_a_permit_hears_of_a_used_up_window_too(fake, throttle, manual):
    """Whichever client was refused, the account is."""
    throttler = throttle(fake(), clock=manual)
    with throttler.permit(model=MODEL, max_tokens=9) as permit:
        permit.settle(status=429, headers=window("7d"), body=RATE_LIMITED)
    assert throttler.limits()[LANE].paused_seconds > 0

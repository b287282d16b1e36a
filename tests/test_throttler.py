"""The front door: what it takes, what it refuses, what it tells."""

from __future__ import annotations

import contextvars
import itertools
import math
import pickle

import anthropic
import pytest

import claude_throttle
from claude_throttle import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    Closed,
    ConfigurationError,
    InvalidCall,
    QuotaTooSmall,
    Throttler,
    UnknownSetting,
)
from claude_throttle.testing import Ok, Reply
from tests.support.calls import MODEL, ask, echo


def test_a_typed_answer_is_the_sdks_own_message(fake, throttle):
    """anthropic.types.Message, with its request id."""
    message = throttle(fake()).call(**ask(raw=False))
    assert isinstance(message, anthropic.types.Message)
    assert message.content[0].text == "echo: hello"
    assert message._request_id.startswith("req_")


def test_unknown_fields_and_blocks_survive(fake, throttle):
    """The API may grow; nothing is lost on the way."""
    server = fake()
    server.script(Ok(extra_content_blocks=({"type": "hologram", "depth": 3},)))
    message = throttle(server).call(**ask(raw=False))
    assert message.content[1].type == "hologram"
    assert message.content[1].depth == 3


def test_the_request_is_a_snapshot(fake, throttle):
    """Changing the caller's list after submit has no effect."""
    server = fake()
    throttler = throttle(server)
    throttler.pause()
    request = ask("before")
    future = throttler.submit(**request)
    request["messages"][0]["content"] = "after"
    request["messages"].clear()
    throttler.resume()
    assert echo(future.result(10)) == "before"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "role"),
        ({"metadata": {"user_id": object()}}, "object"),
        ({"temperature": math.nan}, "NaN"),
        ({"system": "\ud800"}, "surrogate"),
        ({"system": "x" * (33 * 2**20)}, "32 MB"),
        ({"stream": True}, "stream"),
        ({"priorty": 1}, r"did you mean priority=\?"),
        ({"time_out": 1}, r"did you mean timeout=\?"),
    ],
)
def test_bad_requests_are_refused_before_they_cost_one(fake, throttle, change, message):
    """At submit, with the reason."""
    server = fake()
    throttler = throttle(server)
    with pytest.raises(InvalidCall, match=message):
        throttler.submit(**{**ask(), **change})
    assert server.arrivals == []
    assert throttler.stats().submitted == 0


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_what_is_missing_is_named(fake, throttle, missing):
    """And the closest thing that was given."""
    request = ask()
    value = request.pop(missing)
    with pytest.raises(InvalidCall, match=f"{missing}= is missing"):
        throttle(fake()).submit(**request)
    request[missing + "s"] = value
    with pytest.raises(InvalidCall, match=f"{missing}= in place of {missing}s="):
        throttle(fake()).submit(**request)


def test_unknown_api_parameters_pass_through(fake, throttle):
    """The API knows better than we what it takes."""
    assert throttle(fake()).call(**ask(brand_new_parameter={"x": 1}))


def test_without_a_key_the_first_call_says_so(fake):
    """Clearly, before anything is sent."""
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        Throttler(rpm=50).submit(**ask())


def test_unknown_settings_name_the_closest_one():
    """A TypeError, as for any unknown keyword."""
    with pytest.raises(UnknownSetting, match=r"did you mean max_queue=\?"):
        Throttler(api_key="k", max_queu=3)
    with pytest.raises(TypeError):
        Throttler(api_key="k", nonsense=3)


def test_a_call_that_can_never_fit_is_refused_with_the_figures(fake, throttle):
    """Else it would wait for ever."""
    throttler = throttle(fake(), rpm=None, itpm=1000)
    with pytest.raises(QuotaTooSmall, match=r"about 2,\d\d\d input tokens .* itpm=1,000"):
        throttler.submit(**ask("x" * 8000))


def test_map_keeps_the_order_and_reads_only_so_far_ahead(fake, throttle):
    """An endless iterable is fine."""
    read = []

    def endless():
        for n in itertools.count():
            read.append(n)
            yield ask(str(n))

    throttler = throttle(fake(), max_concurrency=3)
    answers = throttler.map(endless())
    assert [echo(next(answers)) for _ in range(20)] == [str(n) for n in range(20)]
    answers.close()
    assert len(read) <= 20 + 6
    assert throttler.drain(10) == 0


def test_map_waits_for_a_place_instead_of_raising(fake, throttle):
    """QueueFull is for submit()."""
    throttler = throttle(fake(), max_queue=2)
    answers = throttler.map((ask(str(n)) for n in range(30)), look_ahead=10)
    assert [echo(answer) for answer in answers] == [str(n) for n in range(30)]


def test_map_raises_where_a_call_failed_or_yields_the_exception(fake, throttle):
    """As the caller likes it."""
    server = fake()
    throttler = throttle(server, max_concurrency=1)
    server.script(Ok(), Reply(400, {}, "invalid_request_error"))
    answers = throttler.map([ask(), ask(), ask()])
    next(answers)
    with pytest.raises(anthropic.BadRequestError):
        next(answers)

    server = fake()
    server.script(Reply(400, {}, "invalid_request_error"))
    throttler = throttle(server, max_concurrency=1)
    answers = list(throttler.map([ask(), ask("b")], return_exceptions=True))
    assert isinstance(answers[0], anthropic.BadRequestError)
    assert echo(answers[1]) == "b"


def test_estimate_wait_counts_what_is_queued(fake, throttle, manual):
    """Three waiting at one a minute: the fourth would wait four minutes."""
    throttler = throttle(fake(clock=manual), rpm=1, clock=manual)
    assert throttler.estimate_wait(**ask()) == 0
    throttler.submit(**ask()).result(10)
    for _ in range(3):
        throttler.submit(**ask())
    assert throttler.estimate_wait(**ask()) == pytest.approx(240, abs=0.01)
    throttler.pause()
    assert throttler.estimate_wait(**ask()) == math.inf


def test_estimate_wait_counts_the_permits(fake, throttle):
    """When concurrency is what is waited for, by the median latency."""
    throttler = throttle(fake(latency=0.05), max_concurrency=1)
    throttler.call(**ask())
    with throttler.permit(model=MODEL):
        assert 0.04 < throttler.estimate_wait(**ask()) < 1.0


def test_stats_are_a_frozen_report(fake, throttle):
    """A picture, and a text a person can read."""
    throttler = throttle(fake(output_tokens=7))
    for _ in range(3):
        throttler.call(**ask())
    stats = throttler.stats()
    assert (stats.submitted, stats.sent, stats.succeeded) == (3, 3, 3)
    assert stats.output_tokens == 21
    assert stats.success_rate == 1.0
    assert stats.latency_seconds.p50 > 0
    assert "3 succeeded (100.0%)" in str(stats)
    with pytest.raises(AttributeError):
        stats.sent = 4
    throttler.call(**ask())
    assert stats.sent == 3


def test_events_tell_the_whole_story_in_the_submitters_context(fake, throttle):
    """contextvars of the submitter are visible in the listener."""
    user = contextvars.ContextVar("user")
    told = []
    throttler = throttle(fake(), on_event=lambda event: told.append((type(event), user.get(None))))
    token = user.set("ada")
    future = throttler.submit(**ask())
    user.reset(token)
    future.result(10)
    throttler.drain(10)
    assert told == [(CallQueued, "ada"), (CallSent, "ada"), (CallSucceeded, "ada")]


def test_a_listener_that_raises_harms_nobody(fake, throttle, caplog):
    """It is logged and forgotten."""

    def broken(_event):
        raise ValueError("my bug")

    throttler = throttle(fake(), on_event=broken)
    assert echo(throttler.call(**ask())) == "hello"
    assert "the event listener raised" in caplog.text


def test_failures_are_told_by_class(fake, throttle):
    """CallFailed names the exception and the status."""
    server = fake()
    server.script(Reply(400, {}, "invalid_request_error"))
    told = []
    throttler = throttle(server, on_event=told.append)
    with pytest.raises(anthropic.BadRequestError):
        throttler.call(**ask())
    throttler.drain(10)
    failed = [event for event in told if isinstance(event, CallFailed)]
    assert [(e.error, e.status, e.attempts) for e in failed] == [("BadRequestError", 400, 1)]


def test_reconfigure_refuses_what_is_built_in(fake, throttle):
    """A key or an address cannot change under open connections."""
    throttler = throttle(fake())
    with pytest.raises(ConfigurationError, match="base_url cannot change"):
        throttler.reconfigure(base_url="https://example.com")
    with pytest.raises(UnknownSetting):
        throttler.reconfigure(rmp=3)
    throttler.reconfigure(rpm=7)
    assert throttler.settings.rpm.amount == 7


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "5", True])
def test_a_timeout_must_be_a_positive_number(fake, throttle, timeout):
    """Zero is no way to say "none"."""
    with pytest.raises(ConfigurationError, match="timeout"):
        throttle(fake()).submit(**ask(timeout=timeout))


def test_repr_shows_no_key():
    """Nor does pickling work: it says why."""
    throttler = Throttler(api_key="sk-ant-secret", rpm=50, otpm=8000)
    assert repr(throttler) == "<Throttler https://api.anthropic.com rpm=50, otpm=8000 open>"
    assert "secret" not in repr(throttler.settings)
    with pytest.raises(TypeError, match="in each process"):
        pickle.dumps(throttler)


def test_typed_errors_pickle(fake, throttle):
    """A Celery worker will want to; no key travels along."""
    server = fake()
    server.script(Reply(401, {}, "authentication_error", "bad key"))
    with pytest.raises(anthropic.AuthenticationError) as caught:
        throttle(server).call(**ask())
    data = pickle.dumps(caught.value)
    assert b"sk-ant-test" not in data
    copy = pickle.loads(data)
    assert isinstance(copy, anthropic.AuthenticationError)
    assert copy.status_code == 401


def test_two_throttlers_do_not_disturb_each_other(fake, throttle):
    """No state is shared between them."""
    server = fake()
    one, two = throttle(server), throttle(server)
    one.call(**ask())
    one.close()
    with pytest.raises(Closed):
        one.call(**ask())
    assert echo(two.call(**ask())) == "hello"


def test_all_is_importable_and_listed():
    """The shop window shows what there is."""
    for name in claude_throttle.__all__:
        assert hasattr(claude_throttle, name)

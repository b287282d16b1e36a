"""throttler.testing_mode(): canned answers, no network, and no mistaking it for the real thing."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from concurrent.futures import CancelledError

import anthropic
import pytest

from claude_throttle import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    Priority,
    Settings,
    Throttler,
)
from claude_throttle.features.test_mode.canned_transport import CANNED_TEXT
from claude_throttle.testing import FakeClaude, Stall
from tests.support.calls import MODEL, ask, echo
from tests.support.fake_http import wait_for_arrivals
from tests.support.inside import engine_of
from tests.support.waiting import move_until_done, wait_until


@pytest.fixture
def make():
    """Throttlers without a key, cut off in the end."""
    made = []

    def begin(**options):
        made.append(Throttler(**options))
        return made[-1]

    yield begin
    for throttler in made:
        throttler.close(timeout=0, cancel_pending=True)


def text_of(message):
    return message["content"][0]["text"]


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_network")
def test_answers_are_canned_typed_or_raw(make):
    """With a usage that fits the call; and no key is needed."""
    throttler = make()
    with throttler.testing_mode("Hello from nowhere."):
        message = throttler.call(**ask(raw=False))
        raw = throttler.call(**ask("x" * 3600, max_tokens=3))
    assert isinstance(message, anthropic.types.Message)
    assert (message.content[0].text, message.model) == ("Hello from nowhere.", MODEL)
    assert message._request_id.startswith("req_testing_")
    assert message.id.startswith("msg_testing_")
    assert message.usage.output_tokens == 5
    assert raw["usage"]["output_tokens"] == 3, "never more than max_tokens"
    assert 900 < raw["usage"]["input_tokens"] < 1200
    assert raw["id"] != message.id


@pytest.mark.usefixtures("_no_network")
def test_the_text_says_so_if_none_is_told(make):
    """It may be seen by people."""
    throttler = make()
    with throttler.testing_mode():
        assert text_of(throttler.call(**ask())) == CANNED_TEXT
    assert "testing mode" in CANNED_TEXT


@pytest.mark.usefixtures("_no_network")
def test_a_function_makes_the_answer_of_the_request(make):
    """What it raises is how the call fails; nothing is tried again."""
    asked = []

    def answer(params):
        asked.append(params)
        if params["messages"][0]["content"] == "fail":
            raise LookupError("as told")
        return params["messages"][0]["content"].upper()

    throttler = make()
    with throttler.testing_mode(answer, latency=lambda params: 0.001):
        answers = throttler.map([ask(text) for text in "abc"])
        assert [text_of(answer) for answer in answers] == ["A", "B", "C"]
        with pytest.raises(LookupError, match="as told"):
            throttler.call(**ask("fail"))
        assert {name: value for name, value in ask("a").items() if name != "raw"} in asked
        assert len(asked) == 4
        assert throttler.stats().failed == {"LookupError": 1}


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("text", "latency", "words"),
    [
        (lambda params: None, 0.0, "gave NoneType, not a string"),
        ("x", lambda params: "soon", "number of seconds"),
        ("x", lambda params: float("nan"), "number of seconds"),
    ],
)
def test_a_function_that_gives_nonsense_is_told(make, text, latency, words):
    """In the call's own future."""
    throttler = make()
    with throttler.testing_mode(text, latency=latency):
        with pytest.raises(ConfigurationError, match=words):
            throttler.call(**ask())


@pytest.mark.parametrize(
    "wrong", [{"text": 7}, {"text": b"x"}, {"latency": -1}, {"latency": True}, {"latency": None}]
)
def test_what_can_be_no_answer_is_refused_at_once(make, wrong):
    """And the mode does not begin."""
    throttler = make(api_key="any")
    with pytest.raises(ConfigurationError, match="text|latency"):
        throttler.testing_mode(**wrong)
    assert "TESTING" not in repr(throttler)


# -- as ever ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_network")
def test_events_and_counters_work(make):
    """As for a real call."""
    events = []
    throttler = make(on_event=events.append)
    with throttler.testing_mode():
        throttler.call(**ask())
        stats = throttler.stats()
        assert (stats.succeeded, stats.output_tokens) == (1, 19)
        assert stats.input_tokens > 0
        assert len(throttler.limits()) == 1
    kinds = [type(event) for event in events]
    assert [
        kind for kind in kinds if kind in (CallQueued, CallSent, CallSucceeded, CallFailed)
    ] in (
        [CallQueued, CallSent, CallSucceeded],
        [CallSent, CallSucceeded],
    )


@pytest.mark.usefixtures("_no_network")
def test_quotas_and_priorities_hold(make, manual):
    """A page that waits in production waits here."""
    throttler = make(rpm=60, clock=manual)
    with throttler.testing_mode():
        first = throttler.submit(**ask("0"))
        first.result(10)
        batch = throttler.submit(**ask("batch", priority=Priority.BATCH))
        urgent = throttler.submit(**ask("urgent", priority=Priority.INTERACTIVE))
        assert throttler.estimate_wait(**ask()) > 1.0
        manual.wait_for_sleepers(1)
        assert not urgent.done()
        manual.advance(1.0)
        urgent.result(10)
        assert not batch.done()
        manual.advance_until_done(batch)
        with throttler.permit(model="claude-haiku-4-5"):
            assert not throttler.stats().waiting


@pytest.mark.usefixtures("_no_network")
def test_a_latency_is_waited_for(make, manual):
    """And ends with the call: by its deadline, by the end of the throttler, by giving up."""
    throttler = make(clock=manual)
    throttler.testing_mode(latency=60.0)
    slow, late = throttler.submit(**ask()), throttler.submit(**ask(), timeout=5)
    manual.wait_for_sleepers(2)
    manual.advance(10)
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert not slow.done()
    manual.advance(51)
    assert text_of(slow.result(10)) == CANNED_TEXT
    given_up = throttler.submit(**ask())
    manual.wait_for_sleepers(1, until_after=manual.monotonic() + 50)
    given_up.give_up()  # as call() does after Ctrl-C
    with pytest.raises(Closed):
        given_up.result(10)
    left = throttler.submit(**ask())
    throttler.close(timeout=0)
    with pytest.raises(Closed):
        left.result(10)


# -- beginning and end -----------------------------------------------------------------------------


def test_afterwards_calls_are_real_again(fake, throttle):
    """And nothing that was canned counts: not for the estimates, not in the statistics."""
    server = fake()
    throttler = throttle(server)
    assert echo(throttler.call(**ask("before"))) == "before"
    with throttler.testing_mode("x" * 400):
        assert text_of(throttler.call(**ask())).startswith("x")
        assert throttler.stats().succeeded == 1
    assert echo(throttler.call(**ask("after"))) == "after"
    assert throttler.stats().succeeded == 2
    assert throttler.stats().output_tokens == 40
    assert [arrival.nonce for arrival in server.arrivals] == ["before", "after"]


def test_what_was_put_before_goes_on(fake, throttle):
    """A real call that is out is answered by the server; what is put inside never gets there."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server)
    real = throttler.submit(**ask("real"))
    wait_for_arrivals(server, 1)
    with throttler.testing_mode("canned"):
        assert text_of(throttler.call(**ask("inside"))) == "canned"
        assert not real.done()
        late = throttler.submit(**ask("late"))
    assert text_of(late.result(0)) == "canned", "the block waits for it"
    server.release_stalled()
    assert echo(real.result(20)) == "real"
    assert [arrival.nonce for arrival in server.arrivals] == ["real"]


def test_an_error_in_the_block_cancels_what_waits(make):
    """As with the throttler itself."""
    throttler = make(api_key="any", rpm=1)
    with pytest.raises(LookupError):
        with throttler.testing_mode(latency=60):
            calls = [throttler.submit(**ask()) for _ in range(3)]
            raise LookupError
    for call in calls:
        with pytest.raises((Closed, CancelledError)):
            call.result(0)
    assert "TESTING" not in repr(throttler)


def test_modes_may_be_nested(make):
    """The last one that began is in force; the order of their ends does not matter."""
    throttler = make()
    outer, inner = throttler.testing_mode("outer"), throttler.testing_mode("inner")
    assert text_of(throttler.call(**ask())) == "inner"
    outer.end()
    outer.end()
    assert text_of(throttler.call(**ask())) == "inner"
    assert (repr(outer), repr(inner)) == ("<CannedAnswers ended>", "<CannedAnswers in force>")
    inner.end()
    with pytest.raises(ConfigurationError, match="no API key"):
        throttler.call(**ask())


def test_pausing_and_closing_reach_everything(fake, throttle):
    """The mode's calls and the real ones that are still on their way."""
    server = fake()
    server.script(Stall())
    throttler = throttle(server)
    real = throttler.submit(**ask("real"))
    throttler.testing_mode()
    throttler.pause()
    canned = throttler.submit(**ask())
    throttler.reconfigure(max_queue=1)
    assert throttler.stats().waiting == 1
    assert throttler.drain(0.2) == 1, "the canned one is answered, the real one is stalled"
    assert text_of(canned.result(0)) == CANNED_TEXT
    throttler.close(timeout=0)
    with pytest.raises(Closed):
        real.result(20)
    with pytest.raises(Closed):
        throttler.submit(**ask())


# -- no mistaking it -------------------------------------------------------------------------------


def test_it_says_so_in_the_log_and_in_its_repr(make, caplog):
    """At WARNING, which is shown even where logging was never set up."""
    throttler = make(api_key="any", rpm=50)
    with caplog.at_level(logging.WARNING, "claude_throttle"):
        with throttler.testing_mode():
            assert repr(throttler) == "<Throttler TESTING MODE, makes no call: rpm=50 open>"
        assert repr(throttler) == "<Throttler https://api.anthropic.com rpm=50 open>"
    assert caplog.messages == [
        "testing mode: answers are canned, and no call to Claude is made",
        "testing mode is over: calls go to https://api.anthropic.com",
    ]


@pytest.mark.usefixtures("_no_network")
def test_the_environment_or_a_setting_begins_it(make, monkeypatch, caplog):
    """From the first call on, to the end."""
    monkeypatch.setenv("CLAUDE_THROTTLE_TESTING", "1")
    for throttler in (make(), make(settings=Settings(testing=True))):
        assert "TESTING MODE" in repr(throttler)
        assert text_of(throttler.call(**ask())) == CANNED_TEXT
        with throttler.testing_mode("mine"):
            assert text_of(throttler.call(**ask())) == "mine"
        assert "TESTING MODE" in repr(throttler)
    assert not [message for message in caplog.messages if "is over" in message]
    assert "TESTING" not in repr(make(testing=False))
    monkeypatch.setenv("CLAUDE_THROTTLE_TESTING", "Hello")
    with pytest.raises(ConfigurationError, match="CLAUDE_THROTTLE_TESTING='Hello'"):
        make()


@pytest.mark.usefixtures("_no_network")
def test_nothing_is_asked_nor_taken_elsewhere(make, tmp_path):
    """Neither the limits, nor the count of tokens, nor a quota that others need."""
    store = tmp_path / "store.db"
    throttler = make(
        api_key="any",
        admin_key="sk-ant-admin-any",
        count_tokens="api",
        shared=f"sqlite:///{store}",
        testing=True,
    )
    assert text_of(throttler.call(**ask())) == CANNED_TEXT
    assert throttler.limits().store is None
    ticket, seconds = throttler.line_up(**ask())
    assert (throttler.line_up(ticket, **ask())[0], seconds) == (ticket, 0.0)
    throttler.close()
    assert not store.exists()


def test_the_canned_wire_has_no_way_out(make):
    """Whatever is asked of it besides is refused, not sent."""
    throttler = make(testing=True)
    with pytest.raises(AttributeError, match="testing mode makes no call"):
        engine_of(throttler).account.transport.ask("GET", "/v1/models", {})


# -- threads and forks -----------------------------------------------------------------------------


def test_threads_call_while_modes_come_and_go():
    """Each call is answered by one side or the other, or told that its side has just closed."""
    with FakeClaude() as server:
        options = {"api_key": "any", "base_url": server.url, "rpm": 1e6, "burst": 1000}
        with Throttler(**options) as throttler:
            seen, over = [], threading.Event()

            def call():
                while not over.is_set():
                    try:
                        seen.append(text_of(throttler.call(**ask("real"))))
                    except Closed:
                        seen.append("closed")

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(30):
                with throttler.testing_mode("canned"):
                    throttler.call(**ask())
                throttler.call(**ask("main"))
            over.set()
            for thread in threads:
                thread.join(30)
            assert not any(thread.is_alive() for thread in threads)
        assert {"canned", "echo: real"} <= set(seen) <= {"canned", "echo: real", "closed"}
        assert seen.count("echo: real") == sum(a.nonce == "real" for a in server.arrivals)


def test_two_threads_may_end_it_at_once(make):
    """With an event listener that asks in the midst of it all."""
    throttler = make(on_event=lambda event: repr(throttler) and throttler.stats())
    for _ in range(20):
        mode = throttler.testing_mode(latency=0.001)
        future = throttler.submit(**ask())
        threads = [threading.Thread(target=mode.end) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert text_of(future.result(20)) == CANNED_TEXT


def _in_child(throttler, answers):
    answers.put((os.getpid(), repr(throttler), text_of(throttler.call(**ask()))))


def test_a_forked_child_is_in_the_mode_as_well(make):
    """A server may fork at any time; none of its workers must make a real call."""
    throttler = make()
    fork = multiprocessing.get_context("fork")
    with throttler.testing_mode("canned"):
        throttler.call(**ask())
        answers = fork.Queue()
        child = fork.Process(target=_in_child, args=(throttler, answers))
        child.start()
        pid, shown, text = answers.get(timeout=30)
        child.join(30)
    assert (pid, child.exitcode, text) == (child.pid, 0, "canned")
    assert "TESTING MODE" in shown


def test_moving_on_by_hand_ends_what_waits(make, manual):
    """Many at once, on a clock of their own."""
    throttler = make(rpm=600, clock=manual)
    with throttler.testing_mode(latency=2.0):
        futures = [throttler.submit(**ask(f"{number}")) for number in range(10)]
        move_until_done(manual, futures)
        assert {text_of(future.result(0)) for future in futures} == {CANNED_TEXT}


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_a_stream_comes_in_pieces(raw):
    """With everything that a stream has, and nothing of a wire."""
    with Throttler(testing=True) as throttler:
        throttler.testing_mode("Two words,\n and more. ")
        with throttler.stream(**{**ask(), "raw": raw}) as stream:
            pieces = list(stream.text_stream)
            message = stream.get_final_message()
            assert stream.request_id.startswith("req_testing_")
        assert len(pieces) > 3
        assert "".join(pieces) == "Two words,\n and more. "
        usage = message["usage"] if raw else message.usage.model_dump()
        assert usage["output_tokens"] > 1
        with throttler.stream(**ask()) as left:
            next(left)
        assert throttler.stats().succeeded == 2
        assert throttler.stats().in_flight == 0


@pytest.mark.usefixtures("_no_network")
def test_what_a_function_raises_is_how_a_stream_fails():
    def fail(_params):
        raise LookupError("no such answer")

    with Throttler(testing=True) as throttler, throttler.testing_mode(fail):
        with pytest.raises(LookupError, match="no such answer"):
            throttler.stream(**ask())
        assert throttler.stats().in_flight == 0


@pytest.mark.usefixtures("_no_network")
def test_a_stream_that_waits_ends_with_the_throttler():
    throttler = Throttler(testing=True)
    throttler.testing_mode(latency=60.0)
    errors = []

    def read():
        try:
            throttler.stream(**ask())
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: throttler.stats().in_flight)
    throttler.close(timeout=0)
    reader.join(10)
    assert [type(error) for error in errors] == [Closed]

"""Calls that are answered while the SDK is still being imported: only results wait for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

import anthropic
import pytest

from claude_throttle import (
    BrokenAnswer,
    CallFailed,
    CallSucceeded,
    Closed,
    DeadlineExceeded,
    Throttler,
)
from claude_throttle.core.dispatch.call import CallFuture, LateResult
from claude_throttle.testing import FakeClaude, Ok, Reply, Truncated
from claude_throttle.transport import sdk
from tests.support.calls import ask
from tests.support.inside import slots_in_use
from tests.support.programs import run_alone
from tests.support.waiting import wait_until

SENDER = "claude-throttle-sender"


class Import:
    """The import of the SDK: it ends when the test says so, well or with an error."""

    def __init__(self):
        self._may_end = threading.Event()
        self._error = None
        self._really = sdk._import

    def __call__(self):
        assert self._may_end.wait(60)
        if self._error is not None:
            raise self._error
        self._really()

    def end(self, error=None):
        self._error = error
        self._may_end.set()


@pytest.fixture
def importing(monkeypatch):
    """The SDK is being imported, for the first time in this process as far as we know."""
    under_way = Import()
    for name, value in (("_is_loaded", False), ("_has_ended", False), ("_importer", None)):
        monkeypatch.setattr(sdk, name, value)
    monkeypatch.setattr(sdk, "_import", under_way)
    yield under_way
    under_way.end()
    sdk._wait_for_import()


@pytest.fixture
def events():
    return []


@pytest.fixture
def throttler(importing, events):
    with FakeClaude() as server:
        options = {"max_concurrency": 8, "max_retries": 0, "on_event": events.append}
        with Throttler(api_key="k", base_url=server.url, rpm=1e6, burst=1000, **options) as made:
            made.server = server
            yield made
            importing.end()  # or close() would wait for it


def answered(throttler, **options):
    """The future of a call that has been answered."""
    future = throttler.submit(**{**ask(), "raw": False, **options})
    done, _ = wait([future], timeout=30)
    assert done
    return future


# -- what does not wait ----------------------------------------------------------------------------


def test_an_answered_call_is_done_and_holds_nothing(throttler, events):
    """Permit, tokens, events: all as if the SDK were there."""
    answered(throttler)
    wait_until(lambda: throttler.stats().in_flight == 0)
    assert slots_in_use(throttler) == 0
    assert any(isinstance(event, CallSucceeded) for event in events)


def test_many_answers_need_few_threads(throttler):
    """Not one for each that waits for the import: 2,452 of 3,000, once."""
    futures = [throttler.submit(**{**ask(), "raw": False}) for _ in range(200)]
    assert not wait(futures, timeout=60).not_done
    assert sum(thread.name == SENDER for thread in threading.enumerate()) <= 9


def test_raw_answers_are_there_at_once(throttler):
    assert answered(throttler, raw=True).result(0)["type"] == "message"


def test_what_is_no_whole_message_is_known_at_once(throttler):
    """Without the SDK: it is an error of ours."""
    throttler.server.script(Truncated())
    assert isinstance(answered(throttler).exception(0), BrokenAnswer)


# -- results ---------------------------------------------------------------------------------------


def test_a_result_is_one_object_in_every_thread(throttler, importing):
    """Two or more may ask for it at once."""
    future = answered(throttler)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(future.result) for _ in range(8)]
        importing.end()
        results = {id(one.result(30)) for one in asked}
    assert results == {id(future.result())}
    assert isinstance(future.result(), anthropic.types.Message)
    assert future.exception() is None


def test_a_time_out_counts_the_import(throttler, importing):
    """As it counts the wait for the answer; the result comes later all the same."""
    future = answered(throttler)
    for look in (future.result, future.exception):
        for seconds in (0, 0.05):
            with pytest.raises(concurrent.futures.TimeoutError):
                look(seconds)
    importing.end()
    assert isinstance(future.result(30), anthropic.types.Message)


def test_ctrl_c_ends_the_wait_and_no_more(throttler, importing):
    """The result can be asked for again."""
    future = answered(throttler)
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result()
    timer.join()
    importing.end()
    assert isinstance(future.result(), anthropic.types.Message)


def test_as_completed_and_map_give_typed_results(throttler, importing):
    """Futures count as done at once; the import is waited for where a result is asked for."""
    futures = [throttler.submit(**{**ask(str(n)), "raw": False}) for n in range(5)]
    assert set(as_completed(futures, timeout=30)) == set(futures)
    importing.end()
    requests = [{**ask(str(number)), "raw": False} for number in range(3)]
    texts = [message.content[0].text for message in throttler.map(requests)]
    assert texts == ["echo: 0", "echo: 1", "echo: 2"]


def test_an_answer_that_the_sdk_cannot_read(throttler, importing, monkeypatch):
    """exception() and result() say the same, and it is what a call gets once all is loaded."""
    future = answered(throttler)

    def fail(*_):
        raise AttributeError("odd")

    monkeypatch.setattr(sdk, "build_message", fail)
    importing.end()
    error = future.exception()
    assert isinstance(error, anthropic.APIConnectionError)
    assert str(error) == "AttributeError after 1 attempt: AttributeError: odd"
    with pytest.raises(anthropic.APIConnectionError) as caught:
        future.result()
    assert caught.value is error
    late = answered(throttler).exception()
    assert (type(late), str(late)) == (type(error), str(error))


def test_an_sdk_that_cannot_be_imported(throttler, importing):
    """Its ImportError is what the call ended with: the same each time, in every thread."""
    future = answered(throttler)
    importing.end(ImportError("no pydantic here"))
    error = future.exception()
    assert isinstance(error, ImportError)
    assert future.exception() is error
    with pytest.raises(ImportError, match="no pydantic here"):
        future.result()


class Panic(BaseException):
    """As pydantic's Rust code raises it."""


FAILURES = [TimeoutError("a network drive"), Panic("panicked"), SystemExit(3)]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_an_import_may_fail_in_any_way(throttler, importing, failure):
    """Callbacks are called all the same: an event loop may wait for one."""
    future, called = throttler.submit(**{**ask(), "raw": False}), threading.Event()
    future.add_done_callback(lambda _: called.set())
    wait([future], timeout=30)
    importing.end(failure)
    assert future.exception() is failure
    assert called.wait(30)


# -- callbacks and event loops ---------------------------------------------------------------------


def test_a_callback_finds_the_result_made(throttler, importing):
    """Called once, with a result that is there."""
    found = []
    future = throttler.submit(**{**ask(), "raw": False})
    future.add_done_callback(lambda done: found.append(done.result(0)))
    wait([future], timeout=30)
    assert slots_in_use(throttler) == 0
    assert found == []
    importing.end()
    wait_until(lambda: found)
    assert found == [future.result()]


def test_an_event_loop_goes_on(throttler, importing):
    """Its futures are copies: they are made when the result is."""

    async def program():
        future = throttler.submit(**{**ask(), "raw": False})
        copy = asyncio.wrap_future(future)
        while not future.done():
            await asyncio.sleep(0.01)
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not copy.done()
        importing.end()
        assert await copy is future.result()

    asyncio.run(program())


def test_a_future_says_what_it_is():
    """Of the class that futures have, whatever is in it."""
    future = CallFuture(None)
    future.set_result(LateResult(lambda timeout: timeout))
    assert "finished returned" in repr(future)
    assert future.result() is None


# -- refusals --------------------------------------------------------------------------------------


def test_a_refused_call_holds_neither_permit_nor_thread(throttler, importing, events):
    """Its exception is of a class of the SDK's: it is done when that is there."""
    throttler.server.script(*[Reply(400, {}, "invalid_request_error")] * 50)
    futures = [throttler.submit(**{**ask(), "raw": False}) for _ in range(50)]
    wait_until(lambda: len(throttler.server.arrivals) == 50)
    wait_until(lambda: slots_in_use(throttler) == 0)
    assert not any(future.done() for future in futures)
    assert sum(thread.name == SENDER for thread in threading.enumerate()) <= 9
    importing.end()
    # Not their very type: for older SDKs it is a subclass that can be pickled.
    errors = [future.exception(30) for future in futures]
    assert all(isinstance(error, anthropic.BadRequestError) for error in errors)
    failed = [event for event in events if isinstance(event, CallFailed)]
    assert {event.error for event in failed} == {"BadRequestError"}
    assert len(failed) == 50


@pytest.mark.parametrize(("status", "may_be_billed"), [(529, False), (400, False), (500, True)])
def test_a_deadline_during_the_import_says_whether_the_refused_call_may_be_billed(
    throttler, status, may_be_billed
):
    throttler.server.script(Reply(status))
    future = throttler.submit(**{**ask(), "raw": False, "timeout": 0.3})
    error = future.exception(30)
    assert isinstance(error, DeadlineExceeded)
    assert error.sent is may_be_billed


def test_a_refused_raw_call_begins_the_import(throttler, importing):
    """Nobody else would."""
    throttler.server.script(Reply(404, {}, "not_found_error"))
    future = throttler.submit(**{**ask(), "raw": True})
    wait_until(lambda: sdk._importer is not None)
    importing.end()
    assert isinstance(future.exception(30), anthropic.NotFoundError)


@pytest.mark.parametrize("failure", [ImportError("no pydantic here"), *FAILURES], ids=repr)
def test_a_refusal_without_an_sdk(throttler, importing, failure):
    """Why it cannot be told."""
    throttler.server.script(Reply(400, {}, "invalid_request_error"))
    future = throttler.submit(**{**ask(), "raw": False})
    wait_until(lambda: throttler.server.arrivals)
    importing.end(failure)
    assert future.exception(30) is failure


def test_close_ends_what_waits_for_the_import(importing):
    """In a while, with Closed: the import may take as long as it likes."""
    with FakeClaude() as server:
        server.script(Reply(400, {}, "invalid_request_error"), Ok())
        throttler = Throttler(api_key="k", base_url=server.url, rpm=1e6, burst=10)
        future = throttler.submit(**{**ask(), "raw": False})
        wait_until(lambda: server.arrivals and slots_in_use(throttler) == 0)
        throttler.close(timeout=0)
    assert isinstance(future.exception(0), Closed)


def test_drain_waits_for_the_exception(throttler, importing):
    """A call that is not done is not drained."""
    throttler.server.script(Reply(400, {}, "invalid_request_error"))
    future = throttler.submit(**{**ask(), "raw": False})
    assert throttler.drain(timeout=0.2) == 1
    importing.end()
    assert throttler.drain(timeout=30) == 0
    assert future.done()


# -- the import itself -----------------------------------------------------------------------------

PROGRAM = """
import os, sys, warnings
warnings.simplefilter("ignore")
from claude_throttle import Throttler
from claude_throttle.testing import FakeClaude
from claude_throttle.transport import sdk
with FakeClaude() as server:
    throttler = Throttler(api_key="k", base_url=server.url, rpm=1e6)
    future = throttler.submit(model="m", max_tokens=9, messages=[{"role": "user", "content": "a"}])
    while not future.done():
        pass
    pid = os.fork()
    if pid == 0:
        os._exit(0 if type(future.result()).__name__ == "Message" else 3)
    print(os.waitpid(pid, 0)[1], type(future.result()).__name__)
    throttler.close()
"""


@pytest.mark.thorough
def test_a_forked_child_can_ask_for_the_result():
    """A copy of the future is in the child; the fork waited for the import."""
    assert run_alone(PROGRAM) == ["0", "Message"]


def test_the_import_lets_others_run():
    """Only the thread that imports pauses, and only for that."""
    code = (
        "import sys, threading; from claude_throttle.transport import sdk\n"
        "seen = []\n"
        "class Taken:\n"
        "    def acquire(self, timeout): seen.append(threading.current_thread().name)\n"
        "sdk._pauses._taken = Taken()\n"
        "sdk.begin_import(); import wave; sdk.load(); import ftplib\n"
        "print(set(seen) == {'claude-throttle-import'}, len(seen) > 100, sdk._pauses.thread_id)"
    )
    assert run_alone(code) == ["True", "True", "None"]


def test_greenlets_do_not_run_while_modules_are_half_made(monkeypatch):
    """They share one thread, which an import's locks take for one and the same importer."""
    monkeypatch.setattr(threading, "local", type("local", (), {"__module__": "gevent.local"}))
    with sdk._yielding():
        assert sdk._pauses.thread_id is None


def test_what_waits_is_told_even_if_the_import_ends_meanwhile(importing):
    """Now, by this thread, if the importing one looks no more."""
    told = []
    sdk.after_import(lambda: told.append("early"))
    assert told == []
    importing.end()
    wait_until(lambda: told)
    sdk.after_import(lambda: told.append("late"))
    assert told == ["early", "late"]

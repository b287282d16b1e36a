"""The fixtures as a strict project uses them."""

from __future__ import annotations

pytest_plugins = ["pytester"]

HEAD = """
import os, threading
import pytest
from claude_throttle.testing import Ok, Reset, Stall

ASK = {"model": "claude-haiku-4-5", "max_tokens": 50}

def ask(text="hi", **more):
    return {**ASK, "messages": [{"role": "user", "content": text}], **more}

def text_of(message):
    return message["content"][0]["text"]
"""


def run(project, tests, *options):
    project.makepyfile(HEAD + tests)
    return project.runpytest_inprocess(*options)


def test_answers_and_what_was_asked(project, monkeypatch):
    """Scripted, refused, slow, echoed; through our own throttler and through the SDK."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-developers-own")
    monkeypatch.setenv("CLAUDE_THROTTLE_SHARED", "redis://production")
    done = run(
        project,
        """
import anthropic
from claude_throttle import Throttler

def test_answers_come_in_order_then_echoes(claude_api, claude_throttler):
    claude_api.answer("one", "two")
    got = [text_of(claude_throttler.call(**ask(t, raw=True))) for t in "abc"]
    assert got == ["one", "two", "echo: c"]
    assert claude_api.prompts == ["a", "b", "c"]
    assert claude_api.asked[0] == ask("a")

def test_a_throttler_made_by_the_code_under_test(claude_api):
    claude_api.refuse(529)
    claude_api.answer("there", usage={"output_tokens": 7})
    with Throttler() as throttler:
        message = throttler.call(**ask())
    assert (message.content[0].text, message.usage.output_tokens) == ("there", 7)
    assert [arrival.status for arrival in claude_api.arrivals] == [529, 200]
    assert len(claude_api.asked) == 2

def test_the_official_sdk(claude_api):
    claude_api.answer("from the fake", blocks=[
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}])
    with anthropic.Anthropic(max_retries=0) as client:
        message = client.messages.create(**ask("sdk"))
        assert [block.type for block in message.content] == ["text", "tool_use"]
        claude_api.refuse(429, retry_after=2)
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**ask("again"))
    assert caught.value.response.headers["retry-after"] == "2"
    assert claude_api.prompts == ["sdk", "again"]

def test_a_test_that_undoes_its_changes_stays_here(claude_api, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://api.example")
    monkeypatch.undo()
    assert os.environ["ANTHROPIC_BASE_URL"] == claude_api.url

@pytest.mark.claude_api(latency=0.05, api_keys=["mine"])
@pytest.mark.claude_throttler(api_key="mine", max_retries=0)
def test_markers_tell_both(claude_api, claude_throttler):
    claude_throttler.call(**ask(raw=True))
    assert claude_throttler.stats().latency_seconds.p50 >= 0.05
    claude_api.latency = 0.0
    assert claude_throttler.settings.max_retries == 0

def test_afterwards_the_environment_is_as_before():
    assert os.environ["ANTHROPIC_API_KEY"] == "the-developers-own"
    assert "ANTHROPIC_BASE_URL" not in os.environ
    assert os.environ["CLAUDE_THROTTLE_SHARED"] == "redis://production"
""",
    )
    done.assert_outcomes(passed=6)


def test_a_testcase_of_unittest_can_use_it(project):
    """As Django's are: by the environment alone."""
    done = run(
        project,
        """
import unittest
from claude_throttle import Throttler

@pytest.mark.usefixtures("claude_api")
class TestCalls(unittest.TestCase):
    def test_call(self):
        with Throttler() as throttler:
            assert text_of(throttler.call(**ask(raw=True))) == "echo: hi"
""",
    )
    done.assert_outcomes(passed=1)


def test_nothing_of_the_machines_own_settings_counts(project, monkeypatch):
    """Neither a proxy, nor a token, nor the production's store."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the-developers-own")
    monkeypatch.setenv("CLAUDE_THROTTLE_SHARED", "redis://127.0.0.1:9/0")
    done = run(
        project,
        """
import anthropic
from claude_throttle import Throttler

def test_neither_here_nor_there(claude_api, claude_throttler):
    with Throttler() as mine:
        assert mine.settings.shared is None
        for throttler in (mine, claude_throttler):
            throttler.call(**ask(raw=True))
    with anthropic.Anthropic(max_retries=0) as client:
        client.messages.create(**ask())
    assert "authorization" not in claude_api.arrivals[-1].headers
    assert {arrival.key_tail for arrival in claude_api.arrivals} == {"ture"}
""",
    )
    done.assert_outcomes(passed=1)


def test_time_by_hand(project):
    """The throttler and the API keep one clock; what waits at the end is seen to its end."""
    done = run(
        project,
        """
@pytest.mark.claude_api(rpm=60, burst=1)
@pytest.mark.claude_throttler(rpm=60, clock="manual")
class TestByHand:
    def test_a_minute_takes_no_time(self, claude_api, claude_throttler, claude_clock):
        futures = [claude_throttler.submit(**ask(t, raw=True)) for t in "ab"]
        futures[0].result(10)
        claude_clock.wait_for_sleepers(1)
        assert not futures[1].done()
        claude_clock.advance(1.0)
        futures[1].result(10)
        assert [a.status for a in claude_api.arrivals] == [200, 200]

    @pytest.mark.claude_throttler(rpm=6)
    def test_calls_that_nobody_waits_for(self, claude_throttler):
        for text in "abcdef":
            claude_throttler.submit(**ask(text, raw=True))

    def test_a_retry_after(self, claude_api, claude_throttler, claude_clock):
        claude_api.refuse(429, retry_after=30)
        future = claude_throttler.submit(**ask(raw=True))
        assert claude_clock.advance_until_done(future) >= 30
        assert text_of(future.result()) == "echo: hi"

def test_no_clock_without_the_marker(claude_clock):
    raise AssertionError("not reached")
""",
    )
    done.assert_outcomes(passed=3, errors=1)
    done.stdout.fnmatch_lines(['*mark the test claude_throttler(clock="manual")*'])


def test_an_unanswered_call_fails_the_test(project):
    """However it is held up; and it does not hold up the end of the run."""
    done = run(
        project,
        """
import claude_throttle, pytest_claude_throttle
pytest_claude_throttle.PATIENCE_SECONDS = 0.3

#: Threads of the tests around these, which share their process.
BEFORE = set(threading.enumerate())

def test_stalled(claude_api, claude_throttler):
    claude_api.script(Stall())
    claude_throttler.submit(**ask(raw=True))

@pytest.mark.claude_throttler(clock="manual")
def test_stalled_by_hand(claude_api, claude_throttler):
    claude_api.script(Stall())
    claude_throttler.submit(**ask(raw=True))

@pytest.mark.claude_throttler(unanswered="cancel")
def test_meant(claude_api, claude_throttler):
    claude_api.script(Stall())
    claude_throttler.submit(**ask(raw=True))

def test_cancelled_and_closed(claude_throttler):
    claude_throttler.pause()
    assert claude_throttler.submit(**ask(raw=True)).cancel()
    claude_throttler.close()

def test_paused_calls_are_let_go(claude_throttler):
    claude_throttler.pause()
    claude_throttler.submit(**ask(raw=True))

def test_no_thread_is_left():
    others = [t for t in threading.enumerate() if t not in BEFORE]
    for thread in others:
        thread.join(10)
    assert [thread.name for thread in others if thread.is_alive()] == []
""",
        "-n0",
    )
    done.assert_outcomes(passed=6, errors=2)
    done.stdout.fnmatch_lines(
        ["claude_throttler: 1 of the test's calls had no answer 0.3 s after*"]
    )


def test_slips_in_markers_are_told(project):
    """In the user's words, and before the test runs."""
    done = run(
        project,
        """
@pytest.mark.claude_throttler(rmp=50)
def test_setting(claude_throttler): pass

@pytest.mark.claude_throttler(50)
def test_positional(claude_throttler): pass

@pytest.mark.claude_throttler(clock="sundial")
def test_clock(claude_throttler): pass

@pytest.mark.claude_throttler(unanswered="ignore")
def test_unanswered(claude_throttler): pass

@pytest.mark.claude_api(rmp=50)
def test_option(claude_api): pass
""",
    )
    done.assert_outcomes(errors=5)
    done.stdout.fnmatch_lines(
        [
            "*rmp= is not a setting; did you mean rpm=?*",
            "*the marker claude_throttler takes keywords only*",
            '*claude_throttler(clock=*) must be "real" or "manual", not \'sundial\'*',
            '*claude_throttler(unanswered=*) must be "fail" or "cancel", not \'ignore\'*',
            "*unexpected keyword argument 'rmp'*",
        ]
    )

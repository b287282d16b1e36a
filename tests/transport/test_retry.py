"""PacedRetry, asked as urllib3 asks it, with a hand-made call behind it."""

from __future__ import annotations

import io
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected

import pytest
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    ResponseError,
    SSLError,
)

from claude_throttle.flow.attempts import Stopped
from claude_throttle.transport.retry import Exchange, PacedRetry, RetryRules, verdict_on_error

RULES = RetryRules(max_retries=2, read_timeouts=False, resets=True)


class ScriptedAttempts:
    """Says what the test wrote, and writes down what it is asked."""

    def __init__(self, number=1, stopped=False, seconds_left=None, paused_for=None):
        self.number = number
        self.stopped = stopped
        self.seconds_left = seconds_left
        self.paused_for = paused_for
        self.pauses = []
        self.turns = []

    def has_time_for(self, seconds):
        return self.seconds_left is None or seconds < self.seconds_left

    def pause_lane(self, status, seconds):
        self.pauses.append((status, seconds))
        return seconds if self.paused_for is None else self.paused_for

    def again(self, **turn):
        self.turns.append(turn)


class StillClock:
    """At noon, 2026-11-21."""

    def wall(self):
        return 1795262400.0


def response(status, body=b"{}", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.HTTPResponse(
        body=io.BytesIO(body), status=status, headers=fields, preload_content=False
    )


def retry(attempts=None, rules=RULES):
    return PacedRetry.of(Exchange(attempts or ScriptedAttempts(), rules, StillClock()))


def refuse(asked, status, **headers):
    return asked.increment("POST", "/v1/messages", response=response(status, **headers))


def lose(asked, error):
    return asked.increment("POST", "/v1/messages", error=error)


def test_every_refusal_is_asked_about():
    """429 with or without retry-after, for POST; a redirect or a success is none."""
    asked = retry()
    assert [s for s in range(100, 600) if asked.is_retry("POST", s)] == [*range(400, 600)]
    assert asked.is_retry("POST", 429, has_retry_after=True)


def test_one_attempt_less_with_each():
    """Two re-sends, then the refusal itself; what carries the call is handed on."""
    first = retry()
    second = refuse(first, 500)
    third = refuse(second, 503)
    assert [type(r) for r in (second, third)] == [PacedRetry, PacedRetry]
    assert [r.total for r in (first, second, third)] == [2, 1, 0]
    assert first.exchange is second.exchange is third.exchange
    for spent in (third, retry(rules=RULES._replace(max_retries=0))):
        with pytest.raises(MaxRetryError, match="server error"):
            refuse(spent, 500)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 418, 422, 501])
def test_a_final_refusal_is_final(status):
    """Even with a retry-after, which urllib3 itself would obey for a 413."""
    with pytest.raises(MaxRetryError) as caught:
        refuse(retry(), status, retry_after="1")
    assert isinstance(caught.value.reason, ResponseError)


def test_the_refusal_is_kept_for_the_error():
    """Reading the body empties the response; whoever builds the error finds it here."""
    asked = retry()
    asked.increment(response=response(529, b'{"error": 1}'))
    exchange = asked.exchange
    assert (exchange.status, exchange.refusal, exchange.error) == (529, b'{"error": 1}', None)
    assert exchange.verdict.reason == "overloaded"


def test_half_a_refusal_is_a_refusal():
    """Its status and headers are enough to decide."""
    asked = retry()
    garbage = response(500, b"not gzip", content_encoding="gzip")
    assert asked.increment(response=garbage).total == 1
    assert asked.exchange.refusal == b""


def test_a_stopped_call_is_not_sent_again():
    """Closed, or its time is up: whatever came back."""
    attempts = ScriptedAttempts(stopped=True)
    with pytest.raises(Stopped):
        refuse(retry(attempts), 500)
    with pytest.raises(Stopped):
        lose(retry(attempts), ProtocolError("x", ConnectionResetError()))
    assert attempts.pauses == []


# -- how long --------------------------------------------------------------------------------------


def waits(attempts, status, **headers):
    return refuse(retry(attempts), status, **headers).exchange.wait_seconds


@pytest.mark.parametrize("status", [429, 529])
def test_a_pause_of_the_lane_is_the_servers_word(status):
    """The lane adds its jitter, once per pause; this call waits as long as the lane does."""
    attempts = ScriptedAttempts(paused_for=21.5)
    assert waits(attempts, status, retry_after="20") == 20.0
    assert attempts.pauses == [(status, 20.0)]


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504])
def test_any_other_refusal_is_its_calls_own(status):
    """Not below the server's word, with jitter on top; the lane goes on."""
    attempts = ScriptedAttempts()
    assert 20.0 < waits(attempts, status, retry_after="20") <= 20.1
    assert attempts.pauses == []


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8])
def test_without_a_word_the_backoff_grows(number):
    """By the number of the attempt that failed."""
    ceiling = min(8.0, 0.5 * 2 ** (number - 1))
    assert ceiling / 2 <= waits(ScriptedAttempts(number), 529) <= ceiling


def test_a_retry_after_of_zero_is_no_word():
    """At once would be a storm: the backoff, and it still pauses the lane."""
    attempts = ScriptedAttempts()
    assert 0.25 <= waits(attempts, 429, retry_after="0") <= 0.5
    assert [status for status, _ in attempts.pauses] == [429]


def test_a_date_is_read_by_the_wall_clock():
    """Ten seconds past noon."""
    attempts = ScriptedAttempts()
    assert waits(attempts, 429, retry_after="Sat, 21 Nov 2026 12:00:10 GMT") == 10.0


def test_a_wait_beyond_the_deadline_fails_at_once():
    """With the server's own error; and yet the others must not run into the same wall."""
    attempts = ScriptedAttempts(seconds_left=5.0)
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts), 429, retry_after="20")
    assert attempts.pauses == [(429, 20.0)]


def test_it_is_the_lanes_pause_that_has_to_end_in_time():
    """A shorter word within a longer pause does not help."""
    attempts = ScriptedAttempts(seconds_left=30.0, paused_for=31.0)
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts), 429, retry_after="20")


def test_even_the_last_attempts_refusal_pauses_the_lane():
    """This call goes no further; the others are spared."""
    attempts = ScriptedAttempts()
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts, RULES._replace(max_retries=0)), 429, retry_after="20")
    assert attempts.pauses == [(429, 20.0)]


# -- another turn ----------------------------------------------------------------------------------


def test_the_wait_is_the_lanes_affair():
    """urllib3 sleeps by asking for another turn, with all that is known."""
    attempts = ScriptedAttempts()
    refuse(retry(attempts), 529, retry_after="3").sleep(response(529))
    assert attempts.turns == [
        {
            "status": 529,
            "reason": "overloaded",
            "wait_seconds": 3.0,
            "lane_is_paused": True,
            "keep_tokens": False,
        }
    ]


def test_after_a_lost_connection_it_asks_likewise():
    """Without a status; the tokens may have been counted."""
    attempts = ScriptedAttempts()
    error = ProtocolError("Connection aborted.", RemoteDisconnected("x"))
    lose(retry(attempts), error).sleep()
    turn = attempts.turns[0]
    assert (turn["status"], turn["reason"]) == (None, "connection lost")
    assert (turn["lane_is_paused"], turn["keep_tokens"]) == (False, True)
    assert 0.25 <= turn["wait_seconds"] <= 0.5


def test_without_a_decision_there_is_no_wait():
    """urllib3 may ask to sleep without having asked to increment."""
    attempts = ScriptedAttempts()
    retry(attempts).sleep()
    assert attempts.turns == []


# -- no answer -------------------------------------------------------------------------------------

NO_CONNECTION = [
    NewConnectionError(None, "refused"),
    ConnectTimeoutError("slow"),
    ProxyError("proxy", NewConnectionError(None, "refused")),
    ProxyError("proxy", ConnectTimeoutError("slow")),
]
LOST = [
    ProtocolError("Connection aborted.", RemoteDisconnected("closed")),
    ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")),
    ProtocolError("Connection aborted.", BrokenPipeError(32, "pipe")),
]
FINAL = [
    SSLError("bad certificate"),
    ProxyError("proxy", SSLError("bad certificate")),
    ProxyError("proxy says no", OSError("407")),
    ProtocolError("Connection broken", IncompleteRead(b"half")),
    ProtocolError("Connection aborted.", BadStatusLine("garbage")),
    ProtocolError("no cause"),
    ProtocolError(),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", NO_CONNECTION, ids=repr)
def test_without_a_connection_nothing_was_sent(error):
    """Sent again whatever the rules for resets; its tokens come back."""
    verdict = verdict_on_error(error, RULES._replace(resets=False))
    assert (verdict.retry, verdict.reason) == (True, "no connection")
    assert not verdict.keeps_tokens


@pytest.mark.parametrize("error", LOST, ids=repr)
@pytest.mark.parametrize("resets", [True, False])
def test_a_connection_lost_before_any_answer(error, resets):
    """Sent again as the SDK does, unless retry_resets=False; the server may have counted it."""
    verdict = verdict_on_error(error, RULES._replace(resets=resets))
    assert (verdict.retry, verdict.reason) == (resets, "connection lost")
    assert verdict.keeps_tokens


@pytest.mark.parametrize("allowed", [True, False])
def test_a_read_timeout_only_if_the_caller_allowed_it(allowed):
    """The server may be working on it: it could be billed twice."""
    error = ReadTimeoutError(None, "/", "slow")
    verdict = verdict_on_error(error, RULES._replace(read_timeouts=allowed))
    assert (verdict.retry, verdict.reason, verdict.keeps_tokens) == (allowed, "read timeout", True)


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_everything_else_is_final(error):
    """Garbage is an answer, half an answer is one, a bad certificate does not mend itself."""
    assert not verdict_on_error(error, RULES._replace(read_timeouts=True)).retry
    asked = retry()
    with pytest.raises(MaxRetryError) as caught:
        lose(asked, error)
    assert caught.value.reason is asked.exchange.error is error


def test_an_answer_makes_an_earlier_loss_forgotten():
    """The error that is raised is the last one."""
    asked = retry()
    asked = lose(asked, NewConnectionError(None, "refused"))
    assert asked.exchange.status is None
    asked = refuse(asked, 500)
    assert (asked.exchange.error, asked.exchange.status) == (None, 500)

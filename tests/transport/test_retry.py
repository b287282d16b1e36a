"""PacedRetry, asked as urllib3 asks it, with a hand-made call behind it."""

from __future__ import annotations

from http.client import RemoteDisconnected

import pytest
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ResponseError

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.core.domain.feedback import ACCOUNT, CONCURRENCY, FAULT, RATE, RetryDelay
from claude_throttle.transport.retry import PacedRetry
from tests.support.scripted_attempts import RULES, ScriptedAttempts, lose, refuse, response, retry


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
    with pytest.raises(AttemptStopped):
        refuse(retry(attempts), 500)
    with pytest.raises(AttemptStopped):
        lose(retry(attempts), ProtocolError("x", ConnectionResetError()))
    assert attempts.feedback == []


def test_the_lane_hears_of_every_refusal():
    """Also of a final one, and of the last: the others must not run into the same wall."""
    attempts = ScriptedAttempts()
    asked = refuse(retry(attempts), 429, retry_after="7")
    asked = lose(asked, NewConnectionError(None, "refused"))
    with pytest.raises(MaxRetryError):
        refuse(asked, 401, request_id="req_1")
    told = [(feedback.cause, feedback.status, feedback.final) for feedback, _ in attempts.feedback]
    assert told == [(RATE, 429, False), (FAULT, None, False), (ACCOUNT, 401, True)]


# -- how long --------------------------------------------------------------------------------------


def waits(attempts, status, body=b"{}", **headers):
    """Seconds the call would wait if it were alone."""
    retry(attempts).increment(response=response(status, body, **headers))
    return attempts.feedback[-1][1]


@pytest.mark.parametrize("status", [429, 529])
@pytest.mark.parametrize("wish", [{}, {"x_should_retry": "true"}])
def test_a_pause_of_the_lane_is_the_servers_word(status, wish):
    """The lane adds its jitter, once per pause; this call waits as long as the lane does."""
    pause = RetryDelay(21.5, alone=False)
    attempts = ScriptedAttempts(delays=[pause])
    assert waits(attempts, status, retry_after="20", **wish) == 20.0
    asked = retry(ScriptedAttempts(delays=[pause]))
    assert refuse(asked, status, retry_after="20").exchange.delay is pause


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504])
def test_any_other_refusal_is_its_calls_own(status):
    """Not below the server's word, with jitter on top."""
    assert 20.0 < waits(ScriptedAttempts(), status, retry_after="20") <= 20.1


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("status", [500, 529])
def test_without_a_word_the_backoff_grows(number, status):
    """By the number of the attempt that failed."""
    ceiling = min(8.0, 0.5 * 2 ** (number - 1))
    assert ceiling / 2 <= waits(ScriptedAttempts(number), status) <= ceiling


CROWDED = b'{"error": {"message": "Number of concurrent connections has exceeded your rate limit"}}'


@pytest.mark.parametrize("number", [1, 4])
def test_too_many_connections_delays_one_call_shortly(number):
    """Somebody else's answer makes room at any time, however often it was refused."""
    attempts = ScriptedAttempts(number)
    assert 0.125 <= waits(attempts, 429, CROWDED, x_should_retry="true") <= 0.25
    assert attempts.feedback[0][0].cause == CONCURRENCY
    assert 2.0 < waits(attempts, 429, CROWDED, retry_after="2") <= 2.1


def test_a_retry_after_of_zero_is_no_word():
    """At once would be a storm: the backoff."""
    assert 0.25 <= waits(ScriptedAttempts(), 429, retry_after="0") <= 0.5


def test_a_date_is_read_by_the_wall_clock():
    """Ten seconds past noon."""
    attempts = ScriptedAttempts()
    assert waits(attempts, 429, retry_after="Sat, 21 Nov 2026 12:00:10 GMT") == 10.0
    assert attempts.feedback[0][0].retry_after == 10.0


def test_a_wait_beyond_the_deadline_fails_at_once():
    """With the server's own error; and yet the others must not run into the same wall."""
    attempts = ScriptedAttempts(seconds_left=5.0)
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts), 429, retry_after="20")
    ((feedback, seconds),) = attempts.feedback
    assert (feedback.cause, feedback.status, seconds) == (RATE, 429, 20.0)


def test_it_is_the_lanes_word_that_has_to_end_in_time():
    """A shorter one within a longer pause does not help."""
    attempts = ScriptedAttempts(seconds_left=30.0, delays=[RetryDelay(31.0, alone=False)])
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts), 429, retry_after="20")


def test_an_empty_retry_budget_fails_nobody():
    """Its delay is cut to half of the time that is left, but never below the server's word."""
    asked = retry(ScriptedAttempts(seconds_left=30.0, delays=[RetryDelay(31.0, alone=True)]))
    refuse(asked, 500)
    assert asked.exchange.delay.seconds == 15.0
    asked = retry(ScriptedAttempts(seconds_left=30.0, delays=[RetryDelay(31.0, alone=True)]))
    refuse(asked, 500, retry_after="20")
    assert 20.0 <= asked.exchange.delay.seconds < 21.0


def test_even_the_last_attempts_refusal_pauses_the_lane():
    """This call goes no further; the others are spared."""
    attempts = ScriptedAttempts()
    with pytest.raises(MaxRetryError):
        refuse(retry(attempts, RULES._replace(max_retries=0)), 429, retry_after="20")
    assert [(feedback.cause, seconds) for feedback, seconds in attempts.feedback] == [(RATE, 20.0)]


# -- an open circuit -------------------------------------------------------------------------------

FREE = RetryDelay(5.0, alone=False, free=True)


def test_an_open_circuit_uses_up_no_retries():
    """However long the outage: what counts is what failed while it was closed."""
    asked = retry(ScriptedAttempts(delays=[FREE] * 50))
    for _ in range(50):
        asked = refuse(asked, 529)
    assert asked.total == RULES.max_retries
    asked = refuse(refuse(asked, 529), 529)
    with pytest.raises(MaxRetryError, match="overloaded"):
        refuse(asked, 529)


def test_a_lost_connection_in_an_outage_is_free_too():
    """The server may be gone altogether."""
    asked = retry(ScriptedAttempts(delays=[FREE]))
    assert lose(asked, NewConnectionError(None, "refused")).total == RULES.max_retries


def test_an_open_circuit_gives_no_retry_to_who_wants_none():
    """max_retries=0 is a promise."""
    asked = retry(ScriptedAttempts(delays=[FREE]), RULES._replace(max_retries=0))
    with pytest.raises(MaxRetryError):
        refuse(asked, 529)


def test_an_open_circuit_makes_nothing_final_free():
    """A bad request stays one."""
    with pytest.raises(MaxRetryError):
        refuse(retry(ScriptedAttempts(delays=[FREE])), 400)


def test_a_deadline_goes_before_an_open_circuit():
    """The next probe would come too late."""
    with pytest.raises(MaxRetryError):
        refuse(retry(ScriptedAttempts(seconds_left=4.0, delays=[FREE])), 529)


# -- another turn ----------------------------------------------------------------------------------


def test_the_wait_is_the_lanes_affair():
    """urllib3 sleeps by asking for another turn, with all that is known."""
    delay = RetryDelay(3.3, alone=False)
    attempts = ScriptedAttempts(delays=[delay])
    refuse(retry(attempts), 529, retry_after="3").sleep(response(529))
    turn = {"status": 529, "reason": "overloaded", "delay": delay, "keep_tokens": False}
    assert attempts.turns == [turn]


def test_after_a_lost_connection_it_asks_likewise():
    """Without a status; the tokens may have been counted."""
    attempts = ScriptedAttempts()
    error = ProtocolError("Connection aborted.", RemoteDisconnected("x"))
    lose(retry(attempts), error).sleep()
    turn = attempts.turns[0]
    assert (turn["status"], turn["reason"]) == (None, "connection lost")
    assert (turn["delay"].alone, turn["keep_tokens"]) == (True, True)
    assert 0.25 <= turn["delay"].seconds <= 0.5


def test_without_a_decision_there_is_no_wait():
    """urllib3 may ask to sleep without having asked to increment."""
    attempts = ScriptedAttempts()
    retry(attempts).sleep()
    assert attempts.turns == []

"""The one loop that sends a request again: what it sends, gives back, and raises."""

from __future__ import annotations

from contextlib import suppress
from http.client import RemoteDisconnected

import pytest
import requests
from urllib3.exceptions import LocationValueError, ProtocolError, ReadTimeoutError

from claude_throttle.core.dispatch.call import AttemptStopped
from claude_throttle.transport.retry import PacedRetry, RetryExchange
from tests.support.scripted_attempts import RULES, ScriptedAttempts, StillClock, response

LOST = ProtocolError("Connection aborted.", RemoteDisconnected("closed"))


def answered(status, **headers):
    """As the adapter gives it."""
    made = requests.Response()
    made.status_code, made.raw = status, response(status, **headers)
    return made


def run(outcomes, attempts=None, rules=RULES):
    """What the loop gives back, and the outcomes it did not come to."""
    left = list(outcomes)

    def send_once():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    exchange = RetryExchange(attempts or ScriptedAttempts(), rules, StillClock())
    return exchange.send(send_once), left


@pytest.mark.parametrize("status", [200, 204, 307])
def test_what_is_no_refusal_is_given_back(status):
    """At once, and nobody is told."""
    attempts = ScriptedAttempts()
    got, _ = run([answered(status)], attempts)
    assert (got.status_code, attempts.feedback, attempts.turns) == (status, [], [])


def test_each_refusal_waits_for_another_turn():
    """Refused, lost, then answered."""
    attempts = ScriptedAttempts()
    got, left = run([answered(500), requests.ConnectionError(LOST), answered(200)], attempts)
    assert (got.status_code, left) == (200, [])
    assert [turn["reason"] for turn in attempts.turns] == ["server error", "connection lost"]


@pytest.mark.parametrize("last", [answered(200), ValueError("an answer that cannot be read")])
def test_an_earlier_loss_is_forgotten(last):
    """The call's error, and what the quotas are told, come from the last attempt."""
    outcomes = iter([requests.ConnectionError(LOST), last])

    def send_once():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    exchange = RetryExchange(ScriptedAttempts(), RULES, StillClock())
    with suppress(ValueError):
        exchange.send(send_once)
    assert next(outcomes, None) is exchange.error is None


def test_the_last_refusal_is_given_back():
    """Its body was read for the verdict: the connection is free again."""
    got, _ = run([answered(500), answered(500), answered(503)])
    assert got.status_code == 503
    assert got.raw.read() == b""


def test_the_last_error_is_raised_as_it_came():
    """Whoever sent it knows what to make of it."""
    lost = requests.ConnectionError(LOST)
    with pytest.raises(requests.ConnectionError) as caught:
        run([answered(500), lost, lost])
    assert caught.value is lost


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), LocationValueError("x"), requests.exceptions.InvalidURL("x"), OSError()],
)
def test_what_urllib3_would_not_ask_about_is_raised(error):
    """Nothing of it is the server's doing, so the pacer is not told."""
    attempts = ScriptedAttempts()
    with pytest.raises(type(error)):
        run([error], attempts)
    assert attempts.feedback == []


def test_a_stopped_request_ends_the_loop():
    """Whatever came back."""
    with pytest.raises(AttemptStopped):
        run([answered(500)], ScriptedAttempts(stopped=True))


def test_a_long_outage_needs_no_deep_stack():
    """urllib3 calls itself for each re-send; the loop does not."""
    attempts = ScriptedAttempts()
    refusals = [answered(500) for _ in range(3000)]
    got, _ = run([*refusals, answered(200)], attempts, RULES._replace(max_retries=3000))
    assert (got.status_code, len(attempts.turns)) == (200, 3000)


@pytest.mark.parametrize("status", [429, 529])
def test_what_took_nothing_is_sent_again_even_if_only_that_may_be(status):
    """As for the creation of a batch, which must not happen twice."""
    only = RULES._replace(only_untaken=True, read_timeouts=True)
    assert run([answered(status, retry_after="1"), answered(200)], rules=only)[0].status_code == 200


@pytest.mark.parametrize(
    "outcome", [408, 409, 500, 503, 504, LOST, ReadTimeoutError(None, "/", "slow")]
)
def test_what_may_have_been_done_is_not_sent_again_then(outcome):
    """A refusal is given back, an error raised."""
    only = RULES._replace(only_untaken=True, read_timeouts=True)
    if isinstance(outcome, int):
        assert run([answered(outcome), answered(200)], rules=only)[0].status_code == outcome
    else:
        with pytest.raises(type(outcome)):
            run([outcome, answered(200)], rules=only)


def test_the_adapters_own_sends_once():
    """It raises what broke, as it is, and takes every response for the last."""
    once = PacedRetry.once()
    assert not any(once.is_retry("POST", status) for status in range(100, 600))
    with pytest.raises(ProtocolError) as caught:
        once.increment("POST", "/", error=LOST)
    assert caught.value is LOST
    once.sleep()

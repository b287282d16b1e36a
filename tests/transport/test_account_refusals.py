"""What the API answers when the account is the problem, and what we say of it."""

from __future__ import annotations

import pickle
import traceback

import pytest
from requests.structures import CaseInsensitiveDict

from claude_throttle import AccountSuspended, testing
from claude_throttle.core.domain.feedback import ACCOUNT
from claude_throttle.testing.replies import SPEND_CAP, error_body, reply_body
from claude_throttle.transport.verdicts import LONGEST_MESSAGE, classify
from tests.support.played_server import ASK, KEY, URL, failure

WALL = 1795262400.0
PROMPT = "the-prompt-is-a-secret"

#: The name of a ready-made answer, the reason we give, the date it names.
KNOWN = [
    (SPEND_CAP, "spend limit", "2026-09-01 at 00:00 UTC"),
    (testing.OWN_SPEND_LIMIT, "spend limit", "2026-12-01 at 00:00 UTC"),
    (testing.WORKSPACE_SPEND_LIMIT, "spend limit", "2026-12-01 at 00:00 UTC"),
    (testing.CREDIT_TOO_LOW, "spend limit", None),
    (testing.CONTRACT_SPEND_LIMIT, "spend limit", None),
    (testing.LINKED_SPEND_LIMIT, "spend limit", None),
    (testing.ORGANIZATION_ON_HOLD, "spend limit", None),
    (testing.ORGANIZATION_DISABLED, "account disabled", None),
    (testing.CREDENTIAL_RESTRICTED, "key refused", None),
    (testing.BILLING_PROBLEM, "billing", None),
    (testing.KEY_REFUSED, "key refused", None),
    (testing.NOT_PERMITTED, "not permitted", None),
]


def feedback(reply):
    headers = CaseInsensitiveDict(reply.headers)
    return classify(reply.status, headers, reply_body(reply, "req_1"), WALL)


def account(status, message):
    return classify(status, {}, error_body("x", message, "req_1"), WALL).feedback.account


@pytest.mark.parametrize(("reply", "reason", "until"), KNOWN, ids=lambda value: str(value)[:40])
def test_every_known_answer_is_understood(reply, reason, until):
    """Final, with the server's own words and the date it gave, word for word."""
    said = feedback(reply)
    assert (said.retry, said.pauses_lane, said.feedback.cause) == (False, False, ACCOUNT)
    assert said.feedback.account == (reason, reply.message, until)


def test_the_ready_made_answers_are_all_here():
    """One that the fake learns to give must be understood, too."""
    ready = {repr(getattr(testing, name)) for name in testing.__all__ if name.isupper()}
    assert ready == {repr(reply) for reply, _, _ in KNOWN[1:]}


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("You will regain access on 2026-09-01 at 00:00 UTC.", "2026-09-01 at 00:00 UTC"),
        ("You will regain access on 2026-09-01.", "2026-09-01"),
        ("You will regain access on September 1.", None),
        ("on 12026-09-011", None),
        ("", None),
    ],
)
def test_the_date_is_the_servers_own(text, until):
    """Neither reckoned nor guessed."""
    assert account(402, text).until == until


def test_a_refusal_without_words_suspends_for_its_status():
    """By the API's headers it is known for the API's; a page never is."""
    headers = {"request-id": "req_1"}
    assert classify(403, headers, b"", WALL).feedback.account == ("not permitted", "", None)
    assert classify(403, headers, b"<html>no</html>", WALL).feedback.account is None


def test_a_long_message_is_cut():
    """It is repeated in every error that follows; a page does not belong there."""
    assert LONGEST_MESSAGE == 300
    assert account(401, "x" * 10_000).message == "x" * 300


@pytest.mark.parametrize(
    "message",
    [
        f"Incorrect API key provided: {KEY}. Find yours in the console.",
        f"Invalid token passed. Received API Key = {KEY}, Key Hash = 1",
        f"{KEY}{KEY}",
        f"'{KEY}'",
        "x" * 290 + " " + KEY,
        f"no such key\n{KEY}\n",
    ],
)
def test_a_key_that_a_gateway_quotes_is_taken_out(message):
    """Whole, also where the message is cut: half a key is a secret, too."""
    assert "secret" not in account(401, message).message
    assert "0123" not in account(401, message).message


@pytest.mark.parametrize("message", ["a task-force", "risk-free", "ask-me", "sk"])
def test_what_is_no_key_stays(message):
    """Words with a hyphen in them."""
    assert account(401, message).message == message


def ways_to_read(error):
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return [str(error), repr(error), repr(error.args), repr(vars(error)), trace]


@pytest.mark.parametrize("status", [401, 403])
def test_account_suspended_tells_no_secret(server, make, status):
    """Neither key nor prompt, in no way of looking at it, and not in its pickle."""
    body = error_body("authentication_error", f"unknown key {KEY}", "req_1")
    server.add("POST", URL, body=body, status=status)
    throttler = make()
    ask = {"messages": [{"role": "user", "content": PROMPT}]}
    assert failure(throttler, **ask).status_code == status
    with pytest.raises(AccountSuspended) as caught:
        throttler.submit(**{**ASK, **ask})
    error = caught.value
    assert "unknown key sk-…" in str(error)
    for text in (*ways_to_read(error), str(pickle.dumps(error))):
        assert KEY not in text
        assert PROMPT not in text


def test_account_suspended_pickles_with_all_it_knows(server, make):
    """Reason, date and time of the next probe, in another process."""
    server.add("POST", URL, body=reply_body(SPEND_CAP, "req_1"), status=429)
    throttler = make()
    failure(throttler)
    error = failure_to_submit(throttler)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (AccountSuspended, str(error))
    assert (again.reason, again.until) == ("spend limit", "2026-09-01 at 00:00 UTC")
    assert 0 < again.retry_after == error.retry_after <= 60.0
    assert "2026-09-01 at 00:00 UTC" in str(again)


def failure_to_submit(throttler):
    with pytest.raises(AccountSuspended) as caught:
        throttler.submit(**ASK)
    return caught.value

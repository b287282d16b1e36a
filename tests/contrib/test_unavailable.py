"""503: what is told to whoever asks, and to whoever runs it."""

from __future__ import annotations

import json
import logging
import math

import pytest

from claude_throttle import (
    AccountSuspended,
    CircuitOpen,
    DeadlineExceeded,
    QueueFull,
)
from claude_throttle.contrib.unavailable import REFUSALS, unavailable

SECRET = "your limit of $500 for acme-inc"
REFUSED = AccountSuspended(SECRET, reason="spend limit", retry_after=59.2)


@pytest.mark.parametrize(
    ("error", "kind", "seconds"),
    [
        (QueueFull("", retry_after=2.1), "queue_full", 3),
        (QueueFull("", retry_after=0.001), "queue_full", 1),
        (QueueFull("", retry_after=math.inf), "queue_full", 5),
        (CircuitOpen("", retry_after=8.0), "circuit_open", 8),
        (DeadlineExceeded(""), "deadline_exceeded", 5),
        (DeadlineExceeded("", retry_after=90_000), "deadline_exceeded", 3600),
        (REFUSED, "account_suspended", 60),
    ],
)
def test_each_refusal_says_when_to_ask_again(error, kind, seconds):
    """In whole seconds, since Retry-After has no others."""
    answer = unavailable(error)
    assert (answer.kind, answer.retry_after) == (kind, seconds)
    assert answer.headers == {"Retry-After": str(seconds), "Cache-Control": "no-store"}
    assert answer.passing is (kind != "account_suspended")
    assert json.loads(json.dumps(answer.json))["error"]["retry_after"] == seconds


def test_all_refusals_have_a_kind():
    """And a subclass has its parent's."""
    assert len({unavailable(refusal("")).kind for refusal in REFUSALS}) == len(REFUSALS)
    assert unavailable(type("Mine", (QueueFull,), {})("")).kind == "queue_full"


@pytest.mark.parametrize(("seconds", "words"), [(1, "a second"), (89, "89 seconds"), (91, "2 min")])
def test_people_are_told_in_words(seconds, words):
    """Nobody reads 5,400 seconds."""
    assert f"try again in {words}" in unavailable(QueueFull("", retry_after=seconds)).message


def test_what_the_account_is_stays_inside(caplog):
    """It is in the log, as an error: somebody has to do something."""
    with caplog.at_level(logging.INFO, "claude_throttle"):
        answer = unavailable(REFUSED)
        unavailable(QueueFull("12 waiting"))
    assert SECRET not in json.dumps(answer.json) + str(answer.headers)
    assert "trying again will not help" in answer.message
    account, passing = caplog.records
    assert (account.levelname, passing.levelname) == ("ERROR", "INFO")
    assert SECRET in account.getMessage()


def test_the_page_for_people():
    """Nothing is loaded from elsewhere."""
    page = unavailable(QueueFull("", retry_after=7)).html
    assert "try again in 7 seconds" in page
    assert "http" not in page
    assert "$" not in page

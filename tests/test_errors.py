"""Our own exceptions: grouped by what a caller can do, told in words, able to travel."""

from __future__ import annotations

import copy
import pickle

import pytest

import claude_throttle
from claude_throttle import errors
from claude_throttle.errors import (
    AccountSuspended,
    BrokenAnswer,
    CircuitOpen,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    InvalidCall,
    QueueFull,
    QuotaTooSmall,
    ThrottleError,
    UnknownSetting,
)

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, ThrottleError)
]

#: What each constructor takes besides its message.
MORE = {
    "AccountSuspended": {"reason": "spend limit", "until": "2026-12-01", "retry_after": 60.0},
    "Closed": {"sent": True},
    "DeadlineExceeded": {"sent": True, "retry_after": 2.5},
    "BrokenAnswer": {"status": 200, "request_id": "req_7"},
    "Unprocessed": {"reason": "expired"},
    "BatchIncomplete": {"ids": ("msgbatch_1",), "unsure": True},
}


def build(cls):
    return cls("all is lost", **MORE.get(cls.__name__, {"retry_after": 2.5}))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_a_pickle(cls, protocol):
    """Celery and multiprocessing send them; nothing of them is lost."""
    error = build(cls)
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is cls
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    assert back.retry_after == error.retry_after


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_can_be_copied(cls):
    """concurrent.futures and test tools do."""
    error = build(cls)
    assert vars(copy.copy(error)) == vars(copy.deepcopy(error)) == vars(error)
    assert str(copy.copy(error)) == "all is lost"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_says_what_to_do_about_it(cls):
    """A docstring each, and a name that can be imported from the package."""
    assert cls.__doc__
    assert getattr(claude_throttle, cls.__name__) is cls
    assert cls.__name__ in claude_throttle.__all__


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (ConfigurationError, ValueError),
        (UnknownSetting, TypeError),
        (UnknownSetting, ConfigurationError),
        (InvalidCall, ValueError),
        (DeadlineExceeded, TimeoutError),
    ],
)
def test_what_python_has_a_name_for_is_caught_by_it(cls, builtin):
    """Existing except clauses work."""
    with pytest.raises(builtin, match="all is lost"):
        raise build(cls)


@pytest.mark.parametrize(
    "cls", [QueueFull, Closed, QuotaTooSmall, BrokenAnswer, CircuitOpen, AccountSuspended]
)
def test_what_it_has_no_name_for_is_only_ours(cls):
    """No OSError: urllib3 and requests would dress it up as a lost connection."""
    assert not issubclass(cls, (OSError, ValueError, TypeError))


def test_retry_after_is_none_unless_somebody_knows_it():
    """None means: nobody knows when another try makes sense; 0 means now."""
    assert ThrottleError("x").retry_after is None
    assert QueueFull("x", retry_after=0.0).retry_after == 0.0
    assert Closed("x").retry_after is None


def test_sent_tells_whether_it_may_be_billed():
    """Not unless told so."""
    assert (Closed("x").sent, Closed("x", sent=True).sent) == (False, True)
    assert (DeadlineExceeded("x").sent, DeadlineExceeded("x", sent=True).sent) == (False, True)


def test_a_broken_answer_names_the_request():
    """For the support ticket."""
    error = BrokenAnswer("half", status=200, request_id="req_1")
    assert (error.status, error.request_id) == (200, "req_1")
    assert BrokenAnswer("half", status=200).request_id is None


def test_a_suspended_account_says_why_and_until_when():
    """And after a journey it says the same."""
    error = AccountSuspended("no", reason="billing", until="2026-12-01", retry_after=60.0)
    for told in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (told.reason, told.until, told.retry_after) == ("billing", "2026-12-01", 60.0)
    bare = AccountSuspended("no")
    assert (bare.reason, bare.until, bare.retry_after) == ("", None, None)


def test_an_open_circuit_says_when_the_next_probe_is():
    """So that a caller knows when another try makes sense."""
    assert CircuitOpen("no", retry_after=4.5).retry_after == 4.5
    assert CircuitOpen("no").retry_after is None

"""Refusals of a key or model that has just worked: they may pass, so they do not count at once.

A gateway that restarts, or a server that lags behind, refuses one request and takes the next. So
what worked a moment ago is tried again before anybody else is told that it is refused.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from claude_throttle.core.domain.feedback import AccountRefusal
from claude_throttle.transport.verdicts import NOT_PERMITTED

#: Seconds after an answer for which what was answered is taken to be in order.
MOMENT_SECONDS = 300.0

#: Sends that must be refused, too, before the first refusal counts; more for one call never help.
MOST_TRIES = 2

#: Tries of all calls together, after a 404 and without an answer in between.
MOST_TRIES_FOR_A_MODEL = 3

#: Reasons of refusals that may pass. A bill or a spend limit does not.
PASSING = frozenset({"key refused", NOT_PERMITTED})


class Doubt(NamedTuple):
    """A refusal that does not count yet."""

    #: Its instant.
    since: float
    #: Sends that left after it, and were refused, too; after a 404 those that were allowed.
    tries: int = 0


def may_pass(refusal: AccountRefusal, status: Optional[int]) -> bool:
    """Whether such a refusal of the account was seen to pass by itself."""
    return status in (401, 403) and refusal.reason in PASSING

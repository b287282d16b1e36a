"""Calls that the API refuses for the account's sake."""

from __future__ import annotations

from tests.support.calls import MODEL, ask
from tests.support.inside import lane_of
from tests.support.waiting import wait_until


def refuse_one(server, throttler, refusal, model=MODEL):
    """Let one call meet *refusal*; return its error."""
    server.script(refusal)
    error = throttler.submit(**ask("refused", model=model)).exception(10)
    lane = lane_of(throttler, model).name
    wait_until(lambda: throttler.limits()[lane].suspended)
    return error

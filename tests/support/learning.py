"""Throttlers that are told nothing, and what they have learned."""

from __future__ import annotations

from tests.support.calls import LANE, echo

LIMITS = {"rpm": 1200, "itpm": 100_000, "otpm": 50_000}


def nothing_told(throttle, server, **settings):
    """``Throttler()`` as a newcomer makes it."""
    return throttle(server, rpm=None, **settings)


def known(throttler, lane=LANE):
    """Kind -> what is known of that quota."""
    return {quota.kind: quota for quota in throttler.limits()[lane].quotas}


def answered(futures):
    """The texts that came back, or raises."""
    return [echo(future.result(30)) for future in futures]

"""Lanes for what has a quota of requests of its own, and costs no tokens."""

from __future__ import annotations

from typing import Optional

from claude_throttle.account.admission import BATCHES, COUNTS
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import AccountRefusal
from claude_throttle.core.domain.quota import AUTO, Quota
from claude_throttle.core.domain.tiers import batches_rpm, count_tokens_rpm
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool

_RPM = {COUNTS: count_tokens_rpm, BATCHES: batches_rpm}


def endpoint_lane(
    name: str,
    settings: Settings,
    thread_pool: ThreadPool,
    clock: Clock,
    at_once: Optional[int] = None,
) -> Lane:
    """A lane of that name, with *at_once* places in flight, or as many as it takes."""
    tier = settings.tier
    quotas = {} if tier is None else {"rpm": Quota(_RPM[name](tier))}
    return Lane(
        name,
        pacer=Pacer(quotas, AUTO, lane=name),
        limiter=ConcurrencyLimiter(at_once),
        thread_pool=thread_pool,
        price=_no_price,
        carry=_carry_nothing,
        observe=_tell_nobody,
        suspend=_suspend_nobody,
        max_queue=0,
        ageing=settings.ageing,
        clock=clock,
    )


def _no_price(call: Call) -> Cost:
    return call.cost


def _carry_nothing(call: Call) -> None:
    """What leaves here is no call."""


def _suspend_nobody(call: Call, refusal: AccountRefusal) -> None:
    """The calls themselves will find out."""


def _tell_nobody(event: Event, call: Optional[Call]) -> None:
    """Nor are there events of it."""

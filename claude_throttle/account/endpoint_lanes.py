"""Lanes for endpoints that have a quota of requests of their own, and use no tokens."""

from __future__ import annotations

from functools import partial
from typing import Optional

from claude_throttle.account.admission import BATCHES, COUNTS
from claude_throttle.account.model_groups import SharedQuotas
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Attempt, Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import Feedback
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
    shared: Optional[SharedQuotas] = None,
) -> Lane:
    """A lane of that name; *at_once* requests may be in flight, any number if None.

    *shared*: the coordinator, if the quota is shared with other processes.
    """
    tier = settings.tier
    quotas = {} if tier is None else {"rpm": Quota(_RPM[name](tier))}
    return Lane(
        name,
        pacer=(Pacer if shared is None else shared.make_pacer)(quotas, AUTO, lane=name),
        limiter=ConcurrencyLimiter(at_once),
        thread_pool=thread_pool,
        price=_same_cost,
        carry=_send_no_call,
        observe=_emit_nothing,
        weigh=_as_it_is,
        max_queue=0,
        ageing=settings.ageing,
        clock=clock,
        reserve=None if shared is None else partial(_reserve, shared),
    )


def _reserve(shared: SharedQuotas, lane: Lane, costs: list[Cost]) -> None:
    shared.ensure_thread()  # a program may do nothing else than this
    shared.reserve(lane, costs)


def _same_cost(call: Call) -> Cost:
    return call.cost


def _send_no_call(call: Call) -> None:
    """Only permits and counts leave here, no calls."""


def _as_it_is(attempt: Attempt, feedback: Feedback) -> Feedback:  # noqa: ARG001
    """Refusals of permits are weighed before they come here."""
    return feedback


def _emit_nothing(event: Event, call: Optional[Call]) -> None:
    """These lanes emit no events."""

"""Lanes for what has a quota of requests of its own, and costs no tokens."""

from __future__ import annotations

from typing import Optional

from claude_throttle.admission import BATCHES, COUNTS
from claude_throttle.flow.call import Call
from claude_throttle.flow.clock import Clock
from claude_throttle.flow.cost import Cost
from claude_throttle.flow.events import Event
from claude_throttle.flow.heard import AccountRefusal
from claude_throttle.flow.lane import Lane
from claude_throttle.flow.senders import Senders
from claude_throttle.pacing.concurrency import Concurrency
from claude_throttle.pacing.pacer import Pacer
from claude_throttle.pacing.quota import AUTO, Quota
from claude_throttle.pacing.tiers import batches_rpm, count_tokens_rpm
from claude_throttle.settings import Settings

_RPM = {COUNTS: count_tokens_rpm, BATCHES: batches_rpm}


def side_lane(
    name: str, settings: Settings, senders: Senders, clock: Clock, at_once: Optional[int] = None
) -> Lane:
    """A lane of that name, with *at_once* places in flight, or as many as it takes."""
    tier = settings.tier
    quotas = {} if tier is None else {"rpm": Quota(_RPM[name](tier))}
    return Lane(
        name,
        pacer=Pacer(quotas, AUTO, lane=name),
        permits=Concurrency(at_once),
        senders=senders,
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

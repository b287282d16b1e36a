"""A place in line that outlives the process: for work that would rather come back than wait.

The line is a bucket of its own in the store, whose units are seconds: each ticket takes as many as
its call occupies the lane. So whoever comes knows when to be back, however many others are away,
and nobody who is away holds up those who wait at the counter. A ticket is a point on the line, not
an instant: where the line moves more slowly than thought, all behind move with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, cast

from claude_throttle.core.domain.cost import Cost
from claude_throttle.errors import ConfigurationError
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    StoredBucket,
)

if TYPE_CHECKING:
    from claude_throttle.account.account import Account
    from claude_throttle.account.model_group import ModelGroup
    from claude_throttle.core.dispatch.lane import Lane
    from claude_throttle.features.sharing.coordinator import Coordinator
    from claude_throttle.features.sharing.shared_pacer import SharedPacer

#: The bucket of a line, and what is put after the lane's name.
BUCKET = "seconds"
SUFFIX = " tickets"

#: What has to be said with a correction: it was made from what was seen.
MOVED = "{}"

#: Seconds. The last digit of a sum of floats.
ROUNDING_SECONDS = 1e-3


class LineTicket(NamedTuple):
    """A place in a lane's line. Pickles, and is good in every process that shares the store."""

    lane: str
    #: Seconds' worth of calls ever put in the line, this one included.
    position: float


class QueuePosition(NamedTuple):
    """Where a ticket stands, as the store said it last."""

    ticket: LineTicket
    #: Until its turn; negative if that has come. 0 while nobody knows, so that it may be tried.
    seconds: float
    #: Of the line, when it was seen; None: the store is silent.
    version: Optional[float]


class VirtualQueue:
    """The tickets of one lane. Thread-safe; asks the store each time."""

    def __init__(self, coordinator: Coordinator, lane: Lane) -> None:
        self._coordinator = coordinator
        self._lane = lane

    def join(self, cost: Cost) -> QueuePosition:
        """A place behind all others."""
        seconds = self._seconds_of(cost)
        reply = self._ask(StoredBucket(BUCKET, SECOND, seconds), slots=((seconds,),))
        ticket = LineTicket(self._lane.name, 0.0 if reply is None else reply.taken[0])
        return _standing(ticket, reply)

    def look(self, ticket: LineTicket, cost: Cost) -> QueuePosition:
        """The same of one that was taken before; a new one, where the store has lost the line."""
        reply = self._ask(StoredBucket(BUCKET, SECOND, 0.0))
        if reply is None:
            return _standing(ticket, reply)
        if ticket.lane != self._lane.name or ticket.position > reply.taken[0] + ROUNDING_SECONDS:
            return self.join(cost)
        return _standing(ticket, reply)

    def push_back(self, standing: QueuePosition, seconds: float) -> None:
        """Its turn comes only in so many *seconds*; those behind it move with it.

        Nothing is done if somebody has moved them since: both saw the same.
        """
        if standing.version is not None:
            late = (seconds - standing.seconds) * SECOND
            bucket = StoredBucket(BUCKET, SECOND, 0.0, correction=late)
            self._ask(bucket, version=standing.version, facts=MOVED)

    def _seconds_of(self, cost: Cost) -> float:
        """For which such a call occupies the lane; 0 while its quotas are not known."""
        with self._lane.mutex:
            quotas = [quota for _, quota in cast("SharedPacer", self._lane.pacer).quotas()]
            return max((getattr(cost, q.kind) / q.rate for q in quotas), default=0.0)

    def _ask(self, bucket: StoredBucket, **asked: Any) -> Optional[ExchangeResponse]:
        coordinator = self._coordinator
        if coordinator.alone:
            return None
        order = ExchangeRequest(coordinator.member, coordinator.not_after(), (bucket,))._replace(
            **asked
        )
        reply = coordinator.exchange(self._lane.name + SUFFIX, order)
        return reply if reply is not None and reply.done else None


def _standing(ticket: LineTicket, reply: Optional[ExchangeResponse]) -> QueuePosition:
    if reply is None:
        return QueuePosition(ticket, 0.0, None)
    behind = reply.taken[0] - ticket.position
    return QueuePosition(ticket, (reply.empty_at[0] - reply.now) / SECOND - behind, reply.version)


def line_up(
    account: Account, model_group: ModelGroup, cost: Cost, ticket: Optional[LineTicket]
) -> tuple[LineTicket, float]:
    """A place for a call of that cost, or where *ticket* is by now; seconds until it may leave."""
    coordinator = cast("Optional[Coordinator]", account.coordinator)
    if coordinator is None:
        raise ConfigurationError("a ticket needs a store that all share: Throttler(shared=…)")
    line = VirtualQueue(coordinator, model_group.lane)
    found = line.look(ticket, cost) if ticket is not None else line.join(cost)
    leaves_in = account.seconds_until_leave(model_group, cost)
    if max(0.0, found.seconds) < leaves_in < math.inf:
        line.push_back(found, leaves_in)
    return found.ticket, max(found.seconds, leaves_in)


def line_up_alone(
    account: Account, model_group: ModelGroup, cost: Cost, ticket: Optional[LineTicket]
) -> tuple[LineTicket, float]:
    """line_up() for testing mode, which asks no store: no other process is in line."""
    seconds = account.seconds_until_leave(model_group, cost)
    return ticket or LineTicket(model_group.lane.name, 0.0), seconds

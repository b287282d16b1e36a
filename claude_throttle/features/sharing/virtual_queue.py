"""``line_up()``: a virtual queue, for work that comes back later instead of waiting in a thread.

A task of Celery, or a web request, takes a ticket, ends, and comes back when its turn is near; the
ticket is valid in any process that shares the store.

The queue of a lane is a bucket of its own in the store, whose units are seconds: each ticket takes
as many as its call occupies the lane. So each new ticket tells when to come back, however many
others are away, and tickets never hold up a call that waits in a process. A ticket is a position
in the queue, not an instant: where the queue moves more slowly than expected, all positions behind
move with it.
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
    from claude_throttle.account.model_groups import ModelGroup
    from claude_throttle.core.dispatch.lane import Lane
    from claude_throttle.features.sharing.coordinator import Coordinator
    from claude_throttle.features.sharing.shared_pacer import SharedPacer

#: The bucket of a queue, and the suffix of its lane's name in the store. Both are part of the
#: format that processes of different versions share: they must not change.
BUCKET = "seconds"
SUFFIX = " tickets"

#: The facts that a correction must come with, though a queue learns nothing: a store accepts a
#: correction only with facts, whose version says what it was made from.
MOVED = "{}"

#: Seconds. A position that is larger by less than this differs by the rounding of sums only.
ROUNDING_SECONDS = 1e-3


class LineTicket(NamedTuple):
    """A place in a lane's queue. Pickles, and is valid in every process that shares the store."""

    lane: str
    #: Seconds' worth of calls ever put in the queue, this one included.
    position: float


class QueuePosition(NamedTuple):
    """The position of a ticket in its queue, as the store had it last."""

    ticket: LineTicket
    #: Until its turn; negative if that has come. 0 while unknown, so that the call may be tried.
    seconds: float
    #: The queue's version when it was seen; None: the store did not answer.
    version: Optional[float]


class VirtualQueue:
    """The virtual queue of one lane. Thread-safe: it has no state, and asks the store each time.

    Raises no error of a store: a ticket is given with 0 seconds then, so that the call is tried,
    and paced in its process.
    """

    def __init__(self, coordinator: Coordinator, lane: Lane) -> None:
        self._coordinator = coordinator
        self._lane = lane

    def join(self, cost: Cost) -> QueuePosition:
        """Take a new position at the end."""
        seconds = self._seconds_of(cost)
        response = self._ask(StoredBucket(BUCKET, SECOND, seconds), reservations=((seconds,),))
        ticket = LineTicket(self._lane.name, 0.0 if response is None else response.taken[0])
        return _position(ticket, response)

    def find(self, ticket: LineTicket, cost: Cost) -> QueuePosition:
        """The position of *ticket*; a new one if the store has lost the queue since."""
        response = self._ask(StoredBucket(BUCKET, SECOND, 0.0))
        if response is None:
            return _position(ticket, response)
        behind_all = ticket.position > response.taken[0] + ROUNDING_SECONDS
        if ticket.lane != self._lane.name or behind_all:
            return self.join(cost)
        return _position(ticket, response)

    def push_back(self, place: QueuePosition, seconds: float) -> None:
        """Move *place*, and all behind it, so that its turn comes in so many *seconds*.

        Does nothing if another process has moved the queue since: both saw the same.
        """
        if place.version is not None:
            late = (seconds - place.seconds) * SECOND
            bucket = StoredBucket(BUCKET, SECOND, 0.0, correction=late)
            self._ask(bucket, version=place.version, facts=MOVED)

    def _seconds_of(self, cost: Cost) -> float:
        """Seconds for which such a call occupies the lane; 0 while its quotas are not known."""
        with self._lane.mutex:
            quotas = list(cast("SharedPacer", self._lane.pacer).quotas().values())
            return max((getattr(cost, q.kind) / q.rate for q in quotas), default=0.0)

    def _ask(self, bucket: StoredBucket, **more: Any) -> Optional[ExchangeResponse]:
        coordinator = self._coordinator
        if coordinator.store_lost:
            return None
        request = ExchangeRequest(coordinator.member, coordinator.not_after(), (bucket,))
        response = coordinator.exchange(self._lane.name + SUFFIX, request._replace(**more))
        return response if response is not None and response.done else None


def _position(ticket: LineTicket, response: Optional[ExchangeResponse]) -> QueuePosition:
    if response is None:
        return QueuePosition(ticket, 0.0, None)
    behind_it = response.taken[0] - ticket.position
    seconds = (response.empty_at[0] - response.now) / SECOND - behind_it
    return QueuePosition(ticket, seconds, response.version)


def line_up(
    account: Account, model_group: ModelGroup, cost: Cost, ticket: Optional[LineTicket]
) -> tuple[LineTicket, float]:
    """A ticket for a call of that cost (*ticket*, if given), and the seconds until it may leave.

    Raises :class:`ConfigurationError` if the throttler has no store.
    """
    coordinator = cast("Optional[Coordinator]", account.coordinator)
    if coordinator is None:
        raise ConfigurationError("a ticket needs a store that all share: Throttler(shared=…)")
    virtual_queue = VirtualQueue(coordinator, model_group.lane)
    place = virtual_queue.join(cost) if ticket is None else virtual_queue.find(ticket, cost)
    leaves_in = account.seconds_until_leave(model_group, cost)
    if max(0.0, place.seconds) < leaves_in < math.inf:
        virtual_queue.push_back(place, leaves_in)
    return place.ticket, max(place.seconds, leaves_in)


def line_up_alone(
    account: Account, model_group: ModelGroup, cost: Cost, ticket: Optional[LineTicket]
) -> tuple[LineTicket, float]:
    """The line_up() of testing mode, which has no store and no other process in the queue."""
    seconds = account.seconds_until_leave(model_group, cost)
    return ticket or LineTicket(model_group.lane.name, 0.0), seconds

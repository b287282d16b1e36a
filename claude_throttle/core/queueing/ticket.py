"""The place of a call, a retry or a permit in the backlog.

:class:`Ticket` is the interface between the queue and what waits in it: the queue knows its order,
its cost and its deadline, and nothing of requests or futures.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Dispatch
from claude_throttle.core.domain.ports import HeldSlot
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from claude_throttle.core.threads.clock import longest_wait


class WaitedFor(NamedTuple):
    """What held up a ticket whose time was up."""

    #: Added to the words of the error; "" where nothing held it up.
    words: str = ""
    #: Seconds until another may leave, as things stand; None if that is not known.
    seconds: Optional[float] = None


NOTHING = WaitedFor()


class Ticket:
    """A place in the backlog. Ordered by priority, then tag (``ticket_order.py``), then number.

    A call before its first send is one; so is a call before another send, and a permit. ``queued``
    and ``ended`` are guarded by the lane's mutex; the rest does not change while the ticket waits.
    Methods that settle a future or wake a thread are called without the mutex, because callbacks of
    the user may run in them.
    """

    __slots__ = (
        "cost",
        "deadline",
        "ended",
        "number",
        "parent_slot",
        "price_version",
        "priority",
        "queued",
        "reserved",
        "tag",
        "takes_place",
        "tenant",
    )

    #: Its holder is sure to report how it ended: true of what we send ourselves.
    reports_outcome = True

    #: Counts against ``max_queue``: a retry had its place already, a permit needs none.
    is_call = False

    #: Its tenant is charged for it: a retry was paid for as its call.
    charges_tenant = True

    def __init__(
        self,
        number: int,
        cost: Cost,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        deadline: Optional[float] = None,
        parent_slot: Optional[ReentrantSlot] = None,
    ) -> None:
        self.number = number
        self.cost = cost
        # An enum's members are slow to compare.
        self.priority = priority if type(priority) is int else int(priority)
        self.tenant = tenant
        #: Set when it is queued: where its share of the tenant's begins, in tokens.
        self.tag = 0.0
        #: Instant, on the clock's monotonic scale.
        self.deadline = deadline
        #: It may use the slot of the permit its thread holds open, instead of one of its own.
        self.parent_slot = parent_slot
        #: The estimator's ``version`` when *cost* was estimated; None: it was not estimated. When
        #: the version has grown, a waiting call is estimated anew.
        self.price_version: Optional[int] = None
        self.queued = False
        #: It is counted, and not queued yet.
        self.reserved = False
        #: It takes one of the ``max_queue`` places.
        self.takes_place = False
        #: Never False again once it is True.
        self.ended = False

    @property
    def ends_at(self) -> Optional[float]:
        """The instant at which its time is up, whichever ticket's deadline is watched for it."""
        return self.deadline

    @property
    def has_left(self) -> bool:
        """Whether it was dispatched: its end is not the backlog's concern any more."""
        return False

    @property
    def is_out(self) -> bool:
        """Whether it stands for a request in flight that no other ticket stands for."""
        return self.has_left

    def claim(self) -> bool:
        """Asked in the instant of leaving: whether it is still wanted."""
        return True

    def finish_cancel(self) -> None:
        """claim() said that it was cancelled. Called by a sender thread, without the mutex."""

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        """Note that its cost was booked and a slot given to it. Requires the lane's mutex."""
        raise NotImplementedError

    def proceed(self) -> None:
        """It was granted. Called without the mutex by the worker, or by the thread that asked.

        Must not block.
        """
        raise NotImplementedError

    def expire(self, why: WaitedFor = NOTHING) -> None:
        """End it: its deadline has passed. Called by a sender thread, without the mutex.

        *why*: what such a ticket waited for.
        """
        raise NotImplementedError

    def reject(self, error: BaseException) -> None:
        """End it with *error*: it will never be granted.

        Called by a sender or a closing thread, without the mutex.
        """
        raise NotImplementedError


class WaitingTicket(Ticket):
    """A ticket whose own thread waits until the worker grants or rejects it."""

    __slots__ = ("_decided", "_error")

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        # Held until the ticket is granted or rejected. It guards nothing.
        self._decided = threading.Lock()
        self._decided.acquire()
        self._error: Optional[BaseException] = None

    def proceed(self) -> None:
        self._decided.release()

    def reject(self, error: BaseException) -> None:
        self._error = error
        self._decided.release()

    def wait_for_grant(self) -> None:
        """Return when it may go; raise what it was rejected with. Ctrl-C ends the wait."""
        while not self._decided.acquire(timeout=longest_wait()):
            pass
        if self._error is not None:
            raise self._error

"""A place in the backlog, for whatever waits for the worker."""

from __future__ import annotations

from typing import Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Dispatch
from claude_throttle.core.domain.ports import SlotOwner
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot


class Ticket:
    """First by priority, then by tag (``fairness.py``), then by number.

    A call before its first send is one, a call before another send, a permit. ``queued`` and
    ``ended`` are guarded by the lane's mutex; the rest does not change while the ticket waits.
    """

    __slots__ = (
        "cost",
        "counted",
        "deadline",
        "ended",
        "number",
        "parent_slot",
        "priority",
        "queued",
        "reserved",
        "tag",
        "tenant",
    )

    #: Whoever holds it will say how it ended: true of what we send ourselves.
    answers = True

    #: Only calls count against ``max_queue``: a retry had its place already.
    counts = False

    #: Its tenant is charged for it: a retry was paid for as its call.
    pays = True

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
        #: Set as it takes its place: where its share of the tenant's begins, in tokens.
        self.tag = 0.0
        #: Instant, on the clock's monotonic scale.
        self.deadline = deadline
        #: It may go on the permit its thread holds open, instead of one of its own.
        self.parent_slot = parent_slot
        self.queued = False
        #: It has a place in the count, not yet one in the line.
        self.reserved = False
        #: It takes one of the places there are for calls that wait.
        self.counted = False
        #: True once, for ever.
        self.ended = False

    @property
    def ends_at(self) -> Optional[float]:
        """The instant at which its time is up, whoever watches it."""
        return self.deadline

    @property
    def out(self) -> bool:
        """It has left, and somebody else will see to its end."""
        return False

    def reprice(self) -> Cost:
        """What it will cost, as far as is known by now."""
        return self.cost

    def claim(self) -> bool:
        """Asked in the instant of leaving: whether it is still wanted."""
        return True

    def finish_cancel(self) -> None:
        """It was not wanted any more. Called by a sender thread, outside the lane's mutex."""

    def commit(self, dispatch: Dispatch, slot_owner: SlotOwner) -> None:
        """Its cost was taken, and a place in flight, which goes back to *slot_owner*.

        Requires the lane's mutex.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """It may go. Called by the worker, or by the thread that asked; must not block.

        Outside the lane's mutex.
        """
        raise NotImplementedError

    def time_is_up(self) -> None:
        """Its deadline has passed. Called by a sender thread, outside the lane's mutex."""
        raise NotImplementedError

    def refuse(self, error: BaseException) -> None:
        """It may never go. Called by a sender or a closing thread, outside the lane's mutex."""
        raise NotImplementedError

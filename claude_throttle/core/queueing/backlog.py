"""Where calls wait: a ``queue.Queue`` in the order of ``line.py`` and ``fairness.py``.

It shares the lane's mutex, so that the worker can look at the head, at the time and at the quotas
in one critical section. Methods whose names end in ``_locked`` require that mutex.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
from operator import attrgetter
from typing import Callable, Optional

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.queueing.fair_queue import FairQueue
from claude_throttle.core.queueing.priority_queue import SWEEP_FROM, PriorityQueue
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.condition import Condition
from claude_throttle.errors import Closed


class Backlog(queue.Queue[Ticket]):
    """The waiting tickets of one lane.

    ``maxsize`` counts live calls: a cancelled one frees its place at once, a retry or a permit
    takes none. ``accepted`` holds the calls that have not been settled, wherever they are.
    """

    def __init__(
        self,
        maxsize: int,
        mutex: threading.RLock,
        clock: Clock,
        ageing: Optional[float] = None,
        price: Callable[[Ticket], Cost] = attrgetter("cost"),
    ) -> None:
        super().__init__(maxsize)
        # Two lines: while no permit is free the riders must not wait behind those who need one.
        self._needing, self._riding = PriorityQueue(ageing), PriorityQueue(ageing)
        self._shares = FairQueue()
        # The lane's mutex. Guards everything here, and is never held while calling out.
        self.mutex = mutex  # type: ignore[assignment]
        # Notified when the head changes; the worker waits there.
        self.not_empty = Condition(mutex)
        # Notified when a call leaves or is withdrawn; blocked puts wait there.
        self.not_full = Condition(mutex)
        # Notified when the last call is settled; drain() waits there.
        self.all_tasks_done = Condition(mutex)
        self.closed = False
        #: Why nothing new may be placed, if nothing may; told now in seconds.
        self._shut: Optional[Callable[[float], BaseException]] = None
        #: Numbers of those that may be placed nevertheless.
        self._let_through: set[int] = set()
        self._clock = clock
        #: What a waiting ticket will cost, by what is known now.
        self.price = price

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - queue.Queue's own signature
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._ended = 0
        self.calls = 0
        # A set, not a count: Ctrl-C may end a submit between any two steps, and what was done
        # must be undone exactly once.
        self.accepted: set[Ticket] = set()
        #: What all that waits will cost together.
        self.load = NO_COST

    def _qsize(self) -> int:
        return self.calls

    def _put(self, item: Ticket) -> None:
        self.put_locked(item)

    def _get(self) -> Ticket:
        now = self._clock.monotonic()
        head = self.head_locked(now, up_to=math.inf)
        if head is None:  # only calls count, so there is one
            raise queue.Empty
        self.leave_locked(head, now)
        return head

    # -- in ------------------------------------------------------------------------------------

    def put(self, item: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Queue a call. Raises ``queue.Full``, or :class:`Closed`; *timeout* is in seconds."""
        self.reserve(item, block, timeout)
        self.place(item)

    def reserve(self, ticket: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Take a place in the count before taking one in the line, so that there is time between
        the two to say that the call was queued, and nobody can say earlier that it was sent."""
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        with self.mutex:
            while not self.closed and 0 < self.maxsize <= self.calls:
                self._wait_for_place_locked(block, give_up_at)
            self.require_open_locked()
            self.accepted.add(ticket)
            ticket.reserved = ticket.takes_place = True
            self.calls += 1

    def place(self, ticket: Ticket) -> None:
        """Take the reserved place. Raises :class:`Closed` if that came first."""
        with self.mutex:
            self.require_open_locked(ticket)
            self.place_locked(ticket)

    def place_locked(self, ticket: Ticket) -> None:
        """The same, closed or not; does nothing if the ticket was taken out meanwhile."""
        if ticket.reserved:
            ticket.reserved = False
            self._put(ticket)

    def give_up(self, ticket: Ticket) -> None:
        """Undo reserve() and place(), however far they came."""
        with self.mutex:
            if ticket.has_left or ticket not in self.accepted:
                return  # it has left: its sender will settle it
            self.take_locked(ticket)
            self._settled_locked(ticket)

    def settled(self, ticket: Ticket) -> None:
        """A call has come to its end, future and all."""
        with self.mutex:
            self._settled_locked(ticket)

    def _settled_locked(self, ticket: Ticket) -> None:
        self._free_place_locked(ticket)
        self.accepted.discard(ticket)
        self.all_tasks_done.notify_all()

    def _free_place_locked(self, ticket: Ticket) -> None:
        if ticket.takes_place:
            # With no call in between: there Ctrl-C could come, and the count would be wrong.
            ticket.takes_place = False
            self.calls -= 1
            self.not_full.notify()

    def require_open_locked(self, ticket: Optional[Ticket] = None) -> None:
        """Raise :class:`Closed` once no more is accepted, or why *ticket* is not."""
        if self.closed:
            raise Closed("the throttler is closed; make a new one to go on")
        refusal = None if ticket is None else self.refusal_locked(ticket)
        if refusal is not None:
            raise refusal

    # -- shut --------------------------------------------------------------------------------------

    def shut_locked(self, why: Optional[Callable[[float], BaseException]]) -> None:
        """Place nothing from now on, retries included; None opens it again."""
        self._shut = why
        self._let_through = set()

    def let_through_locked(self, number: int) -> None:
        """The ticket of that number may be placed: it finds out whether all is well."""
        if self._shut is not None:
            self._let_through.add(number)

    def refusal_locked(self, ticket: Ticket) -> Optional[BaseException]:
        """Why *ticket* may not be placed; None if it may."""
        if self._shut is None or ticket.number in self._let_through:
            return None
        return self._shut(self._clock.monotonic())

    def _wait_for_place_locked(self, block: bool, give_up_at: Optional[float]) -> None:
        seconds = None if give_up_at is None else give_up_at - self._clock.monotonic()
        if not block or (seconds is not None and seconds <= 0):
            raise queue.Full
        self._clock.wait(self.not_full, seconds)

    def put_locked(self, ticket: Ticket) -> None:
        """Take a place in the line, charged to its tenant."""
        self._shares.enter(ticket)
        self.put_again_locked(ticket)

    def put_again_locked(self, ticket: Ticket) -> None:
        """The same by the tag it has: for a retry."""
        ticket.queued = True
        self.load = self.load.plus(ticket.cost)
        line = self._line_of(ticket)
        is_head = line.add(ticket) and line.leads(ticket.priority, self._clock.monotonic())
        self.watch_deadline_locked(ticket)
        if is_head:
            self.not_empty.notify()

    def watch_deadline_locked(self, ticket: Ticket) -> None:
        """Have the worker end it in time, wherever it is then."""
        if ticket.deadline is not None:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))
            if self._deadlines[0][2] is ticket:
                self.not_empty.notify()

    @property
    def nobody_waits(self) -> bool:
        """Whether the line is empty."""
        # Not by the load: a signal handler that submits in the midst of a put falsifies that.
        return not self._needing and not self._riding

    def look_again_locked(self) -> None:
        """Have the worker look at the head again, if there is one."""
        if not self.nobody_waits:
            self.not_empty.notify()

    @property
    def last_tag(self) -> float:
        """The tag of a place behind all that wait now."""
        return self._shares.latest

    def _line_of(self, ticket: Ticket) -> PriorityQueue:
        return self._needing if ticket.parent_slot is None else self._riding

    def reprice_locked(self, ticket: Ticket) -> None:
        """A waiting ticket may cost more, or less, than was thought when it came."""
        cost = self.price(ticket)
        if cost is not ticket.cost:
            self.load = self.load.plus(cost).minus(ticket.cost)
            ticket.cost = cost

    # -- look ----------------------------------------------------------------------------------

    def head_locked(self, now: float, up_to: float) -> Optional[Ticket]:
        """Who is next; a free permit is only for priorities of at most *up_to*, a ride for all.

        Whoever has been at the head is not overtaken by newcomers of its own priority.
        """
        needing, riding = self._needing.head(now, up_to), self._riding.head(now, math.inf)
        places = [place for place in (needing, riding) if place is not None]
        if not places:
            return None
        head = min(places)[-1]
        self._shares.serve(head)
        return head

    def costs_behind_locked(self, head: Ticket, most: int) -> list[Cost]:
        """What the first few behind *head*, of its own rank, will cost; at most so many."""
        line = self._line_of(head)
        ahead = line.ahead(head.priority, most + 1)
        return [ticket.cost for ticket in ahead if ticket is not head][:most]

    def next_deadline_locked(self) -> Optional[float]:
        """The earliest instant at which somebody's time is up."""
        while self._deadlines and self._deadlines[0][2].ended:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def waiting_locked(self) -> list[Ticket]:
        """All that wait, in no order; those with a reserved place, too."""
        reserved = [ticket for ticket in self.accepted if ticket.reserved]
        return self._needing.waiting() + self._riding.waiting() + reserved

    # -- out -----------------------------------------------------------------------------------

    def leave_locked(self, ticket: Ticket, now: float) -> None:
        """Take a ticket out because it leaves; no matter if it never stood in the line."""
        self._line_of(ticket).turn_taken(ticket.priority, now)
        self._take_out_locked(ticket, self._shares.leave)

    def take_locked(self, ticket: Ticket) -> bool:
        """Take a ticket out, wherever it stands; False if somebody else did."""
        return self._take_out_locked(ticket, self._shares.withdraw)

    def _take_out_locked(self, ticket: Ticket, account: Callable[[Ticket], None]) -> bool:
        if ticket.reserved:
            ticket.reserved = False
            self._free_place_locked(ticket)
            return True
        if not ticket.queued:
            return False
        ticket.queued = False
        self.load = self.load.minus(ticket.cost)
        self._free_place_locked(ticket)
        self._line_of(ticket).remove(ticket)
        account(ticket)
        if ticket.priority not in self._needing and ticket.priority not in self._riding:
            self._shares.forget(ticket.priority)
        if not self._needing and not self._riding:
            self.load = NO_COST  # sums of floats drift
        return True

    def take_all(self) -> list[Ticket]:
        """Take out everything that waits."""
        with self.mutex:
            return [ticket for ticket in self.waiting_locked() if self.take_locked(ticket)]

    def take_due_locked(self, now: float) -> list[Ticket]:
        """Forget and return the tickets whose deadline has passed, queued or not."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due.append(heapq.heappop(self._deadlines)[2])
        return due

    def forget_deadline_locked(self, ticket: Ticket) -> None:
        """A ticket has come to its end: its deadline must not keep it in memory for long."""
        self._ended += ticket.deadline is not None
        if self._ended > SWEEP_FROM + len(self._deadlines) // 2:
            self._ended = 0
            self._deadlines = [entry for entry in self._deadlines if not entry[2].ended]
            heapq.heapify(self._deadlines)

    # -- end -----------------------------------------------------------------------------------

    def close_locked(self) -> None:
        """Accept no more, and wake the puts that wait for a place."""
        self.closed = True
        self.not_full.notify_all()
        self.not_empty.notify()

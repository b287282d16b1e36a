"""The thread that lets calls leave, one by one.

Permit first, then time: the worker waits until there is a head and a free permit, asks the pacer
when that head may leave, waits, looks again, and commits in the instant of leaving. It holds no
reservation while it waits, so a more urgent arrival, a cancel, a settlement or a pause costs
nothing. What has accrued for a large head stays with it: nobody of its own rank overtakes.

While nobody waits, a call need not wait for this thread either: it may leave in its caller's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.ports import AnySlot, LimiterPort, SlotOwner, Step
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.call import Call
    from claude_throttle.core.dispatch.lane import Lane

logger = logging.getLogger("claude_throttle")

#: Seconds after which a worker with nothing to do ends; the next submit starts another.
IDLE_SECONDS = 60.0

#: Seconds between looks for a permit that came back without a word (closed by the garbage
#: collector, which must not take a lock).
PERMIT_LOOK_SECONDS = 0.25


#: Senders that end calls whose time is up, however many those are.
MOST_ENDING = 32


class Worker:
    """One thread for one lane, started when it is needed; what it guards is the lane's mutex's."""

    def __init__(
        self,
        lane: Lane,
        limiter: LimiterPort,
        thread_pool: ThreadPool,
        clock: Clock,
        reserve: Callable[[list[Cost]], None],
    ) -> None:
        self._lane = lane
        self._reserve = reserve
        self._backlog = lane.backlog
        self._limiter = limiter
        self._thread_pool = thread_pool
        self._clock = clock
        self._pid = os.getpid()
        #: Guarded by the lane's mutex.
        self._thread: Optional[threading.Thread] = None
        #: Somebody is about to leave. Guarded by the same: for the collector or a signal handler
        #: that comes in the midst and submits; it must not take what was just found to be free.
        self._committing = False
        #: For whom a bug is to be blamed. The worker's own.
        self._looking_at: Optional[Ticket] = None

    def ensure(self) -> None:
        """See to it that there is a thread."""
        if self._thread is not None:
            return
        with self._lane.mutex:
            if self._has_thread_locked():
                return
            # A daemon: an exit hook, not a join, lets it finish its work.
            name = f"claude-throttle-worker-{self._lane.name}"
            thread = self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._start(thread)

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except BaseException as error:
            if thread.ident is None:  # Ctrl-C may come when it has started already
                with self._lane.mutex:
                    self._thread = None
            if not isinstance(error, RuntimeError):
                raise
            self._lane.end_all(Closed(f"no worker thread can be started any more ({error})"))

    def _has_thread_locked(self) -> bool:
        return self._thread is not None

    def _work(self) -> None:
        while True:
            try:
                step = self._next_step()
                if step is None:
                    return
                step()
                del step  # or it would keep the last call alive until the next one leaves
            except BaseException as error:
                logger.exception("the worker of lane %s met a bug", self._lane.name)
                self._fail_the_head(error)

    def _next_step(self) -> Optional[Step]:
        """Wait until there is something to do; None when there was nothing for long."""
        idle_since = self._clock.monotonic()
        with self._lane.mutex:
            # Greenlets survive a fork: the copy in the child must let nothing leave.
            while self._pid == os.getpid():
                now = self._clock.monotonic()
                step = self.next_step_locked(now)
                if step is not None:
                    return step
                wake_at = self.wake_at_locked(now)
                if wake_at is None:
                    wake_at = idle_since + IDLE_SECONDS
                    if self._backlog.closed or wake_at <= now:
                        self._thread = None
                        return None
                self._clock.wait(self._backlog.not_empty, wake_at - now)
        return None

    def next_step_locked(self, now: float) -> Optional[Step]:
        """What is to be done at *now*, with the mutex released; None: wait. Needs no thread."""
        self._looking_at = None
        due = self._take_due_locked(now)
        if due:
            return partial(self.end_elsewhere, due, methodcaller("time_is_up"))
        ticket = self._looking_at = self._head_locked(now)
        return self._step_locked(ticket, now) if ticket is not None else None

    def _step_locked(self, head: Ticket, now: float) -> Optional[Step]:
        self._backlog.reprice_locked(head)
        ahead = partial(self._costs_behind_locked, head)
        costs = self._lane.pacer.needs_reservation(head.cost, ahead, now)
        if costs is not None:
            return partial(self._reserve, costs)
        return self.commit_locked(head, now)

    def _costs_behind_locked(self, head: Ticket, most: int) -> list[Cost]:
        free = self._limiter.limit - self._limiter.in_use - 1  # one is the head's
        return self._backlog.costs_behind_locked(head, int(max(0, min(most, free))))

    def try_send(self, call: Call) -> bool:
        """Let a call with a reserved place leave in its caller's own thread; False if it must wait.

        That saves it the way through this thread, a tenth of a millisecond. There must be a worker
        all the same, who watches the deadline, and an idle sender: submit() starts no thread for
        the wire. Raises :class:`Closed`.
        """
        if not self._thread_pool.idle:
            return False
        with self._lane.mutex:
            self._backlog.require_open_locked(call)
            if self._thread is None or self._committing or not call.reserved:
                return False
            step = self.commit_at_once_locked(call)
            if step is None:
                return False
            call.tag = self._backlog.last_tag
            self._backlog.watch_deadline_locked(call)
        step()
        return True

    def commit_at_once_locked(self, ticket: Ticket) -> Optional[Step]:
        """Let it leave before it stands in the line, if nobody does; None if it has to."""
        if self._backlog.closed or not self._backlog.nobody_waits:
            return None
        if self._lane.out:  # else nothing is known now that was not a moment ago
            ticket.cost = ticket.reprice()
        return self.commit_locked(ticket, self._clock.monotonic())

    def end_elsewhere(self, tickets: list[Ticket], end: Callable[[Ticket], None]) -> None:
        """End *tickets* in sender threads."""
        # Several at once, since a done-callback may wait for another one of them.
        shared = deque(tickets)
        for _ in range(min(len(tickets), MOST_ENDING)):
            self._thread_pool.run(partial(_end_each, shared, end))

    def _take_due_locked(self, now: float) -> list[Ticket]:
        due = self._backlog.take_due_locked(now)
        # A call is due wherever it is; a permit only while it is waited for.
        due = [ticket for ticket in due if not ticket.ended and (ticket.queued or ticket.counts)]
        for ticket in due:
            self._backlog.take_locked(ticket)
        return due

    def _head_locked(self, now: float) -> Optional[Ticket]:
        up_to = self._limiter.up_to(now)
        if up_to < math.inf:
            # Say so first, then look again: a permit returned in between would wake nobody.
            self._limiter.notify_when_free(self._lane.wake)
            up_to = self._limiter.up_to(now)
        return self._backlog.head_locked(now, up_to)

    def commit_locked(self, ticket: Ticket, now: float) -> Optional[Step]:
        """Let it leave if it may, in this instant; None if it has to wait."""
        place = self._limiter.place(ticket.priority)
        self._committing, slot_owner = True, None
        try:
            if self._lane.pacer.ready_at(ticket.cost, now) > now:
                return None
            slot_owner = self._acquire(ticket, place, now)
            if slot_owner is None:
                return None
            if not ticket.claim():  # cancelled a moment ago
                self._backlog.take_locked(ticket)
                return partial(self._drop, ticket, slot_owner)
            self._backlog.leave_locked(ticket, now)
            self._lane.accounting.settle_dropped_locked()
            ticket.commit(self._lane.pacer.take(ticket.cost, now, ticket.answers), slot_owner)
            return ticket.leave
        except BaseException:  # a bug, or Ctrl-C in a caller's thread
            if not ticket.out:
                (slot_owner or place).release_nowait()
            raise
        finally:
            self._committing = False

    def _drop(self, ticket: Ticket, slot_owner: SlotOwner) -> None:
        slot_owner.release()
        self.end_elsewhere([ticket], methodcaller("finish_cancel"))

    def _acquire(self, ticket: Ticket, place: AnySlot, now: float) -> Optional[SlotOwner]:
        """A ride or a place, as whoever lent it; None if there is neither."""
        if ticket.parent_slot is not None and ticket.parent_slot.try_acquire():
            return ticket.parent_slot
        return place if place.try_acquire(now) else None

    def wake_at_locked(self, now: float) -> Optional[float]:
        """The next instant at which next_step_locked() may find something; None if idle."""
        ticket, instants = self._looking_at, []
        deadline = self._backlog.next_deadline_locked()
        if deadline is not None:
            instants.append(deadline)
        if ticket is not None:
            # Ready, yet not gone: another lane took the last permit.
            ready_at = self._lane.pacer.ready_at(ticket.cost, now)
            instants.append(ready_at if ready_at > now else now + PERMIT_LOOK_SECONDS)
        elif self._backlog.head_locked(now, up_to=math.inf) is not None:
            instants.append(now + PERMIT_LOOK_SECONDS)
        return min(instants) if instants else None

    def _fail_the_head(self, error: BaseException) -> None:
        """A bug met while looking at a ticket ends that ticket; met elsewhere, all of them."""
        ticket = self._looking_at
        if ticket is None:
            self._thread_pool.run(partial(self._lane.end_all, error))
            return
        with self._lane.mutex:
            self._backlog.take_locked(ticket)
        try:
            self._thread_pool.run(partial(ticket.refuse, error))
        except BaseException:  # noqa: BLE001 - no thread can be had: then in this one
            ticket.refuse(error)


def _end_each(due: deque[Ticket], end: Callable[[Ticket], None]) -> None:
    """End what *due* still holds; several threads may share it."""
    while due:
        try:
            end(due.popleft())
        except IndexError:
            return  # another sender took the last one
        except BaseException:
            logger.exception("ending a call that may not wait any longer failed")

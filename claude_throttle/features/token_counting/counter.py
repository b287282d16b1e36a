"""``count_tokens="api"``: the API counts a call's input tokens before the call queues.

The endpoint is free and has a quota of its own, so it has a lane of its own. A call is first a
ticket in that lane; a sender thread asks for its count, and then places the call in the lane of its
model. The trap: counting must never lose or stop a call. Without a count, for any reason (refusal,
error, a long queue, close()), the call queues with its estimate.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional

from claude_throttle.account.admission import COUNTS, ONE_REQUEST
from claude_throttle.account.endpoint_lanes import endpoint_lane
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import RATE, Dispatch, Feedback
from claude_throttle.core.domain.ports import HeldSlot
from claude_throttle.core.queueing.ticket import NOTHING, Ticket, WaitedFor
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed
from claude_throttle.transport.http import HttpTransport

#: Counts in flight at once; each takes a thread for 0.1 to 0.2 s, so 40 to 80 are done in a second.
MOST_AT_ONCE = 8

#: Seconds that a call may wait for its count beyond what it would wait in its lane anyway.
PATIENCE_SECONDS = 1.0

#: Seconds for which the lane pauses when the endpoint refuses and names no time.
PAUSE_SECONDS = 5.0


class CountTicket(Ticket):
    """The place of one call in the queue for counting.

    However it ends, it places its call in the call's own lane; only a deadline ends the call, too.
    """

    __slots__ = ("_begin", "_lane", "call", "dispatch", "slot")

    # The pacer must not expect a report: of counts that failed, only rate limits are reported.
    reports_outcome = False

    def __init__(self, call: Call, lane: Lane, begin: Callable[[CountTicket], None]) -> None:
        super().__init__(
            number=call.number,
            cost=ONE_REQUEST,
            priority=call.priority,
            tenant=call.tenant,
            deadline=call.deadline,
        )
        self.call = call
        self._lane = lane
        self._begin = begin
        self.dispatch: Optional[Dispatch] = None
        self.slot: Optional[HeldSlot] = None

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        self.dispatch, self.slot = dispatch, slot

    def proceed(self) -> None:
        self._begin(self)

    def expire(self, why: WaitedFor = NOTHING) -> None:
        self.call.expire(why)

    def reject(self, error: BaseException) -> None:  # noqa: ARG002 - Ticket's signature
        self.place()

    def place(self) -> None:
        """Place the call in its own lane, counted or not."""
        self._lane.place(self.call)


class TokenCounter:
    """Has calls counted by the API, then places them in their lanes. Thread-safe.

    One per account and process. Its methods raise nothing and do not wait.
    """

    def __init__(
        self, settings: Settings, transport: HttpTransport, thread_pool: ThreadPool, clock: Clock
    ) -> None:
        self.lane = endpoint_lane(COUNTS, settings, thread_pool, clock, MOST_AT_ONCE)
        self._pacer = self.lane.pacer
        self._transport = transport
        self._thread_pool = thread_pool

    def start_count(self, lane: Lane, call: Call) -> None:
        """Queue *call* for counting; it is placed in its own *lane* afterwards."""
        count = CountTicket(call, lane, self._leave)
        try:
            if self._takes_too_long(count, lane):
                count.place()
            else:
                self.lane.ask(count)
        except Closed:
            count.place()

    def _takes_too_long(self, count: CountTicket, lane: Lane) -> bool:
        in_its_own_lane = lane.seconds_until_leave(count.call.cost)
        return self.lane.seconds_until_leave(count.cost) > in_its_own_lane + PATIENCE_SECONDS

    def _leave(self, count: CountTicket) -> None:
        self._thread_pool.run(partial(self._count, count))

    def _count(self, count: CountTicket) -> None:
        call = count.call
        try:
            if call.reserved:  # otherwise it was cancelled meanwhile
                self._report(count, *self._transport.count(call))
        finally:
            if count.slot is not None:
                count.slot.release()
            count.place()

    # A refusal sends all that wait for a count on with their estimates: to wait out the pause would
    # hold up messages whose own quota is free.
    def _report(self, count: CountTicket, tokens: Optional[int], refusal: Feedback) -> None:
        if tokens is not None:
            call = count.call
            call.estimated_input, call.input_is_counted = float(tokens), True
            call.price_version = -1  # to be priced again
        lane, dispatch = self.lane, count.dispatch
        if dispatch is None:
            return
        with lane.mutex:
            now = lane.now()
            if tokens is not None:
                self._pacer.answered(Feedback(), dispatch, Cost(0.0, 0.0, 0.0), now)
            elif refusal.cause == RATE:
                wait = refusal.retry_after or PAUSE_SECONDS
                feedback = refusal._replace(retry_after=wait, final=True)
                self._pacer.refused(feedback, dispatch, count.cost, wait, 1, now)
        if refusal.cause == RATE:
            self.lane.reject_all(Closed("not counted"))  # on with their estimates

    def close(self) -> None:
        """Count no more; calls that wait are placed with their estimates."""
        self.lane.close()
        self.lane.reject_all(Closed("the throttler was closed"))

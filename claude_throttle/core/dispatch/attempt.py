"""One call on the wire: each send, and each wait for another turn.

A retry is a call like any other. It gives its permit back, waits, and queues again at the call's
own place; only the worker lets it leave.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.events import CallSent, RetryScheduled
from claude_throttle.core.domain.feedback import Dispatch, Feedback, RetryDelay
from claude_throttle.core.domain.ports import SlotOwner
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import longest_wait

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.call import Call


class AttemptStopped(Exception):
    """Raised through the wire when a call must not be sent (again).

    A plain Exception: urllib3 and requests would dress up an OSError as a connection error.
    """


class WaitingTicket(Ticket):
    """A ticket with a thread behind it, which waits until the worker lets it go."""

    __slots__ = ("_answered", "_error")

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        # Held until the worker has answered; nobody ever holds it otherwise.
        self._answered = threading.Lock()
        self._answered.acquire()
        self._error: Optional[BaseException] = None

    def commit(self, dispatch: Dispatch, slot_owner: SlotOwner) -> None:
        pass

    def leave(self) -> None:
        self._answered.release()

    def refuse(self, error: BaseException) -> None:
        self._error = error
        self._answered.release()

    def wait(self) -> None:
        """Return when it may go; raise what it was refused with. Ctrl-C ends the wait."""
        while not self._answered.acquire(timeout=longest_wait()):
            pass
        if self._error is not None:
            raise self._error


class RetryTicket(WaitingTicket):
    """Another turn for a call that was refused."""

    __slots__ = ("_attempts",)

    pays = False

    def __init__(self, attempts: Attempt) -> None:
        call = attempts.call
        # Tokens that are still booked are not booked again: the server may have counted them.
        cost = NO_COST._replace(requests=1.0) if attempts.held.tokens > 0 else call.cost
        # No deadline of its own: the call's is being watched already.
        super().__init__(call.number, cost, call.priority, None, None, call.parent_slot)
        self.tag = call.tag
        self._attempts = attempts

    @property
    def ends_at(self) -> Optional[float]:
        return self._attempts.call.deadline

    def commit(self, dispatch: Dispatch, slot_owner: SlotOwner) -> None:
        self._attempts.begin_locked(self.cost, slot_owner, dispatch)

    def refuse(self, error: BaseException) -> None:
        # Straight through urllib3; the wire then asks why.
        if self._attempts.stopped_by is None:
            self._attempts.stopped_by = error
        super().refuse(AttemptStopped())


class Attempt:
    """What a call holds while it is out, and the door back to its lane.

    Owned by one sender thread; what other threads touch is guarded by the lane's mutex.
    """

    __slots__ = (
        "_hang_up",
        "booked_at",
        "call",
        "counted",
        "dispatch",
        "held",
        "number",
        "on_the_wire",
        "outcome_reported",
        "probes",
        "resting",
        "slot_owner",
        "stopped_by",
        "turn",
        "when_stopped",
    )

    def __init__(self, call: Call, held: Cost, slot_owner: SlotOwner, dispatch: Dispatch) -> None:
        self.call = call
        #: The instant at which *held* was first taken.
        self.booked_at = dispatch.at
        #: Of the attempt that is out, or was last. Guarded by the lane's mutex.
        self.dispatch = dispatch
        #: 1 for the first send.
        self.number = 1
        #: Taken from the quotas and not settled yet. Guarded by the lane's mutex.
        self.held = held
        #: Who gets its place in flight back; None once that is done. Guarded by the lane's mutex.
        self.slot_owner: Optional[SlotOwner] = slot_owner
        #: What the server said of the attempt that was last was taken in.
        self.outcome_reported = False
        #: How often it left as a probe of an open circuit, and failed.
        self.probes = 0
        #: Bytes may have reached the server. Written by the sender alone.
        self.on_the_wire = False
        #: Refused, and waiting for another try. Guarded by the lane's mutex.
        self.resting = False
        #: Why it must end. Guarded by the lane's mutex.
        self.stopped_by: Optional[BaseException] = None
        #: The ticket of a retry that waits for its turn. Guarded by the lane's mutex.
        self.turn: Optional[RetryTicket] = None
        self._hang_up: Optional[Callable[[], None]] = None
        #: Input tokens that were settled as the answer began; not in *held* any more.
        self.counted = 0
        #: Of a stream: told that it was stopped, when its connection is cut.
        self.when_stopped: Optional[Callable[[], None]] = None

    def begin_locked(self, cost: Cost, slot_owner: SlotOwner, dispatch: Dispatch) -> None:
        """Another attempt leaves now. Requires the lane's mutex."""
        self.number += 1
        self.dispatch = dispatch
        self.held = self.held.plus(cost)
        self.slot_owner = slot_owner
        self.turn = None
        self.resting = self.outcome_reported = False

    # -- what the wire asks ----------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether it must end instead of being sent again."""
        return self.stopped_by is not None

    def seconds_left(self) -> Optional[float]:
        """Until the deadline; None without one, never negative."""
        deadline = self.call.deadline
        return None if deadline is None else max(0.0, deadline - self.call.home.now())

    def has_time_for(self, seconds: float) -> bool:
        """Whether a wait of that length ends before the deadline."""
        left = self.seconds_left()
        return left is None or seconds < left

    def connected(self, hang_up: Callable[[], None]) -> None:
        """The request is about to go over a connection that *hang_up* can end.

        Raises :class:`AttemptStopped` if it must not.
        """
        with self.call.home.mutex:
            self._hang_up = hang_up
            self.on_the_wire = True
            if self.stopped_by is not None:
                self.on_the_wire = False
                raise AttemptStopped

    def refused(self, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """This attempt was refused or lost: tell the lane, and learn when another may be made.

        *wait_seconds* is how long this call would wait if it were alone.
        """
        return self.call.home.accounting.refused(self, feedback, wait_seconds)

    def again(
        self, *, status: Optional[int], reason: str, delay: RetryDelay, keep_tokens: bool
    ) -> None:
        """Give back, wait, queue again; return when the next attempt may leave.

        While the lane is held up this call queues at once, at its own place; else it alone waits
        first. *keep_tokens* leaves the estimate booked: the server may have counted it. Raises
        :class:`AttemptStopped` when the call must end instead.
        """
        call, lane = self.call, self.call.home
        self.on_the_wire = False
        lane.observe(
            RetryScheduled(call.number, call.model, self.number, status, reason, delay.seconds),
            call,
        )
        lane.accounting.release(self, keep_tokens)
        # A failed probe makes room for others': perhaps it is this call that no server can stand.
        lane.queue_again(self, delay.seconds if delay.alone else 0.0, behind=self.dispatch.probes)
        self.announce()

    def announce(self) -> None:
        """Say that an attempt left, and what that means for its lane. In the sender's thread."""
        call, lane = self.call, self.call.home
        lane.announce(self.dispatch, call)
        waited = self.dispatch.at - call.submitted_at
        lane.observe(CallSent(call.number, call.model, self.number, waited), call)

    def detach(self) -> None:
        """Its call has ended: the connection must not keep it alive."""
        self._hang_up = self.when_stopped = None

    def hang_up(self) -> None:
        """End the connection it is on, whoever reads from it."""
        hang_up = self._hang_up
        if hang_up is not None:
            hang_up()

    # -- what others do to it --------------------------------------------------------------------

    def stop(self, error: BaseException) -> None:
        """End it, wherever it is: a read, a wait, the queue. Its sender will settle it."""
        lane = self.call.home
        with lane.mutex:
            if self.stopped_by is None:
                self.stopped_by = error
            hang_up, turn, tell = self._hang_up, self.turn, self.when_stopped
            waits = turn is not None and lane.backlog.take_locked(turn)
            lane.stopped.notify_all()
        if turn is not None and waits:
            turn.refuse(error)
        if hang_up is not None:
            hang_up()
        if tell is not None:
            tell()

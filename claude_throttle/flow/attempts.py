"""One call on the wire: each send, and each wait for another turn.

A retry is a call like any other. It gives its permit back, waits, and queues again at the call's
own place; only the worker lets it leave.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.flow.clock import longest_wait
from claude_throttle.flow.cost import Cost
from claude_throttle.flow.events import CallSent, LanePaused, RetryScheduled
from claude_throttle.flow.rooms import Lender
from claude_throttle.flow.ticket import Ticket

if TYPE_CHECKING:
    from claude_throttle.flow.call import Call


class Stopped(Exception):
    """Raised through the wire when a call must not be sent (again).

    A plain Exception: urllib3 and requests would dress up an OSError as a connection error.
    """


class Turn(Ticket):
    """A ticket with a thread behind it, which waits until the worker lets it go."""

    __slots__ = ("_answered", "_error")

    def __init__(self, **place: object) -> None:
        super().__init__(**place)  # type: ignore[arg-type]
        # Held until the worker has answered; nobody ever holds it otherwise.
        self._answered = threading.Lock()
        self._answered.acquire()
        self._error: Optional[BaseException] = None

    def commit(self, now: float, lender: Lender) -> None:
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


class RetryTurn(Turn):
    """Another turn for a call that was refused."""

    __slots__ = ("_attempts",)

    def __init__(self, attempts: Attempts, cost: Cost) -> None:
        call = attempts.call
        # No deadline of its own: the call's is being watched already.
        super().__init__(
            number=call.number, cost=cost, priority=call.priority, tag=call.tag, rides=call.rides
        )
        self._attempts = attempts

    def commit(self, now: float, lender: Lender) -> None:  # noqa: ARG002 - Ticket's signature
        self._attempts.begin_locked(self.cost, lender)

    def refuse(self, error: BaseException) -> None:
        # Straight through urllib3; the wire then asks why.
        if self._attempts.stopped_by is None:
            self._attempts.stopped_by = error
        super().refuse(Stopped())


class Attempts:
    """What a call holds while it is out, and the door back to its lane.

    Owned by one sender thread; what other threads touch is guarded by the lane's mutex.
    """

    __slots__ = (
        "_hang_up",
        "booked_at",
        "call",
        "held",
        "lender",
        "number",
        "on_the_wire",
        "resting",
        "stopped_by",
        "turn",
    )

    def __init__(self, call: Call, held: Cost, lender: Lender, booked_at: float) -> None:
        self.call = call
        #: The instant at which *held* was first taken.
        self.booked_at = booked_at
        #: 1 for the first send.
        self.number = 1
        #: Taken from the quotas and not settled yet. Guarded by the lane's mutex.
        self.held = held
        #: Who gets its place in flight back; None once that is done. Guarded by the lane's mutex.
        self.lender: Optional[Lender] = lender
        #: Bytes may have reached the server. Written by the sender alone.
        self.on_the_wire = False
        #: Refused, and waiting for another try. Guarded by the lane's mutex.
        self.resting = False
        #: Why it must end. Guarded by the lane's mutex.
        self.stopped_by: Optional[BaseException] = None
        #: The ticket of a retry that waits for its turn. Guarded by the lane's mutex.
        self.turn: Optional[RetryTurn] = None
        self._hang_up: Optional[Callable[[], None]] = None

    def begin_locked(self, cost: Cost, lender: Lender) -> None:
        """Another attempt leaves now. Requires the lane's mutex."""
        self.number += 1
        self.held = Cost(*(mine + more for mine, more in zip(self.held, cost)))
        self.lender = lender
        self.turn = None
        self.resting = False

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

        Raises :class:`Stopped` if it must not.
        """
        with self.call.home.mutex:
            self._hang_up = hang_up
            self.on_the_wire = True
            if self.stopped_by is not None:
                self.on_the_wire = False
                raise Stopped

    def pause_lane(self, status: int, seconds: float) -> float:
        """Nothing of this lane leaves for *seconds* plus jitter; returns what remains of it."""
        lane = self.call.home
        remaining = lane.pause_for(seconds)
        lane.observe(LanePaused(self.call.model, status, remaining), self.call)
        return remaining

    def again(
        self,
        *,
        status: Optional[int],
        reason: str,
        wait_seconds: float,
        lane_is_paused: bool,
        keep_tokens: bool,
    ) -> None:
        """Give back, wait, queue again; return when the next attempt may leave.

        While the lane is paused this call queues at once, at its own place; else it alone waits
        *wait_seconds* first. *keep_tokens* leaves the estimate booked: the server may have counted
        it. Raises :class:`Stopped` when the call must end instead.
        """
        call, lane = self.call, self.call.home
        self.on_the_wire = False
        lane.observe(
            RetryScheduled(call.number, call.model, self.number, status, reason, wait_seconds), call
        )
        lane.give_back(self, keep_tokens)
        lane.queue_again(self, 0.0 if lane_is_paused else wait_seconds)
        waited = lane.now() - call.submitted_at
        lane.observe(CallSent(call.number, call.model, self.number, waited), call)

    def let_go(self) -> None:
        """Its call has ended: the connection must not keep it alive."""
        self._hang_up = None

    # -- what others do to it --------------------------------------------------------------------

    def stop(self, error: BaseException) -> None:
        """End it, wherever it is: a read, a wait, the queue. Its sender will settle it."""
        lane = self.call.home
        with lane.mutex:
            if self.stopped_by is None:
                self.stopped_by = error
            hang_up, turn = self._hang_up, self.turn
            waits = turn is not None and lane.backlog.take_locked(turn)
            lane.stopped.notify_all()
        if turn is not None and waits:
            turn.refuse(error)
        if hang_up is not None:
            hang_up()

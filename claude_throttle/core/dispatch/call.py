"""One request of a caller: what was asked, what it holds while it is being sent, its future."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as WaitTimeout
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from claude_throttle.core.domain.cost import NO_COST, Cost, Usage
from claude_throttle.core.domain.feedback import Dispatch, Feedback, RetryDelay
from claude_throttle.core.domain.ports import HeldSlot
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from claude_throttle.core.queueing.ticket import NOTHING, Ticket, WaitedFor, WaitingTicket
from claude_throttle.core.threads.clock import SYSTEM_CLOCK, longest_wait
from claude_throttle.core.threads.error_watch import note_error
from claude_throttle.core.threads.local_values import ThreadLocalList
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed, DeadlineExceeded


class AttemptStopped(Exception):
    """Raised through the transport when a call must not be sent (again).

    A plain Exception: urllib3 and requests would turn an OSError into a connection error.
    """


class Outcome(NamedTuple):
    """How the last attempt of a call ended."""

    value: Any = None
    error: Optional[BaseException] = None
    #: None if the server did not say.
    usage: Optional[Usage] = None
    status: Optional[int] = None
    request_id: Optional[str] = None
    #: The server did not take this attempt (429, 529, no connection): its tokens come back.
    #: Otherwise, without usage, the estimate stays booked.
    refused: bool = False
    #: For the pacer, if the attempt was answered. A refusal was reported when it came.
    feedback: Feedback = Feedback()
    #: When the last byte of the answer was there; None: when the call ended.
    answered_at: Optional[float] = None


class LaneCallbacks(NamedTuple):
    """What a call may ask of its lane. One per lane; given to each call when it is made."""

    #: Name of the lane.
    lane: str
    #: The lane's clock, in seconds.
    now: Callable[[], float]
    #: The lane's calls that were dispatched and have not ended. Guarded by its mutex.
    out: set[Attempt]
    #: The sender threads.
    thread_pool: ThreadPool
    #: Sends a call that was dispatched, and finishes it. Runs in a sender thread.
    carry: Callable[[Call], None]
    finish: Callable[[Call, Outcome], None]
    stop: Callable[[Attempt, BaseException], None]
    refused: Callable[[Attempt, Feedback, float], RetryDelay]
    retry: Callable[[Attempt, Optional[int], str, RetryDelay, bool], None]
    #: Emits the events of a send. Called in the sender's thread.
    announce: Callable[[Attempt], None]


#: The calls that this thread has to bring to their end, in a listener or done-callback perhaps:
#: it must not wait for them.
in_progress: ThreadLocalList[Call] = ThreadLocalList()


def forget_in_progress(call: Call) -> None:
    """This thread has not to bring *call* to its end any more."""
    calls = in_progress.mine()
    if calls:
        calls[:] = [other for other in calls if other is not call]


class Attempt:
    """What a call holds from its first dispatch to its end.

    Owned by one sender thread; what other threads touch is guarded by the lane's mutex.
    """

    __slots__ = (
        "_callbacks",
        "_hang_up",
        "booked_at",
        "call",
        "counted_input",
        "dispatch",
        "held",
        "number",
        "on_the_wire",
        "outcome_reported",
        "probes",
        "resting",
        "retry_ticket",
        "slot",
        "stopped_by",
        "when_stopped",
    )

    def __init__(
        self, call: Call, dispatch: Dispatch, slot: HeldSlot, callbacks: LaneCallbacks
    ) -> None:
        self.call = call
        self._callbacks = callbacks
        #: The instant at which *held* was first booked.
        self.booked_at = dispatch.at
        #: The latest dispatch. Guarded by the lane's mutex.
        self.dispatch = dispatch
        #: 1 for the first send.
        self.number = 1
        #: Booked in the quotas and not settled yet. Guarded by the lane's mutex.
        self.held = call.cost
        #: Its place among the requests in flight; None once given back. Guarded by the mutex.
        self.slot: Optional[HeldSlot] = slot
        #: The pacer was told how the latest send ended.
        self.outcome_reported = False
        #: How often it was sent as a probe of an open circuit, and failed.
        self.probes = 0
        #: Bytes may have reached the server. Written by the sender alone.
        self.on_the_wire = False
        #: Refused, and waiting for another send. Guarded by the lane's mutex.
        self.resting = False
        #: Why it must end. Guarded by the lane's mutex.
        self.stopped_by: Optional[BaseException] = None
        #: Waits in the backlog for another send. Guarded by the lane's mutex.
        self.retry_ticket: Optional[Ticket] = None
        self._hang_up: Optional[Callable[[], None]] = None
        #: Input tokens that were settled when the answer began; no longer in *held*.
        self.counted_input = 0
        #: Called when a stream is stopped, after its connection was cut.
        self.when_stopped: Optional[Callable[[], None]] = None

    def begin_again_locked(self, dispatch: Dispatch, slot: HeldSlot, cost: Cost) -> None:
        """Another send was dispatched; *cost* was booked for it. Requires the lane's mutex."""
        self.number += 1
        self.dispatch = dispatch
        self.held = self.held.plus(cost)
        self.slot = slot
        self.retry_ticket = None
        self.resting = self.outcome_reported = False

    @property
    def queued(self) -> bool:
        """Whether it waits in the backlog for another send."""
        ticket = self.retry_ticket
        return ticket is not None and ticket.queued

    @property
    def stopped(self) -> bool:
        """Whether it must end instead of being sent again."""
        return self.stopped_by is not None

    def seconds_left(self) -> Optional[float]:
        """Seconds until the deadline, never negative; None without a deadline."""
        deadline = self.call.deadline
        return None if deadline is None else max(0.0, deadline - self._callbacks.now())

    def connected(self, hang_up: Callable[[], None]) -> None:
        """The request is about to go over a connection that *hang_up* can end.

        Raises :class:`AttemptStopped` if it must not.
        """
        # No lock: this writes _hang_up and then reads stopped_by; stop() does the reverse.
        self._hang_up = hang_up
        self.on_the_wire = True
        if self.stopped_by is not None:
            self.on_the_wire = False
            raise AttemptStopped

    def on_refusal(self, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """Report to the pacer that this send was refused or lost; return when to send again.

        *wait_seconds* is how long this call would wait if the lane were not held up.
        """
        return self._callbacks.refused(self, feedback, wait_seconds)

    def again(
        self, *, status: Optional[int], reason: str, delay: RetryDelay, keep_tokens: bool
    ) -> None:
        """Give the slot back, wait, queue again; return when the next send may begin.

        While the lane is held up the call queues at once, at its own place; otherwise it waits
        first. *keep_tokens* leaves the estimate booked: the server may have counted it. Raises
        :class:`AttemptStopped` when the call must end instead.
        """
        self.on_the_wire = False
        self._callbacks.retry(self, status, reason, delay, keep_tokens)

    def hang_up(self) -> None:
        """End the connection it is on, whichever thread reads from it."""
        hang_up = self._hang_up
        if hang_up is not None:
            hang_up()

    def stop(self, error: BaseException) -> None:
        """End it with *error*, wherever it is: in a read, a wait, the backlog."""
        self._callbacks.stop(self, error)


class Call(Ticket):
    """One request, from submit to its end; owned by one thread at a time."""

    __slots__ = (
        "attempt",
        "body",
        "cache_marked",
        "callbacks",
        "context",
        "estimated_input",
        "extra_headers",
        "future",
        "input_is_counted",
        "max_tokens",
        "model",
        "query",
        "raw",
        "sent_at",
        "submitted_at",
        "timeout",
    )

    is_call = True

    #: Its answer is read event by event.
    streams = False

    def __init__(
        self,
        *,
        number: int,
        cost: Cost,
        callbacks: LaneCallbacks,
        body: bytes,
        model: str,
        max_tokens: int,
        estimated_input: float,
        submitted_at: float,
        cache_marked: bool = False,
        price_version: int = -1,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Optional[float] = None,
        parent_slot: Optional[ReentrantSlot] = None,
        raw: bool = False,
        extra_headers: Optional[Mapping[str, Optional[str]]] = None,
        context: Optional[Context] = None,
        query: str = "",
    ) -> None:
        deadline = None if timeout is None else submitted_at + timeout
        super().__init__(number, cost, priority, tenant, deadline, parent_slot)
        self.callbacks = callbacks
        #: The request as it is sent: a snapshot taken at submit.
        self.body = body
        self.model = model
        self.max_tokens = max_tokens
        #: Input tokens by the size of the text, before calibration.
        self.estimated_input = estimated_input
        #: The API counted *estimated_input* (count_tokens="api"): it needs no calibration.
        self.input_is_counted = False
        #: It asks for the prompt cache.
        self.cache_marked = cache_marked
        self.price_version = price_version
        self.submitted_at = submitted_at
        #: Seconds, as the caller gave it.
        self.timeout = timeout
        self.raw = raw
        self.extra_headers = extra_headers
        #: What follows the URL's path, from its question mark on.
        self.query = query
        self.context = context
        self.sent_at: Optional[float] = None
        self.attempt: Optional[Attempt] = None
        self.future = CallFuture(self)

    @property
    def has_left(self) -> bool:
        return self.attempt is not None

    def claim(self) -> bool:
        try:
            self.future.unclaimed.pop()
        except IndexError:
            return False
        return True

    def finish_cancel(self) -> None:
        self.future.finish_cancel()

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        self.sent_at = dispatch.at
        attempt = self.attempt = Attempt(self, dispatch, slot, self.callbacks)
        self.callbacks.out.add(attempt)

    def proceed(self) -> None:
        self.callbacks.thread_pool.run(partial(self.callbacks.carry, self))

    def finish(self, outcome: Outcome) -> None:
        """End it with *outcome*; does nothing if it has ended already."""
        self.callbacks.finish(self, outcome)

    def reject(self, error: BaseException) -> None:
        self.callbacks.finish(self, Outcome(error=error))

    def detach(self) -> None:
        """Drop its text and its attempt: a reference to an ended call must not keep them."""
        self.body = b""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:  # a pooled connection may still refer to it
            attempt._hang_up = attempt.when_stopped = None

    def expire(self, why: WaitedFor = NOTHING) -> None:
        attempt = self.attempt
        error = self.deadline_exceeded(attempt is not None and attempt.on_the_wire, why)
        if attempt is not None:
            attempt.stop(error)
        # Not left to its sender, which may be stuck in a name look-up that nothing can end.
        self.reject(error)

    def deadline_exceeded(self, sent: bool, why: WaitedFor = NOTHING) -> DeadlineExceeded:
        """The error for a call whose deadline has passed; *why* it was waiting, if it was."""
        attempt = self.attempt
        if sent:
            where, why = "was on the wire; it may be billed", NOTHING
        elif attempt is None or not attempt.resting:
            where = "was still waiting; nothing was sent"
        else:
            sent = attempt.held.tokens > 0  # kept after a failure behind which it may have worked
            where = "was waiting for another try; " + (
                "the one before may be billed" if sent else "what was sent was refused"
            )
        words = f"call {self.number} ({self.model}) was given {self.timeout:g} s and {where}"
        return DeadlineExceeded(words + why.words, sent=sent, retry_after=why.seconds)

    def abandon(self, error: BaseException) -> None:
        """End a forked child's copy of it. Takes no lock.

        Greenlets survive a fork, and may be about to send it, or wait for its answer.
        """
        self.ended = True
        if self.attempt is not None:
            self.attempt.stopped_by = error
        self.future.abandon(error)


class LateResult:
    """A result that is made when it is first asked for: what makes it takes long to load.

    *build* takes the seconds it may wait, or None, and raises ``concurrent.futures.TimeoutError``.
    """

    __slots__ = ("build",)

    def __init__(self, build: Callable[[Optional[float]], Any]) -> None:
        self.build = build


#: Attributes of an answer that people look for in its future.
OF_A_MESSAGE = frozenset({"content", "id", "model", "role", "stop_reason", "text", "usage"})


class CallFuture(Future[Any]):
    """A future whose ``cancel()`` frees its place in the backlog at once.

    A call that was dispatched cannot be cancelled: ``cancel()`` returns False then.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        # An empty deque takes 624 bytes, a third of all a waiting call needs; a list does, too.
        self._condition._waiters = []  # type: ignore[attr-defined]
        #: Popped by the thread that sends it, cancels it, or ends it unsent.
        self.unclaimed = [True]
        #: Dropped at the end: call and future would keep each other alive until the next
        #: collection.
        self._call: Optional[Call] = call

    if not TYPE_CHECKING:  # a type checker finds a wrong name by itself

        def __getattr__(self, name: str) -> Any:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in OF_A_MESSAGE:
                text += f": submit() returns a future; write future.result().{name}, or use call()"
            raise AttributeError(text)

    def claim(self) -> bool:
        """Take the right to send or end the call; False if another thread has it.

        Takes no lock: the worker asks while it holds the lane's mutex, and a thread that holds this
        future's lock may be waiting for that.
        """
        try:
            self.unclaimed.pop()
        except IndexError:
            return False
        return True

    def result(self, timeout: Optional[float] = None) -> Any:
        self._wait_until_made(timeout)
        try:
            return super().result(0)
        except Exception as error:
            note_error(error)
            raise

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        self._wait_until_made(timeout)
        error = super().exception(0)
        if error is not None:
            note_error(error)
        return error

    def _wait_until_made(self, timeout: Optional[float]) -> None:
        """Wait until it is done and its result is made; *timeout* counts for both."""
        left = None
        if timeout is None:
            self._wait_until_done()
        else:
            give_up_at = SYSTEM_CLOCK.monotonic() + timeout
            super().exception(timeout)
            left = max(0.0, give_up_at - SYSTEM_CLOCK.monotonic())
        if type(self._result) is LateResult:
            self._make(self._result, left)

    def _make(self, late: LateResult, timeout: Optional[float]) -> None:
        """Put what *late* makes in its place. The first thread to do so decides for all."""
        made: Any = None
        error: Optional[BaseException] = None
        try:
            made = late.build(timeout)
        except KeyboardInterrupt:
            raise
        except BaseException as failure:
            if timeout is not None and isinstance(failure, WaitTimeout):
                raise
            error = failure  # an import may fail with a TimeoutError, too
        with self._condition:
            if self._result is late:
                self._result, self._exception = made, error

    def _invoke_callbacks(self) -> None:
        # A callback may hand the future to an event loop, where nothing may wait for an import.
        if type(self._result) is LateResult and self._done_callbacks:  # type: ignore[attr-defined]
            self._make(self._result, None)
        super()._invoke_callbacks()  # type: ignore[misc]

    def _wait_until_done(self) -> None:
        # In slices: a Ctrl-C that comes just before the main thread begins to wait ends no wait.
        with self._condition:
            while not self.done():
                self._condition.wait(longest_wait())

    def cancel(self) -> bool:
        if self.claim():
            self.finish_cancel()
        return self.cancelled()

    def finish_cancel(self) -> None:
        """End what cancel() claimed; called again by the worker if Ctrl-C ended the cancel()."""
        with self._condition:
            is_first = self._state == PENDING
            if is_first:
                # Notified here: concurrent.futures leaves it to the executor's worker, and
                # futures.wait() would not return before that.
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
            call = self._call
        try:
            if call is not None and self.cancelled():
                call.reject(CancelledError())
        finally:
            if is_first:
                self._invoke_callbacks()

    def set_running_or_notify_cancel(self) -> bool:
        """Mark it as running; False, without a log record, if it has ended before."""
        with self._condition:
            return not self.done() and super().set_running_or_notify_cancel()

    def give_up(self) -> None:
        """Cancel the call or, if it was dispatched, end it where it is: its caller is gone."""
        call = self._call
        attempt = None if call is None else call.attempt
        if self.cancel() or call is None or attempt is None:
            return
        error = Closed("the caller gave up", sent=attempt.on_the_wire)
        attempt.stop(error)
        call.reject(error)

    def abandon(self, error: BaseException) -> None:
        """End a copy that a fork left behind: its lock may be held by a thread that is not here."""
        self.unclaimed.clear()
        self._condition = threading.Condition()
        # Those they would notify are in the parent, and may hold locks there.
        self._waiters.clear()
        self._done_callbacks.clear()  # type: ignore[attr-defined]
        self._call = None
        if not self.done():
            self.set_exception(error)

    def resolve(self, outcome: Outcome) -> None:
        """Set the result or the exception, unless it was cancelled; forget the call."""
        self._call = None
        self.unclaimed.clear()
        if self.done():  # cancelled, or resolved before Ctrl-C
            return
        if outcome.error is not None:
            self.set_exception(outcome.error)
        else:
            self.set_result(outcome.value)


class RetryTicket(WaitingTicket):
    """A refused call that waits for another send, at its own place in the backlog.

    Its sender thread waits until the worker grants it.
    """

    __slots__ = ("_attempt",)

    charges_tenant = False

    def __init__(self, attempt: Attempt) -> None:
        call = attempt.call
        # Tokens that are still booked are not booked again: the server may have counted them.
        cost = NO_COST._replace(requests=1.0) if attempt.held.tokens > 0 else call.cost
        # No deadline of its own: the worker watches the call's already.
        super().__init__(call.number, cost, call.priority, None, None, call.parent_slot)
        self.tag = call.tag
        self._attempt = attempt

    @property
    def ends_at(self) -> Optional[float]:
        return self._attempt.call.deadline

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        self._attempt.begin_again_locked(dispatch, slot, self.cost)

    def reject(self, error: BaseException) -> None:
        # AttemptStopped passes through urllib3 unchanged; the transport then asks why.
        if self._attempt.stopped_by is None:
            self._attempt.stopped_by = error
        super().reject(AttemptStopped())

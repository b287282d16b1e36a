"""What was asked: a body, a place in the line, a future."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from contextvars import Context
from typing import TYPE_CHECKING, Any, Optional

from claude_throttle.core.dispatch.attempt import Attempt
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Dispatch
from claude_throttle.core.domain.ports import SlotOwner
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import longest_wait
from claude_throttle.errors import Closed, DeadlineExceeded

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.lane import Lane


class Call(Ticket):
    """One request on its way; owned by one thread at a time."""

    __slots__ = (
        "attempts",
        "body",
        "context",
        "counted",
        "estimated_input",
        "extra_headers",
        "future",
        "home",
        "max_tokens",
        "model",
        "raw",
        "sent_at",
        "submitted_at",
        "timeout",
    )

    counts = True

    #: Its answer comes in pieces.
    streams = False

    def __init__(
        self,
        *,
        number: int,
        cost: Cost,
        home: Lane,
        body: bytes,
        model: str,
        max_tokens: int,
        estimated_input: float,
        submitted_at: float,
        priority: int = Priority.NORMAL,
        tenant: Optional[str] = None,
        timeout: Optional[float] = None,
        parent_slot: Optional[ReentrantSlot] = None,
        raw: bool = False,
        extra_headers: Optional[Mapping[str, str]] = None,
        context: Optional[Context] = None,
    ) -> None:
        deadline = None if timeout is None else submitted_at + timeout
        super().__init__(
            number=number,
            cost=cost,
            priority=priority,
            tenant=tenant,
            deadline=deadline,
            parent_slot=parent_slot,
        )
        self.home = home
        #: The request as it will go on the wire: a snapshot taken at submit.
        self.body = body
        self.model = model
        self.max_tokens = max_tokens
        #: Input tokens by the size of the text, before what was learned scales it.
        self.estimated_input = estimated_input
        #: The server itself counted it.
        self.counted = False
        self.submitted_at = submitted_at
        self.timeout = timeout
        self.raw = raw
        self.extra_headers = extra_headers
        self.context = context
        self.sent_at: Optional[float] = None
        self.attempts: Optional[Attempt] = None
        self.future = CallFuture(self)

    @property
    def out(self) -> bool:
        return self.attempts is not None

    def reprice(self) -> Cost:
        return self.home.price(self)

    def claim(self) -> bool:
        return self.future.claim()

    def finish_cancel(self) -> None:
        self.future.finish_cancel()

    def commit(self, dispatch: Dispatch, slot_owner: SlotOwner) -> None:
        self.sent_at = dispatch.at
        self.attempts = Attempt(self, self.cost, slot_owner, dispatch)
        self.home.out.add(self.attempts)

    def leave(self) -> None:
        self.home.deliver(self)

    def detach(self) -> None:
        """It has ended: whatever still refers to it must not keep its text, nor its attempts."""
        self.body = b""
        attempts, self.attempts = self.attempts, None
        if attempts is not None:
            attempts.detach()

    def time_is_up(self) -> None:
        attempts = self.attempts
        error = self.deadline_exceeded(sent=attempts is not None and attempts.on_the_wire)
        if attempts is not None:
            attempts.stop(error)
        # Not left to its sender, which may be stuck where nothing reaches it, looking up a name.
        self.refuse(error)

    def deadline_exceeded(self, sent: bool) -> DeadlineExceeded:
        """What to say when its time is up."""
        where = (
            "was on the wire; it may be billed" if sent else "was still waiting; nothing was sent"
        )
        return DeadlineExceeded(
            f"call {self.number} ({self.model}) was given {self.timeout:g} s and {where}", sent=sent
        )

    def refuse(self, error: BaseException) -> None:
        self.home.end(self, error)

    def abandon(self, error: BaseException) -> None:
        """In a forked child: this is the parent's. Takes no lock.

        Greenlets survive a fork, and may be about to send it, or wait for its answer.
        """
        self.ended = True
        if self.attempts is not None:
            self.attempts.stopped_by = error
        self.future.abandon(error)


class CallFuture(Future[Any]):
    """A future whose ``cancel()`` frees its place in the line at once.

    A call that has left cannot be cancelled: ``cancel()`` returns False then.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        # An empty deque takes 624 bytes, a third of all a waiting call needs; a list does, too.
        self._condition._waiters = []  # type: ignore[attr-defined]
        # Popped by whoever sends it, cancels it, or ends it unsent.
        self._unclaimed = [True]
        #: Dropped at the end, or call and future would keep each other alive until the next
        #: collection.
        self._call: Optional[Call] = call

    def claim(self) -> bool:
        """Whether it is the caller's to send: nobody can cancel it any more.

        Takes no lock: the worker asks while it holds the lane's mutex, and a thread that holds this
        future's lock may be waiting for that.
        """
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True

    def result(self, timeout: Optional[float] = None) -> Any:
        if timeout is None:
            self._wait_until_done()
        return super().result(timeout)

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        if timeout is None:
            self._wait_until_done()
        return super().exception(timeout)

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
        """End what cancel() claimed. As its turn comes, too: Ctrl-C may have ended the cancel()."""
        with self._condition:
            is_news = self._state == PENDING
            if is_news:
                # Notified here and now: nobody else would, and futures.wait would wait for ever.
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
            call = self._call
        try:
            if call is not None and self.cancelled():
                call.home.withdraw(call)
        finally:
            if is_news:
                self._invoke_callbacks()  # type: ignore[attr-defined]

    def set_running_or_notify_cancel(self) -> bool:
        """Say that it was sent; False, and no word in the log, if it has ended before."""
        with self._condition:
            return not self.done() and super().set_running_or_notify_cancel()

    def give_up(self) -> None:
        """Nobody waits for the answer any more: cancel the call, or end it where it is."""
        call = self._call
        attempts = None if call is None else call.attempts
        if self.cancel() or call is None or attempts is None:
            return
        error = Closed("the caller gave up", sent=attempts.on_the_wire)
        attempts.stop(error)
        call.refuse(error)

    def abandon(self, error: BaseException) -> None:
        """End a copy that a fork left behind: its lock may be held by a thread that is not here."""
        self._unclaimed.clear()
        self._condition = threading.Condition()
        # Whoever they would tell is in the parent, and may hold locks there.
        self._waiters.clear()
        self._done_callbacks.clear()  # type: ignore[attr-defined]
        self._call = None
        if not self.done():
            self.set_exception(error)

    def forget(self) -> None:
        """Let go of the call."""
        self._call = None

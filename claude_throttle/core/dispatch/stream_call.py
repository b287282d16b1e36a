"""A call that its own caller carries: its answer comes in pieces.

Until its content begins it is a call like any other: it waits for its turn, is refused, waits
again. From then on its deadline has been kept, and only its end is still to be told. While its
answer comes, its place in flight is lent to the calls that its reader makes (``seat.py``).
"""

from __future__ import annotations

import threading
from typing import Any, Optional

from claude_throttle.core.dispatch.attempt import Attempt
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot, StreamSlotOwner
from claude_throttle.core.threads.clock import longest_wait
from claude_throttle.errors import Closed


class StreamCall(Call):
    """One streamed request on its way. Knows nothing of who reads it: he may be dropped."""

    __slots__ = ("_may_go", "begun", "reader")

    streams = True

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        #: Content came: it is not sent again, and no deadline ends it.
        self.begun = False
        #: Who read from it last.
        self.reader: Optional[threading.Thread] = None
        may_go = self._may_go = threading.Event()
        # Refused, cancelled, out of time: whatever ends it, its caller need not wait any more.
        self.future.add_done_callback(lambda _: may_go.set())

    @property
    def forgotten(self) -> bool:
        """Whether the thread that read from it is no more."""
        return self.reader is not None and not self.reader.is_alive()

    def leave(self) -> None:
        self._may_go.set()

    def time_is_up(self) -> None:
        if not self.begun:
            super().time_is_up()

    def wait(self) -> Attempt:
        """Return when it may be sent; raise what it was refused with. Ctrl-C ends wait and call."""
        try:
            while not self._may_go.wait(longest_wait()):
                pass
        except BaseException:
            self.future.give_up()
            raise
        attempts = self.attempts
        if attempts is None or self.future.done():
            raise self.why()
        return attempts

    def why(self) -> BaseException:
        """What it ended with, without its caller's doing."""
        error = None if self.future.cancelled() else self.future.exception(0)
        return error or Closed("the throttler was closed before this stream could begin")

    def lend(self, attempts: Attempt) -> ReentrantSlot:
        """An answer comes: whoever reads it may use its place for calls of his own meanwhile."""
        seat = ReentrantSlot()
        with self.home.mutex:
            slot_owner = attempts.slot_owner
            if slot_owner is not None:
                seat.open(slot_owner)
                attempts.slot_owner = StreamSlotOwner(seat)
        return seat

    def begin(self, attempts: Attempt, feedback: Feedback, counted: Optional[int]) -> None:
        """Content came after *counted* input tokens: settle those, and take in what was heard."""
        with self.home.mutex:
            self.begun = not self.ended  # its time may be up in this very moment
        self.home.accounting.begun(attempts, feedback, counted)

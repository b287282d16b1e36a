"""A call that is sent and read by its own caller's thread: its answer comes event by event.

Until its content begins it is a call like any other: it waits to be dispatched, is refused, waits
again. From then on its deadline has been kept, and only its end is still to be reported. While its
answer comes, its slot is lent to the calls that its reader makes (``reentrant_slot.py``).
"""

from __future__ import annotations

import threading
from typing import Any, Optional

from claude_throttle.core.dispatch.call import Attempt, Call
from claude_throttle.core.queueing.ticket import NOTHING, WaitedFor
from claude_throttle.core.threads.clock import longest_wait
from claude_throttle.errors import Closed


class StreamCall(Call):
    """One streamed request. It does not refer to its reader, which may be garbage collected."""

    __slots__ = ("_may_go", "begun", "reader")

    streams = True

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        #: Content came: it is not sent again, and no deadline ends it.
        self.begun = False
        #: The thread that read from it last.
        self.reader: Optional[threading.Thread] = None
        may_go = self._may_go = threading.Event()
        # Rejected, cancelled, out of time: whatever ends it, its caller need not wait any more.
        self.future.add_done_callback(lambda _: may_go.set())

    @property
    def is_orphan(self) -> bool:
        """Whether the thread that read from it has ended."""
        return self.reader is not None and not self.reader.is_alive()

    def proceed(self) -> None:
        self._may_go.set()

    def expire(self, why: WaitedFor = NOTHING) -> None:
        if not self.begun:
            super().expire(why)

    def wait_for_grant(self) -> Attempt:
        """Return when it may be sent; raise what it was rejected with. Ctrl-C ends the call."""
        try:
            while not self._may_go.wait(longest_wait()):
                pass
        except BaseException:
            self.future.give_up()
            raise
        attempt = self.attempt
        if attempt is None or self.future.done():
            raise self.end_reason()
        return attempt

    def end_reason(self) -> BaseException:
        """The error it ended with."""
        error = None if self.future.cancelled() else self.future.exception(0)
        return error or Closed("the throttler was closed before this stream could begin")

"""Streams on the inside: how one is opened, what it holds, how it ends.

Its reader has a :class:`MessageStream`, which refers to this and is never referred to: so it is
collected as soon as nobody reads it any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from claude_throttle.account import refusal_messages as refusals
from claude_throttle.core.dispatch.call import Attempt, Outcome, forget_in_progress, in_progress
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.estimation.input_tokens import BYTES_PER_TOKEN
from claude_throttle.core.queueing.reentrant_slot import Entry, OpenPermits, ReentrantSlot
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.errors import Closed
from claude_throttle.features.streaming.accumulator import MessageAccumulator
from claude_throttle.transport import sdk
from claude_throttle.transport.response_stream import EventStream, StreamEnded
from claude_throttle.transport.verdicts import broken

if TYPE_CHECKING:
    from claude_throttle.account.model_groups import ModelGroups
    from claude_throttle.account.suspensions import Suspensions
    from claude_throttle.core.dispatch.call import Call


class StreamContext(NamedTuple):
    """What all streams of one process have in common."""

    model_groups: ModelGroups
    access: Suspensions
    open_permits: OpenPermits
    deferred_closer: DeferredCloser


#: What may come before content.
PRELUDE = frozenset({"message_start"})


class OpenStream:
    """One stream on the wire. Read by one thread at a time.

    It may be closed by any thread, also while another one is in the midst of a read.
    """

    def __init__(
        self, desk: StreamContext, call: StreamCall, attempts: Attempt, answer: EventStream
    ) -> None:
        #: It has left.
        self.call = call
        self.received = MessageAccumulator()
        #: Why it ended before its end; None if it did not, or by close().
        self.error: Optional[BaseException] = None
        self.request_id: Optional[str] = None
        self._desk = desk
        self._lane: Lane = desk.model_groups.of_call(call).lane
        self._attempts = attempts
        self._answer = answer
        self._pid = os.getpid()
        self._ready: deque[dict[str, Any]] = deque()
        # Held by whoever reads from the connection, or closes it; nobody waits for it.
        self._in_use = threading.Lock()
        # Whoever pops it does the closing: a list's pop is atomic.
        self._unsettled = [True]
        #: The attempt whose events are being read; 0 before the first.
        self._attempt = 0
        self._seat = ReentrantSlot()
        self._entry: Optional[Entry] = None
        self._busy: list[Call] = []

    def open(self) -> None:
        """Send it, and read its first event; raises what went wrong."""
        call = self.call
        try:
            in_progress.mine().append(call)
            call.future.set_running_or_notify_cancel()
            self._attempts.announce()
            first = self._answer.open()
            forget_in_progress(call)
            self._lend()
            self._take_in(first)
        except StreamEnded as end:
            self._settle(end.outcome)
            self._answer.close()
            raise self._why(end.outcome.error) from None
        except BaseException as error:
            # Ctrl-C, or a bug: whatever it is, nothing of it is left behind.
            self._give_up(error)
            self._answer.close()
            raise

    def _lend(self) -> None:
        """An attempt is being answered."""
        attempts = self._attempts
        self._stand_up()
        self.request_id = self._answer.request_id
        self._seat = self._lane.lend_slot(attempts)
        attempts.when_stopped = self.close
        if attempts.stopped:
            raise StreamEnded(Outcome(error=attempts.stopped_by))
        if not self._attempt:
            self._desk.deferred_closer.opened()
        self._attempt = attempts.number
        self._sit_down()

    def _begin(self) -> None:
        """Its content begins."""
        call, answer = self.call, self._answer
        usage = self.received.usage()
        counted = usage and usage.counted_input_tokens(self._lane.counts_cache_reads)
        self._lane.accounting.stream_begun(call, answer.feedback, counted)
        answer.begin(call.timeout)
        self._desk.access.answered(call, self._attempts.dispatch.at)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more will be read from the wire."""
        return not self._unsettled

    def next(self) -> Optional[dict[str, Any]]:
        """The next event; None after the last. Raises what ended it."""
        if self._pid != os.getpid():
            raise refusals.forked(self.call)
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another thread is reading from this stream, or closing it")
        try:
            return self._next()
        except StreamEnded as end:
            self._settle(end.outcome)
            raise self._why(end.outcome.error) from None
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._in_use.release()
            self._let_go_if_ended()

    def _let_go_if_ended(self) -> None:
        """Whoever was in the midst of a read, or of this, does it afterwards."""
        if self.ended and self._in_use.acquire(blocking=False):
            try:
                self._answer.close()
            finally:
                self._in_use.release()

    def _next(self) -> Optional[dict[str, Any]]:
        if self.ended and not self.received.complete:
            raise self._why(self.error or _closed())
        if not self._ready:
            if self.ended:
                return None
            self._sit_down()
            self._read()
        return self._ready.popleft()

    def _read(self) -> None:
        event = self._answer.next()
        if self._attempts.number != self._attempt:
            # Refused before its content, and sent again. Its reader has had a message_start.
            self.received = MessageAccumulator()
            self._lend()
            self._take_in(event)
            if event["type"] in PRELUDE:
                self._ready.clear()
                self._read()
            return
        self._take_in(event)

    def _take_in(self, event: dict[str, Any]) -> None:
        if not self.call.begun and event["type"] not in PRELUDE:
            self._begin()
        try:
            self.received.feed(event)
        except ValueError as error:
            raise StreamEnded(Outcome(error=broken(str(error), self._answer.request_id))) from None
        self._ready.append(event)
        if self.received.complete:
            self._answer.finish()
            self._learn()
            self._settle(Outcome(status=200, request_id=self.request_id))

    def _learn(self) -> None:
        usage, call = self.received.usage(), self.call
        if usage is not None and self.received.counted:
            self._desk.model_groups.learn(call, usage)

    def _sit_down(self) -> None:
        """Calls made by this thread ride on its place, wherever it was opened."""
        entry, mine = self._entry, self._desk.open_permits.mine_by_age
        if entry is None or entry[0] is not mine:
            self._stand_up()
            self._entry = (mine, self._seat)
            self._desk.open_permits.add(self._entry)
            self.call.reader = threading.current_thread()
            self._busy = in_progress.mine()
            self._busy.append(self.call)

    def _stand_up(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._desk.open_permits.remove(entry)
            with contextlib.suppress(ValueError):
                self._busy.remove(self.call)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End it now, if it has not ended. From any thread; never waits for the server."""
        if self._pid != os.getpid() or self.ended:
            return
        # Others may have stopped it: with the throttler, by its deadline.
        stopped_by = self._attempts.stopped_by
        self._stop(_closed())
        self._settle(Outcome(error=stopped_by, status=200, request_id=self.request_id))
        self._let_go_if_ended()

    def _stop(self, error: BaseException) -> None:
        """Whoever reads, or waits for another turn, gets *error*."""
        self._attempts.when_stopped = None
        self._attempts.stop(error)

    def _give_up(self, error: BaseException) -> None:
        """By Ctrl-C, or a bug."""
        forget_in_progress(self.call)
        if not isinstance(error, Exception):
            error = Closed("the caller gave up", sent=self._attempts.on_the_wire)
        if not self.ended:
            self._stop(error)
            self._settle(Outcome(error=error))

    def drop(self) -> None:
        """Have it closed soon, by another thread. Takes no lock."""
        if self._pid == os.getpid() and not self.ended:
            self._desk.deferred_closer.drop(self)

    def _settle(self, outcome: Outcome) -> None:
        """Book what it took and give its place back, once."""
        try:
            if self._take_settling():
                self._stand_up()
                self.error = outcome.error
                if self.call.begun or outcome.error is None:
                    outcome = outcome._replace(usage=self._took())
                self.call.finish(outcome)
                if self._attempt:
                    self._desk.deferred_closer.closed()
        except KeyboardInterrupt:
            if not self.call.ended:
                self._unsettled[:] = [True]  # whoever closes it now does it
            raise

    def _take_settling(self) -> bool:
        try:
            self._unsettled.pop()
        except IndexError:
            return False
        return True

    def _took(self) -> Optional[Usage]:
        """What the server counted; of an answer it never counted, what could be seen of it."""
        usage = self.received.usage()
        if usage is None or self.received.counted:
            return usage
        seen = int(self.received.written_bytes / BYTES_PER_TOKEN)
        return usage._replace(output_tokens=max(usage.output_tokens, seen))

    def message(self) -> Any:
        """What was received so far, as its reader wants it; None before it began."""
        snapshot = self.received.snapshot()
        if snapshot is None or self.call.raw:
            return snapshot
        return sdk.build_message(snapshot, self.request_id)

    def _why(self, error: Optional[BaseException]) -> BaseException:
        """The error for its reader, with what was received."""
        error = self.error = error or self.call.end_reason()
        if not hasattr(error, "partial_message"):
            error.partial_message = self.message()  # type: ignore[attr-defined]
        return error


def _closed() -> Closed:
    """For whoever reads on: half an answer must not look like a whole one."""
    return Closed("this stream was closed before its end", sent=True)

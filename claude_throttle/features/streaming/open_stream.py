"""An open stream on the inside: how it is sent, what it holds, and how it ends.

Its reader has a :class:`MessageStream`, which refers to this object, while nothing refers to that:
so a dropped one is garbage collected at once.

The trap: a stream may be ended by its reader, by close() in another thread, by a deadline, by the
server and by Ctrl-C, two of them at once. Its slot and its booked tokens must be given back exactly
once, so the end is claimed by an atomic operation (``_claim_end``); and close() must not wait for a
reader that waits for the server, so no lock is waited for.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from claude_throttle.account import refusal_messages
from claude_throttle.core.dispatch.call import Attempt, Outcome, forget_in_progress, in_progress
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.core.dispatch.wire_time import WireTime
from claude_throttle.core.domain.cost import Usage
from claude_throttle.core.estimation.estimator import BYTES_PER_TOKEN
from claude_throttle.core.queueing.reentrant_slot import Entry, OpenPermits, ReentrantSlot
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.error_watch import note_error
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
    """What all streams of one account in one process use."""

    model_groups: ModelGroups
    suspensions: Suspensions
    open_permits: OpenPermits
    deferred_closer: DeferredCloser


#: Types of events that come before content. After them the call can still be sent again, and the
#: reader gets only the first ``message_start``.
PRELUDE = frozenset({"message_start"})


class OpenStream:
    """One streamed call, from its first send to its last event.

    Read by one thread at a time, a second one gets RuntimeError; any thread may close it, even
    while another one reads. In a forked child, reading raises Forked and closing does nothing. The
    slot that it holds is lent to the calls of its reading thread, which would otherwise wait for a
    slot that only they can free.
    """

    def __init__(
        self, context: StreamContext, call: StreamCall, attempt: Attempt, events: EventStream
    ) -> None:
        self.call = call
        self.received = MessageAccumulator()
        #: The error that ended it early; None if there was none, or after close().
        self.error: Optional[BaseException] = None
        self.request_id: Optional[str] = None
        self._context = context
        self._lane: Lane = context.model_groups.of_call(call).lane
        self._attempt = attempt
        self._events = events
        self._sent_at = self._lane.now() if call.sent_at is None else call.sent_at
        self._wire_time = WireTime(self._lane.now, self._sent_at)
        self._pid = os.getpid()
        #: What it took, once its last event told.
        self._used: Optional[Usage] = None
        self._ready: deque[dict[str, Any]] = deque()
        # Held while a thread reads from the connection, or closes it. No thread waits for it.
        self._in_use = threading.Lock()
        # The thread that pops it ends the call: a list's pop is atomic.
        self._unfinished = [True]
        #: Number of the attempt whose events are being read; 0 before the first.
        self._answered_number = 0
        self._slot = ReentrantSlot()
        self._entry: Optional[Entry] = None
        self._in_progress: list[Call] = []

    def send_and_read_first(self) -> None:
        """Send the call and read its first event. Raises what a call's future would raise."""
        call = self.call
        try:
            in_progress.mine().append(call)
            call.future.set_running_or_notify_cancel()
            self.call.callbacks.announce(self._attempt)
            first = self._events.open()
            self._wire_time.end_read()
            forget_in_progress(call)
            self._lend_slot()
            self._accept(first)
        except StreamEnded as end:
            # Also where another thread ended it, at its deadline: _finish() does nothing then.
            forget_in_progress(call)
            self._finish(end.outcome)
            self._events.close()
            raise self._reader_error(end.outcome.error) from None
        except BaseException as error:
            # Ctrl-C, or a bug: permit and connection must not stay behind.
            self._give_up(error)
            self._events.close()
            raise

    def _lend_slot(self) -> None:
        """Lend the slot of the attempt that is being answered to the calls of its reader."""
        attempt = self._attempt
        self._end_lending()
        self.request_id = self._events.request_id
        self._slot = self._lane.lend_slot(attempt)
        attempt.when_stopped = self.close
        if attempt.stopped:
            raise StreamEnded(Outcome(error=attempt.stopped_by))
        self._answered_number = attempt.number
        self._lend_to_this_thread()

    def _begin(self) -> None:
        """Settle the input tokens and report the answer: content begins, no retry follows."""
        call, events = self.call, self._events
        usage = self.received.usage()
        counted = usage and usage.counted_input_tokens(self._lane.counts_cache_reads)
        self._lane.accounting.stream_begun(call, events.feedback, counted)
        events.begin(call.timeout)
        self._context.suspensions.answered(call, self._attempt.dispatch.at)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def response_head(self) -> sdk.PlainResponse:
        """The head of the answer."""
        return self._events.response_head

    @property
    def ended(self) -> bool:
        """Whether nothing more will be read from the wire."""
        return not self._unfinished

    def next_event(self) -> Optional[dict[str, Any]]:
        """The next event; None after the last. Raises what ended it."""
        self._require_own_process()
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another thread is reading from this stream, or closing it")
        try:
            return self._next()
        except StreamEnded as end:
            self._finish(end.outcome)
            raise self._reader_error(end.outcome.error) from None
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._in_use.release()
            self._close_connection_if_ended()

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise refusal_messages.forked(self.call)

    def _close_connection_if_ended(self) -> None:
        """Close the connection, unless a thread is reading: that one does it afterwards."""
        if self.ended and self._in_use.acquire(blocking=False):
            try:
                self._events.close()
            finally:
                self._in_use.release()

    def read_on(self) -> None:
        """Lend the slot to this thread, which reads. Raises what ended the stream early."""
        self._require_own_process()
        if not self.ended:
            self._lend_to_this_thread()
        elif self.error is not None or not self.received.complete:
            raise self._reader_error(self.error or _closed())

    def _next(self) -> Optional[dict[str, Any]]:
        self.read_on()
        if not self._ready:
            if self.ended and self.received.complete:
                return None
            self._read()
        return self._ready.popleft()

    def _read(self) -> None:
        began = self._wire_time.now()
        event = self._events.next()
        self._wire_time.end_read(began)
        if self._attempt.number != self._answered_number:
            # Refused before content, and sent again. The reader has had a message_start already.
            self.received = MessageAccumulator()
            self._lend_slot()
            self._accept(event)
            if event["type"] in PRELUDE:
                self._ready.clear()
                self._read()
            return
        self._accept(event)

    def _accept(self, event: dict[str, Any]) -> None:
        if not self.call.begun and event["type"] not in PRELUDE:
            self._begin()
        try:
            self.received.add_event(event)
        except ValueError as error:
            raise StreamEnded(Outcome(error=broken(str(error), self._events.request_id))) from None
        self._ready.append(event)
        if self.received.complete:
            self._learn()
            self._events.read_to_end()
            self._finish(Outcome(status=200, request_id=self.request_id))

    def _learn(self) -> None:
        usage, call = self.received.usage(), self.call
        if usage is not None and self.received.counted:
            self._used = self._context.model_groups.own_usage(self._lane.name, usage)
            self._context.model_groups.learn(call, self._used)

    def _lend_to_this_thread(self) -> None:
        """Let calls made by this thread use its slot, whichever thread opened it."""
        entry, mine = self._entry, self._context.open_permits.mine()
        if entry is None or entry[0] is not mine:
            self._end_lending()
            self._entry = (mine, self._slot)
            self._context.open_permits.append(self._entry)
            self.call.reader = threading.current_thread()
            self._in_progress = in_progress.mine()
            self._in_progress.append(self.call)
            if self.ended:  # by another thread, meanwhile
                self._end_lending()

    def _end_lending(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._context.open_permits.remove(entry)
            with contextlib.suppress(ValueError):
                self._in_progress.remove(self.call)

    # -- how it ends -----------------------------------------------------------------------------

    def close(self) -> None:
        """End it now. Idempotent; from any thread; never waits for the server."""
        if self._pid != os.getpid() or self.ended:
            return
        # It may have been stopped before: by close() of the throttler, or by its deadline.
        stopped_by = self._attempt.stopped_by
        self._stop(_closed())
        self._finish(Outcome(error=stopped_by, status=200, request_id=self.request_id))
        self._close_connection_if_ended()

    def _stop(self, error: BaseException) -> None:
        """Raise *error* in the thread that reads, or that waits for another turn."""
        self._attempt.when_stopped = None
        self._attempt.stop(error)

    def _give_up(self, error: BaseException) -> None:
        """End it after Ctrl-C, or a bug."""
        forget_in_progress(self.call)
        if not isinstance(error, Exception):
            error = Closed("the caller gave up", sent=self._attempt.on_the_wire)
        if not self.ended:
            self._stop(error)
            self._finish(Outcome(error=error))

    def close_soon(self) -> None:
        """Have another thread close it. Takes no lock: the garbage collector may call it."""
        if self._pid == os.getpid() and not self.ended:
            self._context.deferred_closer.drop(self)

    # Before content, a call that failed used nothing that the stream could know of: its outcome
    # says what to settle. After it, the usage is known or estimated here.
    def _finish(self, outcome: Outcome) -> None:
        """Settle its usage and give its slot back, once."""
        try:
            if self._claim_end():
                self._end_lending()
                self.error = outcome.error
                if self.call.begun or outcome.error is None:
                    answered_at = self._sent_at + (self._wire_time.seconds or 0.0)
                    outcome = outcome._replace(usage=self._usage(), answered_at=answered_at)
                self.call.finish(outcome)
        except KeyboardInterrupt:
            # Between the claim and the end of the call: let another thread claim it again.
            if not self.call.ended:
                self._unfinished[:] = [True]  # to be done by close()
            raise

    def _claim_end(self) -> bool:
        try:
            self._unfinished.pop()
        except IndexError:
            return False
        return True

    def _usage(self) -> Optional[Usage]:
        """The server's count; without one, an estimate by the text that came."""
        if self._used is not None:
            return self._used
        usage = self.received.usage()
        if usage is not None:
            usage = self._context.model_groups.own_usage(self._lane.name, usage)
        if usage is None or self.received.counted:
            return usage
        seen = int(self.received.written_bytes / BYTES_PER_TOKEN)
        return usage._replace(output_tokens=max(usage.output_tokens, seen))

    def _reader_error(self, error: Optional[BaseException]) -> BaseException:
        """The error for its reader, with what was received as ``partial_message``."""
        error = self.error = error or self.call.end_reason()
        if not hasattr(error, "partial_message"):
            partial = self.received.message_as(self.call.raw, self.request_id)
            error.partial_message = partial  # type: ignore[attr-defined]
        note_error(error)
        return error


def _closed() -> Closed:
    """The error for reading on after close(): half an answer must not look whole."""
    return Closed("this stream was closed before its end", sent=True)

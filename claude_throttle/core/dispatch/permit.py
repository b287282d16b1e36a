"""Admission without the transport: for requests that other code sends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union

from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.wire_time import WireTime
from claude_throttle.core.domain.cost import NO_USAGE, UNKNOWN_SIZE, Cost, Usage
from claude_throttle.core.domain.events import PermitClosed, PermitGranted
from claude_throttle.core.domain.feedback import DOUBT, Dispatch, ResponseReport
from claude_throttle.core.domain.ports import FeedbackReader, HeldSlot
from claude_throttle.core.queueing.reentrant_slot import Entry, OpenPermits, ReentrantSlot
from claude_throttle.core.queueing.ticket import NOTHING, WaitedFor, WaitingTicket
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.errors import DeadlineExceeded

# Half of what NamedTuple's own constructor takes; three for each permit.
_new = tuple.__new__


class AdmissionOptions(NamedTuple):
    """How a permit is waited for."""

    priority: int
    tenant: Optional[str]
    #: Seconds, or None.
    timeout: Optional[float]


class PermitTicket(WaitingTicket):
    """A permit's place in the backlog, and then in flight.

    The lane may keep it until its deadline, so it does not refer to its permit: one that is dropped
    must be found by the garbage collector at once.
    """

    __slots__ = ("dispatch", "granted", "place_in", "reports_outcome", "size", "slot")

    def __init__(self, reports_outcome: bool, *place: Any) -> None:
        super().__init__(*place)
        #: Its holder is sure to report how the request ended, if only that it is not known.
        self.reports_outcome = reports_outcome
        self.size = UNKNOWN_SIZE
        #: The name of its lane, and the seconds that it may wait there.
        self.place_in = ("", 0.0)
        self.dispatch: Optional[Dispatch] = None
        #: Lent to calls that its thread makes meanwhile.
        self.slot = ReentrantSlot()
        # Popped by the thread that closes it: that is one atomic step.
        self.granted: list[bool] = []

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        self.dispatch = dispatch
        self.slot.lend(slot)
        self.granted.append(True)

    @property
    def has_left(self) -> bool:
        return self.slot.is_open

    @property
    def is_out(self) -> bool:
        return self.has_left and not self.slot.lent

    def expire(self, why: WaitedFor = NOTHING) -> None:
        lane, seconds = self.place_in
        text = (
            f"permit {self.number} ({lane}) was given {seconds:.3g} s and was still waiting "
            f"for its turn; nothing was sent{why.words}"
        )
        self.reject(DeadlineExceeded(text, retry_after=why.seconds))


class RepeatedPermitTicket(PermitTicket):
    """The place of a request that was refused: the one it had, which its tenant paid for."""

    __slots__ = ()

    charges_tenant = False


class Permit:
    """The right to send one request now. A context manager.

    ``settle()`` tells what it really took; without it the estimate stays booked. ``close()`` gives
    the permit back and is idempotent. May be settled and closed by any thread; in a forked child
    neither does anything. A permit that is dropped without ``close()`` is closed by another thread
    soon after it was garbage collected::

        with throttler.permit(model="claude-haiku-4-5", max_tokens=100) as permit:
            answer = send_it_yourself()
            permit.settle(answer)
    """

    __slots__ = (
        "_deferred_closer",
        "_dropped",
        "_entry",
        "_feedback_reader",
        "_lane",
        "_pid",
        "_report",
        "_settled",
        "_took",
        "ticket",
        "wire_time",
    )

    def __init__(
        self,
        ticket: PermitTicket,
        lane: Lane,
        open_slots: list[ReentrantSlot],
        feedback_reader: FeedbackReader,
        deferred_closer: DeferredCloser,
    ) -> None:
        """*open_slots*: those of its thread's open permits."""
        #: Its place in the backlog.
        self.ticket = ticket
        self._lane = lane
        self._feedback_reader = feedback_reader
        self._deferred_closer = deferred_closer
        # Known before it is added: close() needs it, and Ctrl-C may come in between.
        self._entry: Entry = (open_slots, ticket.slot)
        # A forked child must not touch what its copy refers to.
        self._pid = feedback_reader.pid
        self._settled = self._dropped = False
        self._report: Optional[ResponseReport] = None
        self._took: Optional[Usage] = None
        #: Of its request's answer; None before the grant.
        self.wire_time: Optional[WireTime] = None

    def acquire(self) -> None:
        """Wait for it; Ctrl-C ends the wait. Raises Closed or DeadlineExceeded."""
        lane, ticket = self._lane, self.ticket
        asked_at = lane.now()
        try:
            lane.permits.add(ticket)
            if not lane.try_grant(ticket):
                lane.ask(ticket)
                ticket.wait_for_grant()
                lane.withdraw_ticket(ticket)  # its deadline was one for the wait
            OpenPermits.append(self._entry)
            dispatch = ticket.dispatch
            if dispatch is not None:
                self.wire_time = WireTime(lane.now, dispatch.at)
                lane.announce(dispatch, None)
                waited = dispatch.at - asked_at
                lane.observe(_new(PermitGranted, (ticket.number, lane.name, waited)), None)
        except BaseException:
            lane.withdraw_ticket(ticket)
            lane.permits.discard(ticket)
            self.close()
            raise

    # -- what came of it -------------------------------------------------------------------------

    def settle(
        self,
        response: Any = ...,
        *,
        usage: Optional[Any] = None,
        headers: Optional[Mapping[str, str]] = None,
        status: Optional[int] = None,
        body: Union[bytes, str] = b"",
    ) -> None:
        """Book what the request really took instead of the estimate; the first time counts.

            >>> permit.settle(response)

        *response*: a message of the SDK or its dict; a response of ``requests`` or ``httpx``, or of
        the SDK's ``with_raw_response``; the SDK's stream, read to its end; a usage; or the
        exception that one of these libraries raised. It teaches the pace as the answer to a call
        does: limits are learned, a 429 pauses the lane for ``retry-after``, failures in a row open
        the circuit. Raises TypeError for anything else, None included.

        Or what is known of it, which goes before what *response* says: *usage*, a mapping or an
        object with ``input_tokens`` and ``output_tokens``; *headers*; *status* (200 if only headers
        are given); the *body* of a refusal, which tells which it is. Without usage, an answer
        leaves the estimate booked, and a refusal that says it took nothing (429, 529) books
        nothing. settle() alone: it took no tokens, as after a refusal.
        """
        if self.wire_time is not None and self.wire_time.seconds is None:
            self.wire_time.end_read()
        report, took = self._feedback_reader.read_outcome(response, usage, headers, status, body)
        took = None if took is None else self._own(took)
        if report is None:
            self.settle_usage(took or NO_USAGE)
        else:
            self.settle_report(report, took)

    def _own(self, took: Usage) -> Usage:
        """The part of *took* that its own lane has to bear."""
        if type(took) is Usage or self._pid != os.getpid():
            return took
        return self._feedback_reader.own_usage(self._lane.name, took)

    def settle_report(self, report: ResponseReport, took: Optional[Usage] = None) -> ResponseReport:
        """Book what it *took*, if that is known, and tell the pacer what the server said; once.

        Returns the report as the pacer took it.
        """
        ticket, lane, dispatch = self.ticket, self._lane, self.ticket.dispatch
        if dispatch is None or self._report is not None or self._pid != os.getpid():
            return report
        if report.feedback.account is not None:
            weighed = self._feedback_reader.weigh_refusal(lane.name, report.feedback, dispatch)
            again = weighed.cause == DOUBT or report.again
            report = report._replace(feedback=weighed, again=again)
        self._report, actual = report, None
        self._took = took
        if not self._settled and (took is not None or not report.keeps_tokens):
            self._settled, actual = True, self._cost_of(took or NO_USAGE)
        expected = ticket.reports_outcome
        delay = lane.accounting.report_permit(
            ticket.cost, actual, dispatch, report, expected, ticket.size
        )
        if not report.refused:
            self._feedback_reader.request_accepted(lane.name, dispatch.at)
            return report
        if delay.may_follow(1):
            return report._replace(delay=delay)
        return report._replace(delay=delay, again=False, passes=False)

    def settle_usage(self, took: Usage, ended: bool = True) -> None:
        """Book what it *took*, once.

        Not *ended*: it was cut off, and how much it produced is not known.
        """
        if self._pid == os.getpid():
            if not self._settled:
                self._took = took
            self._settle(self._cost_of(took, ended))

    def _cost_of(self, took: Usage, ended: bool = True) -> Cost:
        counted = took.counted_input_tokens(self._lane.counts_cache_reads)
        estimate = 0.0 if ended else self.ticket.cost.output_tokens
        return _new(Cost, (1.0, counted, max(estimate, took.output_tokens)))

    def _settle(self, actual: Cost) -> None:
        dispatch = self.ticket.dispatch
        if dispatch is not None and not self._settled:
            self._settled = True
            self._lane.accounting.settle_permit(self.ticket.cost, actual, dispatch.at)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Give it back."""
        if not self._take_closing():
            return
        ticket = self.ticket
        unsettled = not self._settled and self._report is None and self._took is None
        try:
            if self._dropped and self._took is not None:
                self.settle_usage(self._own(self._took), ended=False)
            if not self._settled:
                self._settle(ticket.cost)
            if ticket.reports_outcome and self._report is None:
                self._lane.accounting.permit_unreported()
        finally:
            ticket.slot.release_nowait()
            self._lane.permits.discard(ticket)
        self._lane.accounting.slot_released(ticket)
        if unsettled or not self._dropped:
            self._tell_the_end()
        if unsettled and not ticket.reports_outcome:
            self._feedback_reader.permit_unsettled()

    def _tell_the_end(self) -> None:
        ticket, lane, report = self.ticket, self._lane, self._report
        if ticket.dispatch is not None:
            seconds = None if self.wire_time is None else self.wire_time.seconds
            if seconds is None:
                seconds = lane.now() - ticket.dispatch.at
            status = None if report is None else report.feedback.status
            refused = report is not None and report.refused
            told = ticket.number, lane.name, seconds, status, refused, self._took
            lane.observe(_new(PermitClosed, told), None)

    def drop(self, took: Optional[Usage] = None) -> None:
        """Have it closed soon, by another thread; *took*: what is known of it so far.

        Takes no lock: the garbage collector may call it.
        """
        if self.ticket.granted and self._pid == os.getpid():
            self._dropped = True
            if took is not None:
                self._took = took
            OpenPermits.remove(self._entry)
            self.ticket.slot.release_nowait()
            self._lane.permits.discard(self.ticket)
            self._deferred_closer.drop(self)

    def _take_closing(self) -> bool:
        """Whether this caller is to close it, in the process where it was opened."""
        try:
            self.ticket.granted.pop()
        except IndexError:
            return False
        if self._pid != os.getpid():
            return False
        OpenPermits.remove(self._entry)
        return True

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # May run anywhere, even under a lock of ours.
        try:
            ticket = self.ticket
        except AttributeError:
            return  # Ctrl-C came as it was made
        if ticket.dispatch is not None and not ticket.slot.closed:
            if not ticket.granted:  # Ctrl-C came in the very instant of its grant or of its closing
                ticket.granted.append(True)
            self.drop()

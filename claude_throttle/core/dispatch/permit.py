"""Admission without the wire: for whoever sends the request himself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Optional

from claude_throttle.core.dispatch.accounting import DroppedPermit
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import NO_USAGE, Cost, Usage
from claude_throttle.core.domain.events import PermitClosed, PermitGranted
from claude_throttle.core.domain.feedback import Dispatch, ResponseReport
from claude_throttle.core.domain.ports import FeedbackReader, SlotOwner
from claude_throttle.core.queueing.reentrant_slot import Entry, OpenPermits, ReentrantSlot
from claude_throttle.core.queueing.ticket import WaitingTicket
from claude_throttle.errors import DeadlineExceeded


class AdmissionOptions(NamedTuple):
    """How a permit is waited for."""

    priority: int
    tenant: Optional[str]
    #: Seconds, or None.
    timeout: Optional[float]


class PermitTicket(WaitingTicket):
    """The place of a permit in the line, and then in flight.

    The lane may keep it until its deadline, so it does not know the permit it is for: a permit that
    is dropped must be found by the garbage collector at once.
    """

    __slots__ = ("dispatch", "granted", "reports_outcome", "seat")

    def __init__(self, reports_outcome: bool, *place: Any) -> None:
        super().__init__(*place)
        #: Somebody is sure to say how it ended, if only that nobody knows.
        self.reports_outcome = reports_outcome
        self.dispatch: Optional[Dispatch] = None
        self.seat = ReentrantSlot()
        # Whoever pops it does the closing: a list's pop is atomic, and needs no lock in __del__.
        self.granted: list[bool] = []

    def grant_locked(self, dispatch: Dispatch, slot_owner: SlotOwner) -> None:
        self.dispatch = dispatch
        self.seat.open(slot_owner)
        self.granted.append(True)

    @property
    def has_left(self) -> bool:
        return self.seat.has_place

    def expire(self) -> None:
        self.reject(DeadlineExceeded("no permit was free in time; nothing was sent"))


class Permit:
    """The right to send one request now. A context manager.

    ``settle()`` tells what it really took; without it the estimate stays booked. ``close()`` gives
    the permit back and is idempotent. May be settled and closed by any thread. A permit that is
    dropped without ``close()`` comes back when it is garbage collected.
    """

    __slots__ = (
        "_entry",
        "_feedback_reader",
        "_lane",
        "_pid",
        "_report",
        "_settled",
        "_took",
        "ticket",
    )

    def __init__(
        self,
        ticket: PermitTicket,
        lane: Lane,
        seats: list[ReentrantSlot],
        feedback_reader: FeedbackReader,
    ) -> None:
        #: Its place in the line.
        self.ticket = ticket
        self._lane = lane
        self._feedback_reader = feedback_reader
        # Known before it is added: who closes it needs it, and Ctrl-C may come in between.
        self._entry: Entry = (seats, ticket.seat)
        # A forked child must not touch what its copy refers to.
        self._pid = feedback_reader.pid
        self._settled = False
        self._report: Optional[ResponseReport] = None
        self._took: Optional[Usage] = None

    def acquire(self) -> None:
        """Wait for it; Ctrl-C ends the wait. Raises Closed or DeadlineExceeded."""
        lane, turn = self._lane, self.ticket
        asked_at = lane.now()
        try:
            if not lane.try_grant(turn):
                lane.ask(turn)
                turn.wait_for_grant()
                lane.withdraw_ticket(turn)  # its deadline was one for the wait
            OpenPermits.add(self._entry)
            dispatch = turn.dispatch
            if dispatch is not None:
                lane.announce(dispatch, None)
                lane.observe(PermitGranted(turn.number, lane.name, dispatch.at - asked_at), None)
        except BaseException:
            lane.withdraw_ticket(turn)
            self.close()
            raise

    # -- what came of it -------------------------------------------------------------------------

    def settle(
        self,
        usage: Optional[Any] = None,
        *,
        headers: Optional[Mapping[str, str]] = None,
        status: Optional[int] = None,
        body: bytes = b"",
    ) -> None:
        """Book what the request really took instead of the estimate; the first time counts.

        *usage* is a mapping or an object with ``input_tokens`` and ``output_tokens`` (and
        ``cache_creation_input_tokens``), as the API's answers carry it.

        *headers* and *status* (200 if only headers are given) are the answer's, and teach the pace
        as the answer to a call does: limits are learned, a 429 pauses the lane for ``retry-after``,
        failures in a row open the circuit. The *body* of a refusal tells which it is. Without
        usage, an answer leaves the estimate booked, and a refusal that says it took nothing (429,
        529) books nothing. settle() alone: it took no tokens, as after a refusal.
        """
        took = None if usage is None else _usage_of(usage)
        if headers is None and status is None:
            self.book(took or NO_USAGE)
            return
        told = headers if headers is not None else {}
        self.hear(self._feedback_reader.read(200 if status is None else status, told, body), took)

    def hear(self, report: ResponseReport, took: Optional[Usage] = None) -> None:
        """Book what it *took*, if that is known, and pass on what the server said; once."""
        turn, lane = self.ticket, self._lane
        if turn.dispatch is None or self._report is not None or self._pid != os.getpid():
            return
        self._report, actual = report, None
        self._took = took
        if not self._settled and (took is not None or not report.keeps_tokens):
            self._settled, actual = True, self._cost_of(took or NO_USAGE)
        lane.accounting.report_permit(
            turn.cost, actual, turn.dispatch, report, turn.reports_outcome
        )
        if report.feedback.account is not None:
            self._feedback_reader.account_refused(lane.name, report.feedback.account)
        elif not report.refused:
            self._feedback_reader.answered(lane.name, turn.dispatch.at)

    def book(self, took: Usage, ended: bool = True) -> None:
        """Book what it *took*, once.

        Not *ended*: it was cut off in the midst, and how much it produced is not known.
        """
        if self._pid == os.getpid():
            if not self._settled:
                self._took = took
            self._settle(self._cost_of(took, ended))

    def _cost_of(self, took: Usage, ended: bool = True) -> Cost:
        counted = took.counted_input_tokens(self._lane.counts_cache_reads)
        estimate = 0.0 if ended else self.ticket.cost.output_tokens
        return Cost(1.0, counted, max(estimate, took.output_tokens))

    def _settle(self, actual: Cost) -> None:
        dispatch = self.ticket.dispatch
        if dispatch is not None and not self._settled:
            self._settled = True
            self._lane.accounting.settle_permit(self.ticket.cost, actual, dispatch.at)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Give it back."""
        if self._take_closing():
            try:
                self._settle(self.ticket.cost)
                if self.ticket.reports_outcome and self._report is None:
                    self._lane.accounting.permit_unreported()
                self.ticket.seat.close()
            except BaseException:
                self.ticket.seat.close(quietly=True)
                raise
            if self.ticket.parent_slot is not None:
                self._lane.wake()
            self._tell_the_end()

    def _tell_the_end(self) -> None:
        turn, lane, report = self.ticket, self._lane, self._report
        if turn.dispatch is not None:
            seconds = lane.now() - turn.dispatch.at
            status = None if report is None else report.feedback.status
            refused = report is not None and report.refused
            lane.observe(
                PermitClosed(turn.number, lane.name, seconds, status, refused, self._took), None
            )

    def drop(self, took: Optional[Usage] = None, ended: bool = False) -> None:
        """The same without a lock, as the garbage collector does it; the worker looks often.

        *took* and *ended* as for book().
        """
        if self._take_closing():
            turn = self.ticket
            if turn.dispatch is not None:
                held = None if self._settled else turn.cost
                actual = None if took is None else self._cost_of(took, ended)
                unheard = turn.reports_outcome and self._report is None
                self._lane.accounting.dropped.append(
                    DroppedPermit(held, actual, turn.dispatch.at, unheard)
                )
            turn.seat.close(quietly=True)

    def _take_closing(self) -> bool:
        """Whether it is this caller who closes it, in the process where it was opened."""
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
            turn = self.ticket
        except AttributeError:
            return  # Ctrl-C came as it was made
        if turn.dispatch is not None and not turn.seat.closed:
            if not turn.granted:  # Ctrl-C came in the very instant of its grant or of its closing
                turn.granted.append(True)
            self.drop()


def _usage_of(usage: Any) -> Usage:
    """From a mapping or an object with those names."""
    get = usage.get if isinstance(usage, dict) else partial(getattr, usage)
    return Usage(*(get(name, None) or 0 for name in Usage._fields))

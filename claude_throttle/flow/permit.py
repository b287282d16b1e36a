"""Admission without the wire: for whoever sends the request himself."""

from __future__ import annotations

import os
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from claude_throttle.errors import DeadlineExceeded
from claude_throttle.flow.attempts import Turn
from claude_throttle.flow.cost import Cost, Usage
from claude_throttle.flow.heard import Stamp
from claude_throttle.flow.rooms import Lender
from claude_throttle.flow.seat import Entry, OpenPermits, Seat

if TYPE_CHECKING:
    from claude_throttle.flow.lane import Lane


class PermitTurn(Turn):
    """The place of a permit in the line, and then in flight.

    The lane may keep it until its deadline, so it does not know the permit it is for: a permit that
    is dropped must be found by the garbage collector at once.
    """

    __slots__ = ("granted", "seat", "stamp")

    answers = False

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self.stamp: Optional[Stamp] = None
        self.seat = Seat()
        # Whoever pops it does the closing: a list's pop is atomic, and needs no lock in __del__.
        self.granted: list[bool] = []

    def commit(self, stamp: Stamp, lender: Lender) -> None:
        self.stamp = stamp
        self.seat.open(lender)
        self.granted.append(True)

    def time_is_up(self) -> None:
        self.refuse(DeadlineExceeded("no permit was free in time; nothing was sent"))


class Permit:
    """The right to send one request now. A context manager.

    ``settle()`` tells what it really took; without it the estimate stays booked. ``close()`` gives
    the permit back and is idempotent. May be settled and closed by any thread. A permit that is
    dropped without ``close()`` comes back when it is garbage collected.
    """

    __slots__ = ("_entry", "_lane", "_open_permits", "_pid", "_settled", "_turn")

    def __init__(self, lane: Lane, open_permits: OpenPermits, **place: Any) -> None:
        self._turn = PermitTurn(**place)
        self._lane = lane
        self._open_permits = open_permits
        self._entry: Optional[Entry] = None
        # A forked child must not touch what its copy refers to.
        self._pid = os.getpid()
        self._settled = False

    def acquire(self) -> None:
        """Wait for it; Ctrl-C ends the wait. Raises Closed or DeadlineExceeded."""
        lane, turn = self._lane, self._turn
        try:
            if not lane.try_leave(turn):
                lane.ask(turn)
                turn.wait()
                lane.forget(turn)  # its deadline was one for the wait
            self._entry = self._open_permits.add(turn.seat)
            if turn.stamp is not None:
                lane.announce(turn.stamp, None)
        except BaseException:
            lane.forget(turn)
            self.close()
            raise

    def settle(self, usage: Optional[Any] = None) -> None:
        """Book what the request really took instead of the estimate; the first time counts.

        *usage* is a mapping or an object with ``input_tokens`` and ``output_tokens`` (and
        ``cache_creation_input_tokens``), as the API's answers carry it. None: it took no tokens,
        as after a refusal.
        """
        stamp = self._turn.stamp
        if stamp is not None and not self._settled and self._pid == os.getpid():
            self._settled = True
            took = _usage_of(usage)
            counted = took.counted_input_tokens(self._lane.counts_cache_reads)
            actual = Cost(1.0, counted, took.output_tokens)
            self._lane.accounts.settle_permit(self._turn.cost, actual, stamp.at)

    def close(self) -> None:
        """Give it back."""
        if self._take_closing():
            self._settle_as_booked()
            self._turn.seat.close()
            if self._turn.rides is not None:
                self._lane.wake()

    def _settle_as_booked(self) -> None:
        stamp, cost = self._turn.stamp, self._turn.cost
        if stamp is not None and not self._settled:
            self._settled = True
            self._lane.accounts.settle_permit(cost, cost, stamp.at)

    def _take_closing(self) -> bool:
        """Whether it is this caller who closes it, in the process where it was opened."""
        try:
            self._turn.granted.pop()
        except IndexError:
            return False
        if self._pid != os.getpid():
            return False
        if self._entry is not None:
            self._open_permits.remove(self._entry)
        return True

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # May run anywhere, even under a lock of ours, so it takes none; the worker looks often.
        if self._take_closing():
            turn = self._turn
            if turn.stamp is not None and not self._settled:
                self._lane.accounts.dropped.append((turn.cost, turn.stamp.at))
            turn.seat.close(quietly=True)


def _usage_of(usage: Optional[Any]) -> Usage:
    """From a mapping or an object with those names; nothing is no tokens."""
    get = usage.get if isinstance(usage, dict) else partial(getattr, usage)
    return Usage(*(get(name, None) or 0 for name in Usage._fields))

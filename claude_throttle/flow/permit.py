"""Admission without the wire: for whoever sends the request himself."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from claude_throttle.errors import DeadlineExceeded
from claude_throttle.flow.attempts import Turn
from claude_throttle.flow.cost import NO_COST, Cost
from claude_throttle.flow.rooms import Lender
from claude_throttle.flow.seat import Entry, OpenPermits, Seat

if TYPE_CHECKING:
    from claude_throttle.flow.lane import Lane


class Permit(Turn):
    """The right to send one request now. A context manager.

    ``settle()`` tells what it really took; without it the estimate stays booked. ``close()`` gives
    the permit back and is idempotent. May be settled and closed by any thread. A permit that is
    dropped without ``close()`` comes back when it is garbage collected.
    """

    __slots__ = (
        "_booked_at",
        "_entry",
        "_lane",
        "_open",
        "_open_permits",
        "_pid",
        "_seat",
        "_settled",
    )

    def __init__(self, lane: Lane, open_permits: OpenPermits, **place: Any) -> None:
        super().__init__(**place)
        self._lane = lane
        self._open_permits = open_permits
        self._booked_at = 0.0
        self._entry: Optional[Entry] = None
        self._seat = Seat()
        # Whoever pops it does the closing: a list's pop is atomic, and needs no lock in __del__.
        self._open: list[bool] = []
        # A forked child must not touch what its copy refers to.
        self._pid = os.getpid()
        self._settled = False

    def commit(self, now: float, lender: Lender) -> None:
        self._booked_at = now
        self._seat.open(lender)
        self._open.append(True)

    def time_is_up(self) -> None:
        self.refuse(DeadlineExceeded("no permit was free in time; nothing was sent"))

    def acquire(self) -> None:
        """Wait for it; Ctrl-C ends the wait. Raises Closed or DeadlineExceeded."""
        try:
            if not self._lane.try_leave(self):
                self._lane.ask(self)
                self.wait()
            self._entry = self._open_permits.add(self._seat)
        except BaseException:
            self._lane.forget(self)
            self.close()
            raise

    def settle(self, usage: Optional[Any] = None) -> None:
        """Book what the request really took instead of the estimate; the first time counts.

        *usage* is a mapping or an object with ``input_tokens`` and ``output_tokens`` (and
        ``cache_creation_input_tokens``), as the API's answers carry it. None: it took no tokens,
        as after a refusal.
        """
        if not self._settled and self._pid == os.getpid():
            self._settled = True
            self._lane.settle_permit(self.cost, _cost_of(usage), self._booked_at)

    def close(self) -> None:
        """Give it back."""
        if self._take_closing():
            self._lane.forget(self)
            self._seat.close()
            if self.rides is not None:
                self._lane.wake()

    def _take_closing(self) -> bool:
        """Whether it is this caller who closes it, in the process where it was opened."""
        try:
            self._open.pop()
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
            self._seat.close(quietly=True)


def _cost_of(usage: Optional[Any]) -> Cost:
    if usage is None:
        return NO_COST._replace(requests=1.0)

    def field(name: str) -> float:
        value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
        return float(value or 0)

    entered = field("input_tokens") + field("cache_creation_input_tokens")
    return Cost(1.0, entered, field("output_tokens"))

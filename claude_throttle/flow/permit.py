"""Admission without the wire: for whoever sends the request himself."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from claude_throttle.errors import DeadlineExceeded
from claude_throttle.flow.attempts import Turn
from claude_throttle.flow.cost import NO_COST, Cost

if TYPE_CHECKING:
    from claude_throttle.flow.lane import Lane
    from claude_throttle.flow.rooms import Permits


class OpenPermits:
    """Which threads hold an open permit; calls made by them ride on it.

    Else a thread that holds the last permit and makes a call would wait for itself.
    """

    def __init__(self) -> None:
        # Thread idents, one entry per open permit. Single list operations only, so no lock.
        self._idents: list[int] = []

    def held_by_this_thread(self) -> bool:
        return bool(self._idents) and threading.get_ident() in self._idents

    def opened(self) -> int:
        ident = threading.get_ident()
        self._idents.append(ident)
        return ident

    def closed(self, ident: int) -> None:
        with contextlib.suppress(ValueError):
            self._idents.remove(ident)


class Permit(Turn):
    """The right to send one request now. A context manager.

    ``settle()`` tells what it really took; without it the estimate stays booked. ``close()`` gives
    the permit back and is idempotent. May be settled and closed by any thread. A permit that is
    dropped without ``close()`` comes back when it is garbage collected.
    """

    __slots__ = (
        "_booked_at",
        "_ident",
        "_lane",
        "_open",
        "_open_permits",
        "_permits",
        "_settled",
    )

    def __init__(
        self, lane: Lane, permits: Permits, open_permits: OpenPermits, **place: Any
    ) -> None:
        super().__init__(**place)
        self._lane = lane
        self._permits = permits
        self._open_permits = open_permits
        self._ident = 0
        self._booked_at = 0.0
        # Whoever pops it does the closing: a list's pop is atomic, and needs no lock in __del__.
        self._open: list[bool] = []
        self._settled = False

    def commit(self, now: float) -> None:
        self._booked_at = now
        self._open.append(not self.rides)

    def time_is_up(self) -> None:
        self.refuse(DeadlineExceeded("no permit was free in time; nothing was sent"))

    def acquire(self) -> None:
        """Wait for it; Ctrl-C ends the wait. Raises Closed or DeadlineExceeded."""
        if not self._lane.try_leave(self):
            self._lane.ask(self)
            try:
                self.wait()
            except BaseException:
                self._lane.forget(self)
                self.close()
                raise
        self._ident = self._open_permits.opened()

    def settle(self, usage: Optional[Any] = None) -> None:
        """Book what the request really took instead of the estimate; the first time counts.

        *usage* is a mapping or an object with ``input_tokens`` and ``output_tokens`` (and
        ``cache_creation_input_tokens``), as the API's answers carry it. None: it took no tokens,
        as after a refusal.
        """
        if not self._settled:
            self._settled = True
            self._lane.settle_permit(self.cost, _cost_of(usage), self._booked_at)

    def close(self) -> None:
        """Give it back."""
        try:
            took_permit = self._open.pop()
        except IndexError:
            return
        self._open_permits.closed(self._ident)
        self._lane.forget(self)
        if took_permit:
            self._permits.give_back()

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
        # May run anywhere, even under a lock of ours: so only append, and let the worker find it.
        if self._open and self._open.pop():
            self._permits.give_back_quietly()
        self._open_permits.closed(self._ident)


def _cost_of(usage: Optional[Any]) -> Cost:
    if usage is None:
        return NO_COST._replace(requests=1.0)

    def field(name: str) -> float:
        value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
        return float(value or 0)

    entered = field("input_tokens") + field("cache_creation_input_tokens")
    return Cost(1.0, entered, field("output_tokens"))

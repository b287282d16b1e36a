"""Riding: a call made by a thread that holds an open permit needs none of its own.

Else a thread that holds the last permit and makes a call would wait for itself. A permit is one
place in flight, so it carries one rider at a time.
"""

from __future__ import annotations

from claude_throttle.core.domain.ports import SlotOwner
from claude_throttle.core.threads.thread_local import ThreadLocal


class ReentrantSlot:
    """The place of an open permit, lent to one call after another.

    Thread-safe without a lock, so that the garbage collector may close it: the place is an entry
    of a list, and whoever pops that entry rides on it.
    """

    __slots__ = ("_lent", "_place", "closed")

    def __init__(self) -> None:
        self._place: list[SlotOwner] = []
        self._lent: list[SlotOwner] = []
        #: Its permit is closed.
        self.closed = False

    def open(self, slot_owner: SlotOwner) -> None:
        """The permit is granted; its place goes back to *slot_owner* in the end."""
        self._place.append(slot_owner)

    @property
    def has_place(self) -> bool:
        """Whether it sees to it that the place goes back, if nobody rides on it."""
        return bool(self._place)

    def try_acquire(self) -> bool:
        """Take a ride, if nobody else does."""
        if not self._place:
            return False
        try:
            slot_owner = self._place.pop()
        except IndexError:
            return False
        # A loop that drops permits would else stand on all those it ever dropped.
        while isinstance(slot_owner, ReentrantSlot) and slot_owner.closed:
            slot_owner = slot_owner._lent.pop()
        self._lent.append(slot_owner)
        if self.closed:  # perhaps a moment ago, and the place may have gone back
            self.release_nowait()
            return False
        return True

    def release(self) -> None:
        """The rider is done; the place goes back if the permit was closed meanwhile."""
        self._place.append(self._lent.pop())
        self._end()

    def release_nowait(self) -> None:
        """The same without a lock."""
        self._place.append(self._lent.pop())
        self._end(quietly=True)

    def close(self, quietly: bool = False) -> None:
        """The permit is closed: the place goes back now, or with its rider."""
        self.closed = True
        self._end(quietly)

    def _end(self, quietly: bool = False) -> None:
        # Step by step, not one inside the other: permits may ride on permits, thousands deep.
        seat: SlotOwner = self
        while isinstance(seat, ReentrantSlot):
            if not seat.closed:
                return
            try:
                slot_owner = seat._place[-1]
                if isinstance(slot_owner, ReentrantSlot):
                    seat._place.pop()
                    slot_owner._place.append(slot_owner._lent.pop())
            except IndexError:
                return
            seat = slot_owner
        # A place, or a stream's, may be given back again. So who is interrupted here begins anew,
        # and closing and the rider's end may come together.
        if quietly:
            seat.release_nowait()
        else:
            seat.release()


class StreamSlotOwner:
    """The place of an open stream, as a lender: it goes back with whoever rides on it."""

    def __init__(self, seat: ReentrantSlot) -> None:
        self._seat = seat

    def release(self) -> None:
        """The stream is over."""
        self._seat.close()

    def release_nowait(self) -> None:
        """The same without a lock."""
        self._seat.close(quietly=True)


#: A seat, and where the thread keeps it that sits there.
Entry = tuple[list[ReentrantSlot], ReentrantSlot]


class OpenPermits(ThreadLocal):
    """Which open permits this thread holds. Single list operations only, so no lock."""

    __slots__ = ()

    @property
    def mine_by_age(self) -> list[ReentrantSlot]:
        """The seats of those, oldest first."""
        return self.list_of_mine("seats")

    def slot_of_this_thread(self) -> ReentrantSlot | None:
        """The seat of the permit this thread opened last, if it holds one."""
        return self.last_of(self.mine_by_age)

    @staticmethod
    def last_of(seats: list[ReentrantSlot]) -> ReentrantSlot | None:
        """The youngest of them."""
        # A slice: another thread may close it between a look and the next.
        return next(iter(seats[-1:]), None)

    @staticmethod
    def add(entry: Entry) -> None:
        """A thread opened one. Who closes it must have the entry by now: Ctrl-C may come here."""
        entry[0].append(entry[1])

    @staticmethod
    def remove(entry: Entry) -> None:
        """It was closed, by whatever thread."""
        try:  # noqa: SIM105 - suppress() takes longer than the rest, for every request of others
            entry[0].remove(entry[1])
        except ValueError:
            pass

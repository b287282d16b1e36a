"""Slots in use by a thread: a call made under an open permit needs no slot of its own.

Otherwise a thread that holds the last permit and makes a call would wait for itself. A permit is
one slot, so it is lent to one call at a time.
"""

from __future__ import annotations

import threading
from typing import Optional
from weakref import ref

from claude_throttle.core.domain.ports import HeldSlot, Step
from claude_throttle.core.threads.local_values import ThreadLocalList


class LentSlot:
    """The slot of an open permit or stream, used by another ticket meanwhile.

    It is lent until it is released or garbage collected, so that Ctrl-C cannot lose it.
    """

    __slots__ = ("__weakref__", "_lender", "_reference", "_slot", "notify_waiters")

    def __init__(self, slot: HeldSlot, lender: ReentrantSlot) -> None:
        #: Keeps the slot taken if its permit is closed meanwhile.
        self._slot: Optional[HeldSlot] = slot
        self._lender = lender
        #: Wakes the lanes that wait for a slot. Call it with no lane's mutex held.
        self.notify_waiters: Step = slot.notify_waiters
        # Its callback is no Python code, or Ctrl-C could come there, too.
        self._reference = ref(self, lender.lent.discard)
        lender.lent.add(self._reference)

    def release(self) -> None:
        """Give it back, and wake those that wait for it. Call it with no lane's mutex held."""
        self.release_nowait()
        self.notify_waiters()

    def release_nowait(self) -> None:
        """Give it back without waking anything; takes no lock."""
        self._lender.lent.discard(self._reference)
        self._slot = None

    def lasting(self) -> Optional[HeldSlot]:
        """The slot that lasts as long as this one is needed: not that of a permit closed since.

        So a loop that drops permits, each lent the slot of the one before, keeps nothing of them.
        """
        held: Optional[HeldSlot] = self
        while isinstance(held, LentSlot) and held._lender.closed:
            held = held._slot
        return held


class ReentrantSlot:
    """The slot of an open permit, lent to one ticket of the same thread after another. Thread-safe.

    Closing takes no lock: the garbage collector may do it.
    """

    __slots__ = ("_held", "_lock", "closed", "lent")

    def __init__(self) -> None:
        self._held: Optional[HeldSlot] = None
        #: The one that is lent, if one is.
        self.lent: set[ref[LentSlot]] = set()
        # Held while one is lent, for the workers of two lanes may both want it. Reentrant for the
        # same reason as the lane's mutex.
        self._lock = threading.RLock()
        #: Its permit is closed.
        self.closed = False

    def lend(self, slot: HeldSlot) -> None:
        """Make *slot* available for lending: the permit was granted it."""
        self._held = slot

    @property
    def is_open(self) -> bool:
        """Whether it has a slot, which it gives back when it is closed."""
        return self._held is not None

    def try_lend(self) -> Optional[LentSlot]:
        """Lend it; None if it is lent already, or closed."""
        held = self._held
        if isinstance(held, LentSlot):
            held = held.lasting()
        if held is None or self.lent:
            return None
        with self._lock:
            return None if self.lent else LentSlot(held, self)

    def release(self) -> None:
        """Close it: the slot goes back now, or with the ticket that it is lent to. Idempotent."""
        held = self._held
        self.release_nowait()
        if held is not None:
            notify_waiters = held.notify_waiters
            del held  # the last reference to a slot keeps it taken
            notify_waiters()

    def release_nowait(self) -> None:
        """Close it without waking anything; takes no lock."""
        self.closed = True
        self._held = None

    @property
    def notify_waiters(self) -> Step:
        """Wakes the lanes that wait for a slot."""
        held = self._held
        return _nothing if held is None else held.notify_waiters


def _nothing() -> None:
    """Does nothing: the slot is closed, and what waits for one was woken then."""


#: A thread's list of slots, and the one that is in it.
Entry = tuple[list[ReentrantSlot], ReentrantSlot]


class OpenPermits(ThreadLocalList[ReentrantSlot]):
    """The slots of the permits that each thread holds open, the oldest first.

    Single list operations only, so no lock.
    """

    __slots__ = ()

    @staticmethod
    def append(entry: Entry) -> None:
        """Note that a thread opened a permit.

        Call it after the entry was handed to whatever closes the permit: Ctrl-C may come in
        between, and nothing would ever remove the entry.
        """
        entry[0].append(entry[1])

    @staticmethod
    def remove(entry: Entry) -> None:
        """Note that a permit was closed, by any thread; does nothing if that was noted before."""
        try:  # noqa: SIM105 - suppress() takes longer than the rest, for every foreign request
            entry[0].remove(entry[1])
        except ValueError:
            pass

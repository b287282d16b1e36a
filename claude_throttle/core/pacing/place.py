"""One place in flight, out of those the permits have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter


class Slot:
    """Taken while it is in the set of those that are; whoever wants one makes it first.

    So the one step that takes it also says who has it, and it may be given back whether or not it
    was taken, or was given back before: Ctrl-C may come after any step, and then nobody can tell.
    Giving back takes it out of the set, no more, so that even the garbage collector may.
    """

    __slots__ = ("_permits", "taken")

    def __init__(self, permits: ConcurrencyLimiter, taken: set[Slot]) -> None:
        self._permits = permits
        #: Those of its kind that are taken. The permits put it there.
        self.taken = taken

    def try_take(self, now: float) -> bool:
        """Take it, if there is one for that priority."""
        return self._permits.try_acquire(self, now)

    def give_back(self) -> None:
        """Put it back, and wake the lanes that found none. Call it with no lane's mutex held."""
        self.taken.discard(self)
        self._permits.wake_starved()

    def give_back_quietly(self) -> None:
        """Put it back and wake nobody; takes no lock."""
        self.taken.discard(self)

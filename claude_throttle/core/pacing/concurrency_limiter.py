"""How many requests may be in flight, over all lanes of a throttler.

Nobody documents the API's own limit, so it is found: a few probes first, then more while the limit
is what calls wait for and nothing complains. A refusal for too many connections sets it to what was
in flight; from then on it creeps, ever more slowly.
"""

from __future__ import annotations

import math
import threading
from typing import Callable, Optional

from claude_throttle.core.domain.events import ConcurrencyChanged, ConnectionLimitReached
from claude_throttle.core.domain.priority import Priority

#: In flight before anything is known, and at most until the first rate-limit headers came.
FIRST_PROBES = 2
MOST_PROBES = 8

#: In flight at least, once they came.
LEAST_KNOWN = 10

#: Answers without rate-limit headers after which none are waited for.
ANSWERS_WITHOUT_HEADERS = 20

#: Seconds without a refusal that count as admission: a refusal comes at once, an answer may take
#: half a minute.
SILENCE_SECONDS = 0.5

#: Seconds before one more is tried after a refusal; doubled each time that is refused, too.
FIRST_GAP_SECONDS = 1.0
LONGEST_GAP_SECONDS = 600.0

#: In flight at most when a circuit closes.
AFTER_OUTAGE = 8

#: Growth worth telling. It grows by ones.
TOLD_GROWTH = 1.5


def _nothing() -> None:
    """Nothing is shared, so no other process need know."""


class Slot:
    """Taken while it is in the set of those that are; whoever wants one makes it first.

    So the one step that takes it also says who has it, and it may be given back whether or not it
    was taken, or was given back before: Ctrl-C may come after any step, and then nobody can tell.
    Giving back takes it out of the set, no more, so that even the garbage collector may.
    """

    __slots__ = ("_limiter", "taken")

    def __init__(self, limiter: ConcurrencyLimiter, taken: set[Slot]) -> None:
        self._limiter = limiter
        #: Those of its kind that are taken. The permits put it there.
        self.taken = taken

    def try_acquire(self, now: float) -> bool:
        """Take it, if there is one for that priority."""
        return self._limiter.try_acquire(self, now)

    def release(self) -> None:
        """Put it back, and wake the lanes that found none. Call it with no lane's mutex held."""
        self.taken.discard(self)
        self._limiter.notify_waiters()

    def release_nowait(self) -> None:
        """Put it back and wake nobody; takes no lock."""
        self.taken.discard(self)


class ConcurrencyLimiter:
    """Permits, borrowed and put back. Thread-safe.

    *told*: never more than that. *probing*: nothing is known of the server, so begin with a few.
    *max_connections* is a hard ceiling, whatever the server allows: the process can open no more.
    *wants_slot* is called when a call waits for more than was granted, *too_many* when the server
    refused one more; both matter where the limit is shared with other processes.
    """

    def __init__(
        self,
        told: Optional[int] = None,
        *,
        probing: bool = False,
        interactive_share: float = 0.0,
        max_connections: float = math.inf,
        wants_slot: Callable[[], None] = _nothing,
        too_many: Callable[[], None] = _nothing,
    ) -> None:
        self.told = told
        #: What was told, or one of those who share it found: all together may use so many.
        self.of_all: float = math.inf if told is None else told
        self._found_by_all = math.inf
        #: What we have of the places that processes share; inf where nothing is shared.
        self.granted = math.inf
        self.max_connections = max_connections
        #: The ceiling was reached; and that was emitted, and half has not been free since.
        self._ceiling_reached = self._ceiling_emitted = False
        self._wants_slot = wants_slot
        self._too_many = too_many
        #: Share of the permits kept for priority INTERACTIVE.
        self.interactive_share = interactive_share
        #: The places that are out. None comes in without the lock; each goes out by itself.
        self._urgent: set[Slot] = set()
        self._others: set[Slot] = set()
        # Guards all below. Never held while calling out.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._starved: set[Callable[[], None]] = set()
        self._probing = probing
        self._answers = 0
        #: What was found; inf: no limit was met.
        self._found: float = FIRST_PROBES if probing else math.inf
        #: Whether it grows by doubling; after a refusal it creeps.
        self._fast = True
        #: What was in flight at the last refusal.
        self._known = 0.0
        self._full_since: Optional[float] = None
        self._gap = FIRST_GAP_SECONDS
        self._step_at = -math.inf
        self._stepped = False
        self._told_of = min(self._found, self.of_all)

    @property
    def limit(self) -> float:
        """Requests in flight at most, as things stand; may be inf."""
        return min(self.server_limit, self.max_connections)

    @property
    def server_limit(self) -> float:
        """The limit without the connections that this process may have; may be inf."""
        return min(self._found, self.of_all, self.granted)

    @property
    def at_connection_limit(self) -> bool:
        """Whether max_connections was reached, and half of them have not been free since."""
        return self._ceiling_reached or self._ceiling_emitted

    @property
    def in_use(self) -> int:
        """Permits that are out."""
        return len(self._urgent) + len(self._others)

    # -- borrowing -------------------------------------------------------------------------------

    def up_to(self, now: float) -> float:
        """The priorities that may take a permit now: inf, INTERACTIVE, or -inf for none.

        A look; by the time you act it may be gone. Somebody waits: the limit may grow by it.
        """
        urgent, others = self._free_slots()
        if urgent <= 0 or others <= 0:
            with self._lock:
                urgent, others = self._room_locked(now)
        if urgent <= 0:
            return -math.inf
        return float(Priority.INTERACTIVE) if others <= 0 else math.inf

    def _free_slots(self) -> tuple[float, float]:
        """How many more may leave with priority INTERACTIVE, and how many with another."""
        limit, kept, others = self.limit, 0.0, len(self._others)
        if self.interactive_share and limit < math.inf:
            # The last of all is everybody's.
            kept = min(limit - 1, limit * self.interactive_share // 1)
        return limit - len(self._urgent) - others, limit - kept - others

    def _room_locked(self, now: float) -> tuple[float, float]:
        """The same by the last word; somebody waits for it, so the limit may grow."""
        urgent, others = self._free_slots()
        if urgent > 0 and others > 0:
            return urgent, others
        self._grow_in_silence_locked(now)
        return self._free_slots()

    def place(self, priority: int) -> Slot:
        """One for a call of that priority, not taken yet."""
        return Slot(self, self._others if priority > Priority.INTERACTIVE else self._urgent)

    def try_acquire(self, place: Slot, now: float) -> bool:
        """Take *place*, if there is one for its priority."""
        with self._lock:
            urgent, others = self._room_locked(now)
            is_other = place.taken is self._others
            if urgent <= 0 or (is_other and others <= 0):
                return False
            if urgent > 1 and others > is_other:
                self._full_since = None  # nobody has to wait now
            place.taken.add(place)
            self._note_ceiling_locked()
            return True

    def _note_ceiling_locked(self) -> None:
        in_use = self.in_use
        if in_use >= self.max_connections:
            self._ceiling_reached = True
        elif in_use <= self.max_connections / 2:
            self._ceiling_emitted = False

    def reached_connection_limit(self) -> Optional[ConnectionLimitReached]:
        """Emit this, if the ceiling was reached since this was asked last, and is news."""
        if not self._ceiling_reached:
            return None
        with self._lock:
            is_news = self._ceiling_reached and not self._ceiling_emitted
            self._ceiling_reached, self._ceiling_emitted = False, True
        return ConnectionLimitReached(int(self.max_connections)) if is_news else None

    def notify_when_free(self, wake: Callable[[], None]) -> None:
        """Call *wake* once when one has come back."""
        with self._lock:
            self._starved.add(wake)
        if self.in_use >= self.granted:
            self._wants_slot()

    def notify_waiters(self) -> None:
        """Wake the lanes that found none. Call it with no lane's mutex held."""
        if not self._starved:
            return
        with self._lock:
            starved, self._starved = self._starved, set()
        for wake in starved:
            wake()

    # -- finding the limit -----------------------------------------------------------------------

    def _grow_in_silence_locked(self, now: float) -> None:
        if self._found >= min(self.of_all, self.max_connections):
            return  # what holds for all holds it back: that it is full proves nothing
        if self._full_since is None:
            self._full_since = now
        if not self._may_be_fast():
            self._creep_locked(now)
        elif now - self._full_since >= SILENCE_SECONDS:
            self._full_since = now
            most = MOST_PROBES if self._probing else self._most_fast()
            self._found = max(self._found, min(most, 2 * self._found))

    def _may_be_fast(self) -> bool:
        return self._found < self._most_fast()

    def _most_fast(self) -> float:
        """After a refusal it creeps, but for what was known to be let in before an outage."""
        return math.inf if self._fast else self._known

    def _creep_locked(self, now: float) -> None:
        if now >= self._step_at:
            self._found += 1
            self._stepped = True
            self._step_at = now + self._gap

    def headers_came(self) -> None:
        """The server tells its limits: no need to grope any more."""
        if not self._probing:
            return
        with self._lock:
            self._probing = False
            self._found = max(self._found, LEAST_KNOWN)
        self.notify_waiters()

    def answered(self) -> None:
        """The server took one."""
        if not self._probing and self._full_since is None:
            return  # nobody waits for it to grow
        with self._lock:
            self._answers += 1
            if self._answers >= ANSWERS_WITHOUT_HEADERS:
                self._probing = False  # this server will never tell
            # Full means that somebody waits for it.
            if self._may_be_fast() and not self._probing and self._full_since is not None:
                self._found += 1

    def refused(self, now: float) -> None:
        """Too many connections, said the server of one that is still out."""
        with self._lock:
            if self._found_by_all == math.inf:
                self._lower_locked(self.in_use - 1, now)
        self._too_many()

    def _lower_locked(self, others: int, now: float) -> None:
        if self._stepped and not self._fast:
            self._gap = min(LONGEST_GAP_SECONDS, self._gap * 2)
        self._known = self._found = min(self._found, max(1, others))
        self._fast = self._probing = self._stepped = False
        self._full_since = None
        self._step_at = now + self._gap

    def ramp(self) -> None:
        """An outage is over: do not meet the server with everything at once."""
        with self._lock:
            self._found = min(self._found, AFTER_OUTAGE)
            self._full_since = None

    def news(self) -> Optional[ConcurrencyChanged]:
        """What became of the limit since this was asked last: less, or much more."""
        limit, before = min(self._found, self.of_all), self._told_of
        if before <= limit < before * TOLD_GROWTH or limit == before:
            return None
        self._told_of = limit
        return ConcurrencyChanged(limit, before)

    def set_told(self, told: Optional[int], rate_is_told: bool = True) -> None:
        """Change what may never be exceeded; those that are out stay out.

        Without a told rate nothing else bounds it, so what was unbounded is found out from now on.
        """
        with self._lock:
            self.told = told
            self._bound_locked()
            if not rate_is_told and math.isinf(self._found):
                self._found = max(LEAST_KNOWN, self.in_use)
                self._full_since = None
        self.notify_waiters()

    def hold_still(self) -> int:
        """Borrow no more until the next grant(); returns how many are out.

        While we say how many we have, and hear how many we may, there must not be more.
        """
        with self._lock:
            out = self.in_use
            self.granted = min(self.granted, out)
            return out

    def keep_to(self, found_by_all: int) -> None:
        """So many were found for all processes together; we look for none of our own any more."""
        with self._lock:
            if self._found_by_all == math.inf:
                self._found, self._fast, self._probing = math.inf, True, False
            self._found_by_all = found_by_all
            self._bound_locked()

    def _bound_locked(self) -> None:
        self.of_all = min(self._found_by_all, math.inf if self.told is None else self.told)
        if self.of_all == math.inf:
            self.granted = math.inf

    def grant(self, places: float) -> None:
        """So many of the shared places are ours now."""
        self.granted = places
        self.notify_waiters()

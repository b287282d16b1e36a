"""How many requests may be in flight, over all lanes of an account.

The API's own limit is not documented, so it is found: a few probes first, then more while calls
wait for the limit and the server refuses none. A refusal for too many connections sets it to what
was in flight; from then on it grows by ones, ever more slowly.
"""

from __future__ import annotations

import math
import threading
from typing import Callable, Optional
from weakref import ref

from claude_throttle.core.domain.events import ConcurrencyChanged, ConnectionLimitReached
from claude_throttle.core.domain.ports import Step
from claude_throttle.core.domain.priority import Priority

#: In flight before anything is known; at most until anything came back, since a refusal may be slow
#: on its way, too; and at most until the first rate-limit headers came.
FIRST_PROBES = 2
UNHEARD_PROBES = 4
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

#: Factor of growth that is reported as an event. The limit grows by ones, and an event for each
#: would be noise.
TOLD_GROWTH = 1.5


def _nothing() -> None:
    """Does nothing: the default for callbacks to other processes where nothing is shared."""


class Slot:
    """One of the requests that may be in flight: taken until it is released or garbage collected.

    Ctrl-C may come between any two steps of the thread that takes it. What that thread cannot hand
    on any more, nothing refers to, and so it is given back: by a callback that is no Python code,
    or Ctrl-C could come there, too. That, and release_nowait(), take no lock: the collector may run
    anywhere.
    """

    __slots__ = ("__weakref__", "_limiter", "_reference", "_taken")

    def __init__(self, limiter: ConcurrencyLimiter, taken: set[ref[Slot]]) -> None:
        self._taken = taken
        self._limiter = limiter
        self._reference = ref(self, taken.discard)
        taken.add(self._reference)

    @property
    def notify_waiters(self) -> Step:
        """Wakes the lanes that wait for a slot. Call it with no lane's mutex held."""
        return self._limiter.notify_waiters

    def release(self) -> None:
        """Give it back, and wake the lanes that wait. Idempotent. Call it with no mutex held."""
        self._taken.discard(self._reference)
        self._limiter.notify_waiters()

    def release_nowait(self) -> None:
        """Give it back without waking anything. Idempotent."""
        self._taken.discard(self._reference)


class ConcurrencyLimiter:
    """Hands out slots, as many as may be in flight. Thread-safe.

    *told*: the configured limit, which is never exceeded. *probing*: nothing is known of the
    server, so begin with a few. *max_connections* is a hard ceiling, whatever the server allows:
    the process can open no more. *wants_slot* is called when a call waits for more than was
    granted, *too_many* when the server refused one more; both matter where the limit is shared with
    other processes.

    Waiting lanes are woken by callbacks and take a slot themselves: a slot is never reserved for
    one of several lanes, which might not need it any more. Callbacks are called without the lock.
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
        #: What was configured, or what one of the processes that share it found: all processes
        #: together may use so many.
        self.of_all: float = math.inf if told is None else told
        self._found_by_all = math.inf
        #: Our part of the slots that processes share; inf where nothing is shared.
        self.granted = math.inf
        self.max_connections = max_connections
        #: The ceiling was reached; and that was emitted, and half has not been free since.
        self.ceiling_reached = self._ceiling_emitted = False
        self._wants_slot = wants_slot
        self._too_many = too_many
        #: Share of the slots kept for priority INTERACTIVE.
        self.interactive_share = interactive_share
        #: The slots that are taken, by weak references. They come in under the lock, and go out
        #: without it.
        self._urgent: set[ref[Slot]] = set()
        self._others: set[ref[Slot]] = set()
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
        return self.ceiling_reached or self._ceiling_emitted

    @property
    def in_use(self) -> int:
        """Requests in flight."""
        return len(self._urgent) + len(self._others)

    # -- slots -----------------------------------------------------------------------------------

    def admissible_priority(self, now: float) -> float:
        """The highest number of a priority that may have a slot now; inf: any, -inf: none.

        A look; when you act, it may be gone. A ticket waits, so the limit may grow by it.
        """
        urgent, others = self._free()
        if urgent <= 0 or others <= 0:
            with self._lock:
                urgent, others = self._free_or_grown_locked(now)
        if urgent <= 0:
            return -math.inf
        return float(Priority.INTERACTIVE) if others <= 0 else math.inf

    def _free(self) -> tuple[float, float]:
        """How many more may leave with priority INTERACTIVE, and how many with another."""
        limit = min(self._found, self.of_all, self.granted, self.max_connections)
        others = len(self._others)
        kept = 0.0
        if self.interactive_share and limit < math.inf:
            # The last of all is for any priority.
            kept = min(limit - 1, limit * self.interactive_share // 1)
        return limit - len(self._urgent) - others, limit - kept - others

    def _free_or_grown_locked(self, now: float) -> tuple[float, float]:
        """As _free(); a ticket waits for one, so the limit may grow."""
        urgent, others = self._free()
        if urgent > 0 and others > 0:
            return urgent, others
        self._grow_in_silence_locked(now)
        return self._free()

    def try_acquire(self, priority: int, now: float) -> Optional[Slot]:
        """A slot for a ticket of that priority; None if there is none."""
        is_other = priority > Priority.INTERACTIVE
        with self._lock:
            urgent, others = self._free()
            if urgent <= 0 or others <= 0:
                urgent, others = self._free_or_grown_locked(now)
            if urgent <= 0 or (is_other and others <= 0):
                return None
            if urgent > 1 and others > is_other:
                self._full_since = None  # nothing has to wait now
            slot = Slot(self, self._others if is_other else self._urgent)
            if urgent <= 1 or self._ceiling_emitted:
                self._note_ceiling_locked()
            return slot

    def _note_ceiling_locked(self) -> None:
        in_use = len(self._urgent) + len(self._others)
        if in_use >= self.max_connections:
            self.ceiling_reached = True
        elif in_use <= self.max_connections / 2:
            self._ceiling_emitted = False

    def reached_connection_limit(self) -> Optional[ConnectionLimitReached]:
        """Emit this, if the ceiling was reached since this was asked last, and is news."""
        if not self.ceiling_reached:
            return None
        with self._lock:
            is_news = self.ceiling_reached and not self._ceiling_emitted
            self.ceiling_reached, self._ceiling_emitted = False, True
        return ConnectionLimitReached(int(self.max_connections)) if is_news else None

    def notify_when_free(self, wake: Callable[[], None]) -> None:
        """Call *wake* once when a slot has come back."""
        with self._lock:
            self._starved.add(wake)
        if self.in_use >= self.granted:
            self._wants_slot()

    def notify_waiters(self) -> None:
        """Wake the lanes that found no slot. Call it with no lane's mutex held."""
        if not self._starved:
            return
        with self._lock:
            starved, self._starved = self._starved, set()
        for wake in starved:
            wake()

    # -- finding the limit -----------------------------------------------------------------------

    def _grow_in_silence_locked(self, now: float) -> None:
        if self._found >= min(self.of_all, self.max_connections):
            return  # another bound holds it back: that it is full proves nothing
        if self._full_since is None:
            self._full_since = now
        if not self._may_be_fast():
            self._creep_locked(now)
        elif now - self._full_since >= SILENCE_SECONDS:
            self._full_since = now
            probes = MOST_PROBES if self._answers else UNHEARD_PROBES
            most = probes if self._probing else self._most_fast()
            self._found = max(self._found, min(most, 2 * self._found))

    def _may_be_fast(self) -> bool:
        return self._found < self._most_fast()

    def _most_fast(self) -> float:
        """The limit up to which it grows fast: after a refusal, what was in flight then."""
        return math.inf if self._fast else self._known

    def _creep_locked(self, now: float) -> None:
        """Allow one more, at most once in a gap, to find out whether the server now takes it."""
        if now >= self._step_at:
            self._found += 1
            self._stepped = True
            self._step_at = now + self._gap

    def headers_came(self) -> None:
        """Rate-limit headers arrived: end the initial probing phase."""
        if not self._probing:
            return
        with self._lock:
            self._probing = False
            self._found = max(self._found, LEAST_KNOWN)
        self.notify_waiters()

    def answered(self) -> None:
        """Note that the server took a request: if calls wait for a slot, allow more."""
        if not self._probing and self._full_since is None:
            return  # no call waits for it to grow
        with self._lock:
            self._answers += 1
            if self._answers >= ANSWERS_WITHOUT_HEADERS:
                self._probing = False  # this server sends no headers
            # Full means that a call waits for it.
            if self._may_be_fast() and not self._probing and self._full_since is not None:
                self._found += 1

    def refused(self, now: float) -> None:
        """Note a refusal for too many connections; the request itself is still in flight.

        Where processes share the limit, the store decides; it is asked through *too_many*.
        """
        with self._lock:
            if self._found_by_all == math.inf:
                self._lower_locked(self.in_use - 1, now)
        self._too_many()

    def _lower_locked(self, others: int, now: float) -> None:
        """The server refused one more: allow what was in flight without it, and grow slowly."""
        if self._stepped and not self._fast:
            self._gap = min(LONGEST_GAP_SECONDS, self._gap * 2)
        self._known = self._found = min(self._found, max(1, others))
        self._fast = self._probing = self._stepped = False
        self._full_since = None
        self._step_at = now + self._gap

    def ramp(self) -> None:
        """Begin with few requests after an outage, not with all that wait.

        A server that has just come back would otherwise get the whole backlog at once.
        """
        with self._lock:
            self._found = min(self._found, AFTER_OUTAGE)
            self._full_since = None

    def news(self) -> Optional[ConcurrencyChanged]:
        """The change of the limit since this was asked last, if it is less, or much more."""
        limit, before = min(self._found, self.of_all), self._told_of
        if before <= limit < before * TOLD_GROWTH or limit == before:
            return None
        self._told_of = limit
        return ConcurrencyChanged(limit, before)

    def set_told(self, told: Optional[int], rate_is_told: bool = True) -> None:
        """Change the configured limit; requests in flight stay in flight.

        Without a configured rate nothing else bounds it: an unbounded limit is found from now on.
        """
        with self._lock:
            self.told = told
            self._bound_locked()
            if not rate_is_told and math.isinf(self._found):
                self._found = max(LEAST_KNOWN, self.in_use)
                self._full_since = None
        self.notify_waiters()

    def hold_still(self) -> int:
        """Hand out no more until the next grant(); returns how many are in flight.

        Used while this process reports its number to the store and gets its share back: a slot
        handed out in between would be in neither number.
        """
        with self._lock:
            out = self.in_use
            self.granted = min(self.granted, out)
            return out

    def keep_to(self, found_by_all: int) -> None:
        """All processes together may use *found_by_all*; this one finds no limit of its own."""
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
        """Allow this process *places* of the shared slots; inf where nothing is shared."""
        self.granted = places
        self.notify_waiters()

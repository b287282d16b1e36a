"""Who goes next: the more urgent first, but for ageing; then by tag; then by number.

The garbage collector or a signal handler may come between any two steps and change all this in the
same thread, and Ctrl-C may end it there. So nothing that waits is ever taken out to be looked at,
and whatever is put away is looked through once more afterwards.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple, Optional

from claude_throttle.core.queueing.ticket import Ticket

#: (tag, number, ticket). Of two tickets of one number only one waits, so they are never compared.
Entry = tuple[float, int, Ticket]

#: (0 if it goes by ageing, else 1; priority; tag; number; ticket).
Place = tuple[int, int, float, int, Ticket]

#: A heap with fewer dead entries than this is not worth sweeping.
SWEEP_FROM = 64


class PriorityLevel(list[Entry]):
    """The tickets of one priority, as a heap. Entries of those taken out are dead."""

    __slots__ = ("dead",)

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        super().__init__(entries)
        heapq.heapify(self)
        self.dead = 0

    def top(self) -> Optional[Entry]:
        """The first that waits; dead ones before it are dropped."""
        while first := self[:1]:
            if first[0][2].queued:
                return first[0]
            self._bury()
        return None

    def first(self, most: int) -> list[Ticket]:
        """The first few that wait, in order."""
        found: list[Ticket] = []
        # Below each place of a heap are two later ones, so nothing else need be looked at.
        places = [(*entry[:2], 0) for entry in self[:1]]
        while places and len(found) < most:
            at = heapq.heappop(places)[2]
            found += [entry[2] for entry in self[at : at + 1] if entry[2].queued]
            for below in (2 * at + 1, 2 * at + 2):
                for entry in self[below : below + 1]:
                    heapq.heappush(places, (*entry[:2], below))
        return found

    def _bury(self) -> None:
        try:
            entry = heapq.heappop(self)
        except IndexError:
            return
        if entry[2].queued:
            heapq.heappush(self, entry)
        else:
            self.dead -= 1


#: Others that leave at least before a rank's age counts. Where calls leave a minute apart every
#: rank is old at once, and without this they would simply take turns.
MOST_URGENT = 10


class LastLeave(NamedTuple):
    """When a rank had its last turn, or began to wait."""

    at: float
    #: How many had left by then.
    leaves: int


class PriorityQueue:
    """Those who wait, rank by rank. All methods require the lane's mutex.

    A rank that has let nobody leave for *ageing* seconds, while at least :data:`MOST_URGENT` others
    left, goes next, once.
    """

    def __init__(self, ageing: Optional[float]) -> None:
        self._ageing = math.inf if ageing is None else ageing
        self._ranks: dict[int, PriorityLevel] = {}
        # A heap of their priorities: of every rank somebody waits in, and of some others.
        self._order: list[int] = []
        self._tidy_from = SWEEP_FROM
        # When each rank in which somebody waits had its last turn, or began to wait. Oldest first.
        self._since: OrderedDict[int, LastLeave] = OrderedDict()
        self._leaves = 0

    def __bool__(self) -> bool:
        return bool(self._since)

    def __contains__(self, priority: int) -> bool:
        return priority in self._since

    def __len__(self) -> int:
        """How many entries there are, dead ones included."""
        return sum(map(len, list(self._ranks.values())))

    # -- in ------------------------------------------------------------------------------------

    def add(self, ticket: Ticket) -> bool:
        """Put a ticket in its place; True if it is the first of its rank. Then ask leads()."""
        entry = (ticket.tag, ticket.number, ticket)
        first = self._push(ticket.priority, entry)[:1]  # it may have been taken out again
        return bool(first) and first[0] is entry

    def leads(self, priority: int, now: float) -> bool:
        """Whether the next to go is of that priority; notes that somebody of it waits."""
        self._since.setdefault(priority, LastLeave(now, self._leaves))
        return priority in (self._aged(now), self._lowest())

    def _push(self, priority: int, entry: Entry) -> PriorityLevel:
        rank = self._ranks.get(priority)
        if rank is None:
            rank = self._ranks.setdefault(priority, PriorityLevel())
        heapq.heappush(rank, entry)
        if len(rank) == 1:
            heapq.heappush(self._order, priority)
            if len(self._order) > self._tidy_from:
                self._tidy()
        if self._ranks.get(priority) is not rank:
            return self._push(priority, entry)  # it was found empty, and dropped
        return rank

    # -- look ----------------------------------------------------------------------------------

    def head(self, now: float, up_to: float) -> Optional[Place]:
        """Who is next of those with a priority of at most *up_to*."""
        priority, by_ageing = self._aged(now), 0
        if priority is None or priority > up_to:
            priority, by_ageing = self._lowest(), 1
        if priority is None or priority > up_to:
            return None
        entry = self._top(priority)
        return None if entry is None else (by_ageing, priority, *entry)

    def _top(self, priority: int) -> Optional[Entry]:
        rank = self._ranks.get(priority)
        return None if rank is None else rank.top()

    def _aged(self, now: float) -> Optional[int]:
        """The priority whose turn it is because it has waited for so long."""
        while self._since:
            try:
                oldest = next(iter(self._since), None)
            except RuntimeError:  # changed at this very moment; the next look will tell
                return None
            turn = self._since.get(oldest) if oldest is not None else None
            if oldest is None or turn is None or not self._is_old(turn, now):
                return None
            if self._top(oldest) is not None:
                return oldest
            self._since.pop(oldest, None)
        return None

    def _is_old(self, turn: LastLeave, now: float) -> bool:
        enough_left = self._leaves - turn.leaves >= MOST_URGENT
        return enough_left and now - turn.at >= self._ageing

    def _lowest(self) -> Optional[int]:
        while first := self._order[:1]:
            if self._top(first[0]) is not None:
                return first[0]
            self._drop_first()
        return None

    def _drop_first(self) -> None:
        try:
            priority = heapq.heappop(self._order)
        except IndexError:
            return
        self._put_away(priority)

    def ahead(self, priority: int, most: int) -> list[Ticket]:
        """The first few of one rank."""
        rank = self._ranks.get(priority)
        return [] if rank is None else rank.first(most)

    def waiting(self) -> list[Ticket]:
        """All that wait, in no order."""
        return [e[2] for rank in list(self._ranks.values()) for e in rank[:] if e[2].queued]

    # -- out -----------------------------------------------------------------------------------

    def turn_taken(self, priority: int, now: float) -> None:
        """One of that priority has left."""
        self._leaves += 1
        if priority in self._since:
            self._since[priority] = LastLeave(now, self._leaves)
            self._since.move_to_end(priority)

    def remove(self, ticket: Ticket) -> None:
        """A ticket waits no more; it says so itself."""
        rank = self._ranks.get(ticket.priority)
        if rank is not None:
            rank.dead += 1
        # At once for the first: its retry will stand in the same place, and two entries that
        # differ in nothing but their tickets cannot be compared. The others wait for the sweep.
        if rank is None or rank.top() is None:
            self._since.pop(ticket.priority, None)
        elif rank.dead > SWEEP_FROM and rank.dead > len(rank) // 2:
            self._sweep(ticket.priority, rank)

    def _sweep(self, priority: int, rank: PriorityLevel) -> None:
        """Keep the living only."""
        before = rank[:]
        self._ranks[priority] = PriorityLevel(entry for entry in before if entry[2].queued)
        if rank != before:
            known = set(map(id, before))
            for entry in rank[:]:
                if id(entry) not in known:
                    self._push(priority, entry)

    def _tidy(self) -> None:
        """Each priority once, and none that nobody waits in."""
        for priority in list(self._ranks):
            if not self._ranks.get(priority):
                self._put_away(priority)
        self._order[:] = self._ranks
        heapq.heapify(self._order)
        self._tidy_from = SWEEP_FROM + 2 * len(self._order)

    def _put_away(self, priority: int) -> None:
        for entry in self._ranks.pop(priority, ()):
            self._push(priority, entry)

"""The order of waiting tickets: by priority, except for ageing; then by tag; then by number.

The tag is the ticket's place in the fair shares of the tenants of one priority.

The garbage collector or a signal handler may interrupt any step and change all this in the same
thread, and Ctrl-C may end it there. So no waiting ticket is ever taken out to be looked at, and
what is put away is looked through once more afterwards.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import NamedTuple, Optional

from claude_throttle.core.queueing.ticket import Ticket

#: (tag, number, ticket). Of two tickets of one number only one waits, so they are never compared.
Entry = tuple[float, int, Ticket]

#: (0 if it leads by ageing, else 1; priority; tag; number; ticket).
RankedEntry = tuple[int, int, float, int, Ticket]

#: A heap with fewer dead entries than this, or a table of fewer tenants, is not worth sweeping.
SWEEP_FROM = 64

#: Others that leave at least before a level's age counts. Where calls leave a minute apart every
#: level is old at once, and without this they would simply take turns.
MOST_URGENT = 10


#: Tenants remembered of which nothing waits: about 2 MB. While ever new ones come, each with one
#: call, the virtual time stands still and none would be forgotten; these few begin anew too soon.
MOST_IDLE = 10_000


class PriorityLevel(list[Entry]):
    """The tickets of one priority, as a heap. Entries of those taken out are dead."""

    #: Dead entries in it.
    dead = 0

    def top(self) -> Optional[Entry]:
        """The first that waits; dead entries before it are dropped."""
        while first := self[:1]:
            if first[0][2].queued:
                return first[0]
            try:
                entry = heapq.heappop(self)
            except IndexError:
                return None
            if entry[2].queued:  # another entry became the first meanwhile
                heapq.heappush(self, entry)
            else:
                self.dead -= 1
        return None

    def first(self, most: int) -> list[Ticket]:
        """The first few that wait, in order."""
        found: list[Ticket] = []
        # Below each entry of a heap are two later ones, so nothing else need be looked at.
        places = [(*entry[:2], 0) for entry in self[:1]]
        while places and len(found) < most:
            at = heapq.heappop(places)[2]
            found += [entry[2] for entry in self[at : at + 1] if entry[2].queued]
            for below in (2 * at + 1, 2 * at + 2):
                for entry in self[below : below + 1]:
                    heapq.heappush(places, (*entry[:2], below))
        return found


class LastLeave(NamedTuple):
    """When a ticket of a level left last, or when the level began to wait."""

    at: float
    #: How many tickets of the whole queue had left by then.
    leaves: int


class PriorityQueue:
    """Waiting tickets, level by level. All methods require the lane's mutex.

    A level of which no ticket has left for *ageing* seconds, while at least :data:`MOST_URGENT`
    others left, leads once.
    """

    def __init__(self, ageing: Optional[float]) -> None:
        self._ageing = math.inf if ageing is None else ageing
        self._levels: dict[int, PriorityLevel] = {}
        # A heap of priorities: of every level in which a ticket waits, and of some others.
        self._order: list[int] = []
        self._tidy_from = SWEEP_FROM
        #: By priority, for every level in which a ticket waits, the oldest first. Empty means that
        #: the queue is.
        self.since: OrderedDict[int, LastLeave] = OrderedDict()
        self._leaves = 0

    def __len__(self) -> int:
        """The number of entries, dead ones included."""
        return sum(map(len, list(self._levels.values())))

    # -- in --------------------------------------------------------------------------------------

    def push(self, ticket: Ticket, now: float) -> bool:
        """Queue a ticket; True if it is the next to leave."""
        entry, is_alone = (ticket.tag, ticket.number, ticket), not self.since
        first = self._push(ticket.priority, entry)[:1]
        if ticket.priority not in self.since:
            self.since.setdefault(ticket.priority, LastLeave(now, self._leaves))
        if not first or first[0] is not entry:  # it may have been taken out again
            return False
        if is_alone or self._lowest() is entry:
            return True
        oldest = self._oldest(now) if self._leaves >= MOST_URGENT else None
        return oldest is entry

    def _push(self, priority: int, entry: Entry) -> PriorityLevel:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels.setdefault(priority, PriorityLevel())
        heapq.heappush(level, entry)
        if len(level) == 1:
            heapq.heappush(self._order, priority)
            if len(self._order) > self._tidy_from:
                self._tidy()
        if self._levels.get(priority) is not level:
            return self._push(priority, entry)  # it was found empty, and dropped
        return level

    # -- look ------------------------------------------------------------------------------------

    def head(self, now: float, most: float) -> Optional[RankedEntry]:
        """The next of the tickets whose priority is *most* or less."""
        entry, by_age = self._oldest(now) if self._leaves >= MOST_URGENT else None, 0
        if entry is None or entry[2].priority > most:
            entry, by_age = self._lowest(), 1
        if entry is None or entry[2].priority > most:
            return None
        return (by_age, entry[2].priority, *entry)

    def _oldest(self, now: float) -> Optional[Entry]:
        """The first ticket of the level that leads by ageing."""
        while self.since:
            try:
                oldest = next(iter(self.since))
            except (StopIteration, RuntimeError):  # changed at this moment; the next look will tell
                return None
            last = self.since.get(oldest)
            if last is None or now - last.at < self._ageing:
                return None
            if self._leaves - last.leaves < MOST_URGENT:
                return None
            level = self._levels.get(oldest)
            entry = None if level is None else level.top()
            if entry is not None:
                return entry
            self.since.pop(oldest, None)
        return None

    def _lowest(self) -> Optional[Entry]:
        """The first ticket of the lowest priority in which one waits."""
        while first := self._order[:1]:
            level = self._levels.get(first[0])
            entry = None if level is None else level.top()
            if entry is not None:
                return entry
            self._drop_first()
        return None

    def _drop_first(self) -> None:
        try:
            priority = heapq.heappop(self._order)
        except IndexError:
            return
        self._put_away(priority)

    def first_of(self, priority: int, most: int) -> list[Ticket]:
        """The first few tickets of one level."""
        level = self._levels.get(priority)
        return [] if level is None else level.first(most)

    def waiting(self) -> list[Ticket]:
        """All tickets that wait, in no order."""
        return [e[2] for level in list(self._levels.values()) for e in level[:] if e[2].queued]

    # -- out -------------------------------------------------------------------------------------

    def note_leave(self, priority: int, now: float) -> None:
        """A ticket of that priority has left."""
        self._leaves += 1
        if priority in self.since:
            self.since[priority] = LastLeave(now, self._leaves)
            self.since.move_to_end(priority)

    def remove(self, ticket: Ticket) -> None:
        """Note that a ticket is not ``queued`` any more: its entry is dead."""
        level = self._levels.get(ticket.priority)
        if level is not None:
            level.dead += 1
        # At once for the first: its retry will have the same tag and number, and two entries that
        # differ in nothing but their tickets cannot be compared. The others wait for the sweep.
        if level is None or level.top() is None:
            self.since.pop(ticket.priority, None)
        elif level.dead > SWEEP_FROM and level.dead > len(level) // 2:
            self._sweep(ticket.priority, level)

    def _sweep(self, priority: int, level: PriorityLevel) -> None:
        """Drop the dead entries of a level."""
        before = level[:]
        swept = PriorityLevel(entry for entry in before if entry[2].queued)
        heapq.heapify(swept)
        self._levels[priority] = swept
        if level != before:
            known = set(map(id, before))
            for entry in level[:]:
                if id(entry) not in known:
                    self._push(priority, entry)

    def _tidy(self) -> None:
        """Keep each priority once, and none in which nothing waits."""
        for priority in list(self._levels):
            if not self._levels.get(priority):
                self._put_away(priority)
        self._order[:] = self._levels
        heapq.heapify(self._order)
        self._tidy_from = SWEEP_FROM + 2 * len(self._order)

    def _put_away(self, priority: int) -> None:
        for entry in self._levels.pop(priority, ()):
            self._push(priority, entry)


class _TenantShare:
    """The position of one tenant on the scale of tokens, within one priority."""

    __slots__ = ("finish", "sent", "waiting")

    def __init__(self, start: float) -> None:
        #: Where its next call begins.
        self.finish = start
        #: Where its next call would begin if only what has left counted.
        self.sent = start
        self.waiting = 0


class _FairLevel:
    """The tenants of one priority, while a ticket of that priority waits."""

    __slots__ = ("shares", "sweep_from", "virtual")

    def __init__(self, virtual: float) -> None:
        #: The largest tag of those that have left or were waited for at the head.
        self.virtual = virtual
        self.shares: dict[Optional[str], _TenantShare] = {}
        self.sweep_from = SWEEP_FROM

    def sweep(self) -> None:
        """Forget idle tenants that would begin at the virtual time anyway."""
        self._forget_idle(most=self.virtual)
        if len(self.shares) > MOST_IDLE:
            self._forget_idle(most=math.inf)
        self.sweep_from = SWEEP_FROM + 2 * len(self.shares)

    def _forget_idle(self, most: float) -> None:
        for tenant, share in list(self.shares.items()):
            if share.waiting <= 0 and share.finish <= most:
                self.shares.pop(tenant, None)


class FairQueue:
    """Fair shares between tenants of equal priority: start-time fair queueing.

    Each call is given a tag, the start of its share on a scale of estimated tokens, and the lowest
    tag leaves first. A tenant's calls follow one another on that scale; a tenant that comes anew
    begins at the virtual time, where those are that leave now. So ten thousand calls of one tenant
    delay another's single call by one of them. All methods require the lane's mutex.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _FairLevel] = {}
        #: The end of every share ever given. A priority that comes back begins here, so that a
        #: retry from its earlier life is not behind those who come now.
        self.latest = 0.0

    def assign_tag(self, ticket: Ticket) -> None:
        """Give a ticket its tag as it is queued, and charge its tenant."""
        level = self._levels.get(ticket.priority)
        if level is None:
            level = self._levels.setdefault(ticket.priority, _FairLevel(self.latest))
        share = level.shares.get(ticket.tenant)
        if share is None:
            if len(level.shares) >= level.sweep_from:
                level.sweep()
            share = level.shares[ticket.tenant] = _TenantShare(level.virtual)
        start = share.finish if share.finish > level.virtual else level.virtual
        ticket.tag = start
        _, entered, written = ticket.cost
        share.finish = finish = start + max(1.0, entered + written)
        share.waiting += 1
        if finish > self.latest:
            self.latest = finish

    def note_head(self, ticket: Ticket) -> None:
        """Note that a ticket is at the head: no ticket that comes later goes before it.

        Otherwise small calls of ever new tenants could use up what accrues for a large one.
        """
        level = self._levels.get(ticket.priority)
        if level is not None and ticket.tag > level.virtual:
            level.virtual = ticket.tag

    def uncharge(self, ticket: Ticket) -> None:
        """Note that a ticket was cancelled.

        If it was its tenant's last, its share is given back.
        """
        share = self._share_of(ticket)
        if share is None:
            return
        if share.finish == ticket.tag + _weight(ticket):
            share.finish = ticket.tag
        _count_out(share)

    def note_leave(self, ticket: Ticket) -> None:
        """Note that a ticket has left, and charge its tenant for good."""
        share = self._share_of(ticket)
        if share is None:
            return
        sent = ticket.tag + _weight(ticket)
        if sent > share.sent:
            share.sent = sent
        _count_out(share)

    def forget(self, priority: int) -> None:
        """No ticket of that priority waits any more: all tenants begin anew."""
        self._levels.pop(priority, None)

    def _share_of(self, ticket: Ticket) -> Optional[_TenantShare]:
        level = self._levels.get(ticket.priority) if ticket.charges_tenant else None
        return None if level is None else level.shares.get(ticket.tenant)


def _weight(ticket: Ticket) -> float:
    _, entered, written = ticket.cost
    return max(1.0, entered + written)


def _count_out(share: _TenantShare) -> None:
    share.waiting -= 1
    if share.waiting <= 0:
        share.finish = share.sent  # what was cancelled in between is forgiven, too

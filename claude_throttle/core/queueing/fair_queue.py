"""Fair shares between tenants of equal priority: start-time fair queueing.

Each call is given a tag, the start of its share on a scale of estimated tokens, and the lowest tag
leaves first. A tenant's calls follow one another on that scale; a tenant that comes anew begins at
the virtual time, where those are that leave now. So ten thousand calls of one tenant delay
another's single call by one of them.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996. Pure arithmetic, no clock;
guarded by the lane's mutex.
"""

from __future__ import annotations

import math
from typing import Optional

from claude_throttle.core.queueing.ticket import Ticket

#: A table with fewer tenants than this is not worth sweeping.
SWEEP_FROM = 64

#: Tenants remembered of which nothing waits: about 2 MB. While ever new ones come, each with one
#: call, the virtual time stands still and none would be forgotten; these few begin anew too soon.
MOST_IDLE = 10_000


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
    """The share of each tenant within each priority. All methods require the lane's mutex.

    It only computes tags; the order itself is kept by :mod:`priority_queue`.
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

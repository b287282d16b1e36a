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

#: Tenants remembered of whom nothing waits: about 2 MB. While ever new ones come, each with one
#: call, the virtual time stands still and none would be forgotten; these few begin anew too soon.
MOST_IDLE = 10_000


class _TenantShare:
    """What one tenant has asked for within one priority."""

    __slots__ = ("finish", "sent", "waiting")

    def __init__(self, start: float) -> None:
        #: Where its next call begins.
        self.finish = start
        #: The same, counting only what has left.
        self.sent = start
        self.waiting = 0


class _FairLevel:
    """The tenants of one priority, while somebody of that priority waits."""

    __slots__ = ("accounting", "sweep_from", "virtual")

    def __init__(self, virtual: float) -> None:
        #: The largest tag of those that have left or were waited for at the head.
        self.virtual = virtual
        self.accounting: dict[Optional[str], _TenantShare] = {}
        self.sweep_from = SWEEP_FROM

    def open_account(self, tenant: Optional[str]) -> _TenantShare:
        if len(self.accounting) >= self.sweep_from:
            self._sweep()
        account = self.accounting[tenant] = _TenantShare(self.virtual)
        return account

    def _sweep(self) -> None:
        """Forget tenants of whom nothing waits and who would begin at the virtual time anyway."""
        self._forget_idle(up_to=self.virtual)
        if len(self.accounting) > MOST_IDLE:
            self._forget_idle(up_to=math.inf)
        self.sweep_from = SWEEP_FROM + 2 * len(self.accounting)

    def _forget_idle(self, up_to: float) -> None:
        for tenant, account in list(self.accounting.items()):
            if account.waiting <= 0 and account.finish <= up_to:
                self.accounting.pop(tenant, None)


class FairQueue:
    """Who has had how much. All methods require the lane's mutex."""

    def __init__(self) -> None:
        self._ranks: dict[int, _FairLevel] = {}
        # The end of every share ever given. A rank that comes back begins here, so that a retry
        # from its earlier life is not behind those who come now.
        self.latest = 0.0

    def enter(self, ticket: Ticket) -> None:
        """Give a ticket its tag as it takes its place."""
        rank = self._ranks.get(ticket.priority)
        if rank is None:
            rank = self._ranks.setdefault(ticket.priority, _FairLevel(self.latest))
        account = rank.accounting.get(ticket.tenant) or rank.open_account(ticket.tenant)
        start = account.finish if account.finish > rank.virtual else rank.virtual
        ticket.tag = start
        account.finish = finish = start + _weight(ticket)
        account.waiting += 1
        if finish > self.latest:
            self.latest = finish

    def serve(self, ticket: Ticket) -> None:
        """It is at the head: nobody who comes from now on, of whatever tenant, goes before it.

        Else small calls of ever new tenants could use up what accrues for a large one.
        """
        rank = self._ranks.get(ticket.priority)
        if rank is not None and ticket.tag > rank.virtual:
            rank.virtual = ticket.tag

    def withdraw(self, ticket: Ticket) -> None:
        """It was cancelled: if it was its tenant's last, its share is the next one's."""
        account = self._account_of(ticket)
        if account is not None and account.finish == ticket.tag + _weight(ticket):
            account.finish = ticket.tag
        _count_out(account)

    def leave(self, ticket: Ticket) -> None:
        """It has had its share."""
        account = self._account_of(ticket)
        if account is not None:
            account.sent = max(account.sent, ticket.tag + _weight(ticket))
        _count_out(account)

    def forget(self, priority: int) -> None:
        """Nobody of that priority waits any more: all begin anew."""
        self._ranks.pop(priority, None)

    def _account_of(self, ticket: Ticket) -> Optional[_TenantShare]:
        rank = self._ranks.get(ticket.priority) if ticket.charges_tenant else None
        return None if rank is None else rank.accounting.get(ticket.tenant)


def _weight(ticket: Ticket) -> float:
    _, entered, written = ticket.cost
    return max(1.0, entered + written)


def _count_out(account: Optional[_TenantShare]) -> None:
    if account is None:
        return
    account.waiting -= 1
    if account.waiting <= 0:
        account.finish = account.sent  # what was cancelled in the midst is forgiven, too

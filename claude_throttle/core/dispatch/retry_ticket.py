"""The place in the backlog of a call that was refused and waits for another send."""

from __future__ import annotations

from typing import Optional

from claude_throttle.core.dispatch.call import Attempt, AttemptStopped
from claude_throttle.core.domain.cost import NO_COST
from claude_throttle.core.domain.feedback import Dispatch
from claude_throttle.core.domain.ports import HeldSlot
from claude_throttle.core.queueing.ticket import WaitingTicket


class RetryTicket(WaitingTicket):
    """A retry, at its call's own place. Its sender thread waits until the worker grants it."""

    __slots__ = ("_attempt",)

    charges_tenant = False

    def __init__(self, attempt: Attempt) -> None:
        call = attempt.call
        # Tokens that are still booked are not booked again: the server may have counted them.
        cost = NO_COST._replace(requests=1.0) if attempt.held.tokens > 0 else call.cost
        # No deadline of its own: the worker watches the call's already.
        super().__init__(call.number, cost, call.priority, None, None, call.parent_slot)
        self.tag = call.tag
        self._attempt = attempt

    @property
    def ends_at(self) -> Optional[float]:
        return self._attempt.call.deadline

    def grant_locked(self, dispatch: Dispatch, slot: HeldSlot) -> None:
        self._attempt.begin_again_locked(dispatch, slot, self.cost)

    def reject(self, error: BaseException) -> None:
        # AttemptStopped passes through urllib3 unchanged; the transport then asks why.
        if self._attempt.stopped_by is None:
            self._attempt.stopped_by = error
        super().reject(AttemptStopped())

"""The pause of all processes that share an account: ``pause(everywhere=True)``.

In the store it is a running total of the lane that heartbeats name: each heartbeat brings it, any
process can add to it, and versions that do not know it never touch it. Its value is an instant of
the store's time: above 0, paused since then; below 0, resumed then. At 0 the store knows neither,
because it is new or has lost its memory: a process that is paused then tells it again.
"""

from __future__ import annotations

import math
import threading
from typing import Optional

from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
    Store,
    StoredLane,
)

#: The lane that heartbeats name; it has no quotas, and is not shown.
NO_LANE = ""

#: The name of the running total.
TOTAL = "paused_since"

#: The member as which somebody outside pauses or resumes an account.
OUTSIDE = "outside"

#: Microseconds for which a store keeps a pause, or its end, that no process asks for: 30 days. (A
#: SQLite file keeps it for two days, or until the machine boots.)
KEPT = 30 * 86_400 * SECOND

#: Exchanges after which a change that others undo at the same moment is left to the heartbeats.
MOST_TRIES = 3


class SharedPause:
    """What one process knows of the pause of all, and has to report of it. Thread-safe."""

    def __init__(self) -> None:
        # Guards what follows. Held for arithmetic only.
        self._lock = threading.RLock()
        #: Whether all processes are paused, as far as this one knows.
        self.in_force = False
        #: What was asked for here, until the store has it.
        self.wanted: Optional[bool] = None
        #: The total as received last.
        self._total = 0.0

    def want(self, paused: bool) -> None:
        """Pause all, or let all go on: in force here at once, and reported from now on."""
        with self._lock:
            self.wanted = self.in_force = paused

    def add_to(self, request: ExchangeRequest, store_now: float) -> ExchangeRequest:
        """*request* that asks for the total as well, and changes it if something is to report."""
        with self._lock:
            wanted, total = self.wanted, self._total
            if wanted is None and self.in_force and not total:
                wanted = True  # the store has lost its memory
        change = 0.0 if wanted is None else (store_now if wanted else -store_now) - total
        pause = KEPT if change else request.pause
        return request._replace(counts=((TOTAL, change),), pause=pause)

    def adopt_response(self, request: ExchangeRequest, response: ExchangeResponse) -> bool:
        """Adopt the response to add_to()'s request; whether the pause began or ended by it."""
        if not response.totals or request.counts[0][0] != TOTAL:
            return False
        with self._lock:
            before, total = self.in_force, response.totals[0]
            self._total = total
            if self.wanted is (total > 0):
                self.wanted = None
            if self.wanted is None and total:
                self.in_force = total > 0
            return self.in_force is not before


def is_paused(lane: StoredLane) -> bool:
    """Whether *lane* says that all processes of its account are paused."""
    return lane.lane == NO_LANE and lane.totals.get(TOTAL, 0.0) > 0


def change_request(member: str, not_after: float) -> ExchangeRequest:
    """A request of :data:`NO_LANE` that claims nothing, for :meth:`SharedPause.add_to`."""
    return ExchangeRequest(member, not_after, ())


def pause_account(store: Store, account: str, paused: bool) -> None:
    """Pause all processes of *account*, or let them go on, from outside.

    Raises :class:`StoreFailed` if the store cannot be asked.
    """
    pause = SharedPause()
    look = change_request(OUTSIDE, math.inf)
    first = store.transact(account, NO_LANE, pause.add_to(look, 0.0))
    pause.adopt_response(look._replace(counts=((TOTAL, 0.0),)), first)
    pause.want(paused)
    for _ in range(MOST_TRIES):
        request = pause.add_to(look, first.now)
        pause.adopt_response(request, store.transact(account, NO_LANE, request))
        if pause.wanted is None:
            return

"""The store of a simulated fleet: a real one behind a wire that takes time.

The arithmetic of sharing is that of the real store in features/sharing; only its distance and its
capacity are simulated. So the simulation shows what a slow or overloaded store does to the pace.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any, Callable, NamedTuple, Protocol

from claude_throttle.core.threads.blocking import BlockingCall
from claude_throttle.simulation.virtual_time import VirtualTime

#: Redis, measured on loopback: what one reservation takes of its core, the sockets included. 67 µs
#: for ten instants, 77 for twenty.
SERVICE_SECONDS = 50e-6

#: Microseconds in a second: the unit of the store's clock.
SECOND = 1e6

#: What an exchange was for.
RESERVATIONS, REPORTS, BEATS, PROBES = "reservations", "reports", "beats", "probes"


class StoreSpeed(NamedTuple):
    """The durations of an exchange with the store, in seconds."""

    #: To the store and back.
    round_trip_seconds: float = 0.001
    #: It serves one exchange at a time; the inverse is its capacity.
    service_seconds: float = SERVICE_SECONDS
    #: Mean of what each way takes longer at times.
    jitter_seconds: float = 0.0


class FleetStore(Protocol):
    """The part of the interface of a store of features/sharing that the simulation uses."""

    def transact(self, account: str, lane: str, request: Any) -> Any:
        """Carry out one transaction: reservations, a heartbeat or a report of one lane."""
        ...

    def read_clock(self) -> float:
        """The store's own time, in microseconds."""
        ...


class SimulatedStore:
    """A store that serves one exchange at a time, in the order of arrival.

    Its :meth:`transact` and :meth:`read_clock` take effect at once; :meth:`ask` lets them be called
    when it is their turn.
    """

    name = "simulated"

    def __init__(
        self, time: VirtualTime, store: FleetStore, speed: StoreSpeed, chance: random.Random
    ) -> None:
        #: How many exchanges there were, by what they were for.
        self.asked: Counter[str] = Counter()
        #: The instants that were reserved.
        self.reserved_at: list[float] = []
        #: Seconds it was busy.
        self.busy_seconds = 0.0
        self._time, self._store, self._speed, self._chance = time, store, speed, chance
        self._free_at = 0.0

    # -- as a store ------------------------------------------------------------------------------

    def transact(self, account: str, lane: str, request: Any) -> Any:
        """Carry out one transaction at the real store, and count it by its purpose."""
        self.asked[
            RESERVATIONS
            if request.reservations
            else BEATS
            if request.claim is not None
            else REPORTS
        ] += 1
        response = self._store.transact(account, lane, request)
        self.reserved_at += [self._time.now + wait / SECOND for wait in response.waits]
        return response

    def read_clock(self) -> float:
        """The store's own time, in microseconds."""
        self.asked[PROBES] += 1
        return self._store.read_clock()

    # -- over the wire ---------------------------------------------------------------------------

    def freeze(self, until: float) -> None:
        """Serve nothing until that instant, and afterwards all that was asked meanwhile."""
        self._free_at = max(self._free_at, until)

    def ask(self, call: BlockingCall, answered: Callable[[Any], None]) -> None:
        """Have *call* made at the store, in its turn; *answered* gets its result at the caller.

        It cannot fail here: a process that waited too long has turned to its time-out by itself.
        """
        self._time.at(self._time.now + self._one_way(), partial(self._arrive, call, answered))

    def _one_way(self) -> float:
        seconds = self._speed.round_trip_seconds / 2.0
        if self._speed.jitter_seconds:
            seconds += self._chance.expovariate(1.0 / self._speed.jitter_seconds)
        return seconds

    def _arrive(self, call: BlockingCall, answered: Callable[[Any], None]) -> None:
        self._free_at = max(self._time.now, self._free_at) + self._speed.service_seconds
        self.busy_seconds += self._speed.service_seconds
        self._time.at(self._free_at, partial(self._serve, call, answered))

    def _serve(self, call: BlockingCall, answered: Callable[[Any], None]) -> None:
        result = call()
        self._time.at(self._time.now + self._one_way(), partial(answered, result))

"""The store of a simulated fleet: the real ledger behind a wire that takes time."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any, Callable, NamedTuple, Protocol

#: Redis, measured on loopback: what one reservation takes of its core, the sockets included. 67 µs
#: for ten slots, 77 for twenty.
SERVICE_SECONDS = 50e-6


class StoreSpeed(NamedTuple):
    """How long an exchange takes."""

    #: To the store and back.
    round_trip_seconds: float = 0.001
    #: It serves one exchange at a time; the inverse is its capacity.
    service_seconds: float = SERVICE_SECONDS
    #: Mean of what each way takes longer at times.
    jitter_seconds: float = 0.0


class FleetStore(Protocol):
    """What is asked of a ledger."""

    def transact(self, account: str, lane: str, order: Any) -> Any:
        """One transaction."""
        ...

    def now(self) -> float:
        """Its time, in microseconds."""
        ...


class Agenda(Protocol):
    """Where what is going to happen is written down."""

    now: float
    chance: random.Random

    def at(self, at: float, happen: Callable[[], None]) -> None:
        """Have it happen then."""
        ...


class SimulatedStore:
    """Serves in the order of arrival."""

    def __init__(self, agenda: Agenda, ledger: FleetStore, speed: StoreSpeed) -> None:
        self.ledger = ledger
        #: How many exchanges there were, by what they were for.
        self.asked: Counter[str] = Counter()
        #: Seconds it was busy.
        self.busy_seconds = 0.0
        #: Seconds the longest waited for its turn.
        self.longest_queue_seconds = 0.0
        self._agenda = agenda
        self._speed = speed
        self._free_at = 0.0

    def freeze(self, until: float) -> None:
        """It serves nobody until then, and all who asked meanwhile after."""
        self._free_at = max(self._free_at, until)

    def ask(self, what: str, do: Callable[[], Any], hear: Callable[[Any], None]) -> None:
        """*do* is done there, in its turn; *hear* is called here with what came of it."""
        self.asked[what] += 1
        self._agenda.at(self._agenda.now + self._way(), partial(self._arrive, do, hear))

    def _way(self) -> float:
        seconds = self._speed.round_trip_seconds / 2.0
        if self._speed.jitter_seconds:
            seconds += self._agenda.chance.expovariate(1.0 / self._speed.jitter_seconds)
        return seconds

    def _arrive(self, do: Callable[[], Any], hear: Callable[[Any], None]) -> None:
        now, service = self._agenda.now, self._speed.service_seconds
        begins_at = max(now, self._free_at)
        self._free_at = begins_at + service
        self.busy_seconds += service
        self.longest_queue_seconds = max(self.longest_queue_seconds, begins_at - now)
        self._agenda.at(self._free_at, partial(self._serve, do, hear))

    def _serve(self, do: Callable[[], Any], hear: Callable[[Any], None]) -> None:
        answer = do()
        self._agenda.at(self._agenda.now + self._way(), partial(hear, answer))

"""What a simulated fleet is made of: the real parts that are handed in, and the work to be done."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.ports import LanePacer
from claude_throttle.simulation.fleet_store import FleetStore


class FleetPacer(LanePacer, Protocol):
    """A pacer whose quotas a ledger keeps."""

    is_exchanging: bool

    @property
    def has_pending(self) -> bool:
        """Whether there is something to tell."""
        ...

    def make_request(self, member: str, not_after: float, costs: list[Cost], now: float) -> Any:
        """What to ask the ledger."""
        ...

    def restore(self, order: Any, now: float, in_doubt: bool) -> None:
        """It was not told."""
        ...

    def apply(self, order: Any, reply: Any, said_at: float, now: float) -> list[Event]:
        """What it answered, and when it did."""
        ...

    def pause_for(self, seconds: float, now: float) -> float:
        """Nothing leaves for so long."""
        ...

    def is_stale(self, now: float) -> bool:
        """Whether it holds slots that were last asked about long ago."""
        ...

    def lose_store(self) -> None:
        """The ledger is silent."""
        ...

    def rejoin(self, now: float, settle_seconds: float) -> None:
        """It answers again; the others will have noticed in *settle_seconds*."""
        ...


class FleetClockOffset(Protocol):
    """The store's clock, as one process knows it."""

    def observe(self, said: float, asked_at: float, now: float) -> None:
        """It told its time, in microseconds."""
        ...

    def to_local(self, said: float) -> float:
        """When it was so late there, in our seconds."""
        ...

    def to_store(self, now: float) -> float:
        """What it says now, in microseconds."""
        ...


class FleetParts(NamedTuple):
    """What is simulated: the real things, as the top level would make them."""

    #: The pacer of the process of that number, and its coordinator.
    pacer: Callable[[int, Any], FleetPacer]
    #: The ledger, by a clock that tells seconds.
    ledger: Callable[[Callable[[], float]], FleetStore]
    #: The order with which a member says that it is there: its name, and not_after.
    beat: Callable[[str, float], Any]
    #: The store's clock, as a process that has just begun knows it.
    time: Callable[[], FleetClockOffset]


class Work(NamedTuple):
    """What one process has to send."""

    #: There is always another call waiting.
    backlogged: bool = False
    #: Calls that come at random.
    per_second: float = 0.0
    #: The same, of those that leave before all others of their process.
    urgent_per_second: float = 0.0


class FleetCall(NamedTuple):
    """One call that waits."""

    #: When it was submitted; of a backlog, nobody knows.
    at: float
    urgent: bool = False


FROM_THE_BACKLOG = FleetCall(-math.inf)

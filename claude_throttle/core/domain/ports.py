"""What the corridor needs of the rooms beside it, and nothing else about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import ConcurrencyChanged, ConnectionLimitReached, Event
from claude_throttle.core.domain.feedback import (
    AccountRefusal,
    Dispatch,
    Feedback,
    ResponseReport,
    RetryDelay,
)

Step = Callable[[], None]

#: What the first few behind the head will cost, at most so many. Requires the lane's mutex.
Ahead = Callable[[int], list[Cost]]


class LanePacer(Protocol):
    """When may it leave? Guarded by the lane's mutex; reads no clock."""

    #: Set by pause(): nothing leaves before this instant.
    held_until: float

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave, as things stand. Changes nothing."""
        ...

    def needs_reservation(self, cost: Cost, ahead: Ahead, now: float) -> Optional[list[Cost]]:
        """Costs to be reserved, with no mutex held, before *cost*, the head's, may leave; or None.

        Where processes share a quota; the first is *cost* itself.
        """
        ...

    def leaves_at(self, queued: Cost, cost: Cost, now: float) -> float:
        """The same behind all of *queued*."""
        ...

    def take(self, cost: Cost, now: float, answers: bool = True) -> Dispatch:
        """It leaves now. *answers*: somebody will say how it ended."""
        ...

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> bool:
        """What was booked as *held* was in truth *actual*; True if somebody may leave earlier."""
        ...

    def begun(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """The server began to answer an attempt, which cost *change* more than was booked."""
        ...

    def answered(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """The server took an attempt, which cost *change* more than was booked."""
        ...

    def refused(
        self,
        feedback: Feedback,
        dispatch: Dispatch,
        cost: Cost,
        wait_seconds: float,
        in_flight: int,
        now: float,
    ) -> tuple[RetryDelay, list[Event]]:
        """An attempt was refused or lost; alone it would wait *wait_seconds*."""
        ...

    def expect(self, now: float) -> None:
        """Of something that was not expected to, somebody is about to say how it ended."""
        ...

    def lost(self, now: float) -> None:
        """An attempt ended without a word from the server."""
        ...

    def opens_at(self) -> float:
        """The instant before which an open circuit lets nothing leave; else -inf."""
        ...


class SlotOwner(Protocol):
    """Who lent a place in flight."""

    def release(self) -> None:
        """Return it, and wake whoever waits for it. Call it with no lane's mutex held."""
        ...

    def release_nowait(self) -> None:
        """Return it without a word and without a lock; for the garbage collector."""
        ...


class AnySlot(SlotOwner, Protocol):
    """A place in flight, taken or not; may be given back either way, and again."""

    def try_acquire(self, now: float) -> bool:
        """Take it, if there is one for its priority."""
        ...


class LimiterPort(Protocol):
    """How many may be in flight, over all lanes. Has its own lock; never calls out under it."""

    def up_to(self, now: float) -> float:
        """The priorities that may take one now: inf for all, -inf for none."""
        ...

    def place(self, priority: int) -> AnySlot:
        """One for a call of that priority, not taken yet."""
        ...

    @property
    def in_use(self) -> int: ...

    @property
    def limit(self) -> float: ...

    def headers_came(self) -> None:
        """The server tells its limits."""
        ...

    def answered(self) -> None:
        """The server took one."""
        ...

    def refused(self, now: float) -> None:
        """The server found too many in flight."""
        ...

    def ramp(self) -> None:
        """An outage is over: begin with few."""
        ...

    def news(self) -> Optional[ConcurrencyChanged]:
        """What became of the limit since this was asked last, if that is worth telling."""
        ...

    def reached_connection_limit(self) -> Optional[ConnectionLimitReached]:
        """Emit this, if the connection limit was reached since this was asked last."""
        ...

    def notify_when_free(self, wake: Step) -> None:
        """Remember whom to wake when one comes back."""
        ...

    def notify_waiters(self) -> None:
        """Wake those. Call it with no lane's mutex held."""
        ...


class FeedbackReader(Protocol):
    """Who understands what others heard from the server. Thread-safe."""

    #: The process it is of: what a permit belongs to.
    pid: int

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> ResponseReport:
        """What an answer says to whoever keeps the pace."""
        ...

    def account_refused(self, lane: str, refusal: AccountRefusal) -> None:
        """Nothing is accepted from this account. Called with no mutex held."""
        ...

    def answered(self, lane: str, left_at: float) -> None:
        """What left at that instant was accepted. Called with no mutex held."""
        ...

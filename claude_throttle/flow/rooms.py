"""What the corridor needs of the rooms beside it, and nothing else about them."""

from __future__ import annotations

from typing import Callable, Protocol

from claude_throttle.flow.cost import Cost

Step = Callable[[], None]


class Pacer(Protocol):
    """When may it leave? Guarded by the lane's mutex; reads no clock."""

    #: Set by pause(): nothing leaves before this instant.
    held_until: float

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave, as things stand. Changes nothing."""
        ...

    def leaves_at(self, queued: Cost, cost: Cost, now: float) -> float:
        """The same behind all of *queued*."""
        ...

    def take(self, cost: Cost, now: float) -> None:
        """It leaves now."""
        ...

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> bool:
        """What was booked as *held* was in truth *actual*; True if somebody may leave earlier."""
        ...

    def pause_for(self, seconds: float, now: float) -> float:
        """Let nothing leave for *seconds*, plus jitter; returns what remains of the pause."""
        ...


class Lender(Protocol):
    """Who lent a place in flight."""

    def give_back(self) -> None:
        """Return it, and wake whoever waits for it. Call it with no lane's mutex held."""
        ...

    def give_back_quietly(self) -> None:
        """Return it without a word and without a lock; for the garbage collector."""
        ...


class Permits(Lender, Protocol):
    """How many may be in flight, over all lanes. Has its own lock; never calls out under it."""

    def is_free(self) -> bool: ...

    def try_acquire(self) -> bool: ...

    def starve(self, wake: Step) -> None:
        """Remember whom to wake when one comes back."""
        ...

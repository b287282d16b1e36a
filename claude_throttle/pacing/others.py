"""Who borrows permits for calls that are not INTERACTIVE."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claude_throttle.pacing.concurrency import Concurrency


class Others:
    """Whom calls that are not INTERACTIVE give back to: those are counted apart."""

    def __init__(self, permits: Concurrency) -> None:
        self._permits = permits
        #: Guarded by the permits' lock; late by what was returned and not collected yet.
        self.in_use = 0

    def give_back(self) -> None:
        """Put one back, and wake the lanes that found none."""
        self._permits.give_back(by_others=True)

    def give_back_quietly(self) -> None:
        """Put one back and wake nobody; takes no lock."""
        self._permits.give_back_quietly(by_others=True)

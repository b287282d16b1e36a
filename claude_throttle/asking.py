"""Who asks the ledger, as a pacer sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from claude_throttle.flow.cost import Cost

if TYPE_CHECKING:
    from claude_throttle.shared_pacer import SharedPacer


class Clerk(Protocol):
    """Who asks the ledger."""

    #: The ledger cannot be reached.
    alone: bool
    #: Processes that shared it when it was last heard of.
    members: int
    on_failure: str

    def reserve(self, pacer: SharedPacer, costs: list[Cost]) -> None:
        """Ask for slots. Holds no mutex; may take as long as the store's timeout."""
        ...

    def has_news(self) -> None:
        """Something is to be told, soon."""
        ...

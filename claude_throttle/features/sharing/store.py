"""Who is asked: the store, and whoever stands between it and a pacer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from claude_throttle.core.domain.cost import Cost
from claude_throttle.features.sharing.stores.contract import Store

if TYPE_CHECKING:
    from claude_throttle.features.sharing.shared_pacer import SharedPacer


class ReservingStore(NamedTuple):
    """Which ledger, for whom, and how to behave without it."""

    ledger: Store
    #: A salted hash of the key.
    account: str
    timeout_seconds: float
    #: "share", "stop", "full".
    on_failure: str


class CoordinatorPort(Protocol):
    """Who asks the ledger."""

    #: The ledger cannot be reached.
    alone: bool
    #: Processes that shared it when it was last heard of.
    members: int
    on_failure: str

    def reserve(self, pacer: SharedPacer, costs: list[Cost]) -> None:
        """Ask for slots. Holds no mutex; may take as long as the store's timeout."""
        ...

    def has_pending(self) -> None:
        """Something is to be told, soon."""
        ...

"""What became of the units that one process took from a quota it shares."""

from __future__ import annotations

from typing import Union

from claude_throttle.core.pacing.configured_quotas import ConfiguredQuota
from claude_throttle.core.pacing.learned_quotas import LearnedQuota
from claude_throttle.features.sharing.stores.contract import NEVER, SECOND, StoredBucket

AnyQuota = Union[ConfiguredQuota, LearnedQuota]


class QuotaDelta:
    """What became of one bucket since the ledger was told last."""

    __slots__ = ("returned", "seen", "shift", "spent")

    def __init__(self) -> None:
        self.seen = NEVER
        #: Microseconds.
        self.shift = 0.0
        #: Units.
        self.spent = self.returned = 0.0

    def __bool__(self) -> bool:
        return bool(self.shift or self.spent or self.returned)

    def bucket(self, name: str, quota: AnyQuota) -> StoredBucket:
        """The bucket of *quota*, and all that is to be told of it."""
        return StoredBucket(
            name,
            SECOND / quota.rate,
            quota.burst,
            self.seen,
            self.shift,
            self.spent,
            returned=self.returned,
            strict=quota.kind == "requests",
        )

    def told(self) -> None:
        """The ledger is being told."""
        self.shift = self.spent = self.returned = 0.0

    def untold(self, bucket: StoredBucket, in_doubt: bool) -> None:
        """It was not told. *in_doubt*, it may have been: only what makes us slower counts then."""
        self.shift += max(0.0, bucket.shift) if in_doubt else bucket.shift
        self.spent += bucket.spent
        self.returned += 0.0 if in_doubt else bucket.returned

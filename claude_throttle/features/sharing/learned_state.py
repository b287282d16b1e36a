"""What the processes that share a quota learned of it together.

Each process reads the headers of its own answers. They tell of what all have taken, so the account
they are compared with must be everybody's: after each exchange with the ledger it is. What one
process finds wrong it corrects there, unless another has corrected the same meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Optional

from claude_throttle.core.domain.feedback import Dispatch, Feedback
from claude_throttle.core.pacing.learned_quotas import LearnedQuota
from claude_throttle.core.pacing.traffic import Traffic
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
)

#: Units. A difference below this is a rounding error.
NOTHING = 1e-6


class LearnedState:
    """Of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self, learned: Mapping[str, LearnedQuota], traffic: Traffic) -> None:
        self._learned = learned
        self._traffic = traffic
        #: Headers that wait for the others' part of the account.
        self.unread: list[tuple[Feedback, Dispatch]] = []
        self.version = 0.0
        #: As the ledger has them.
        self._facts = ""
        #: The ledger's running totals, as heard last, and ours when it was asked.
        self._totals = dict.fromkeys(learned, 0.0)
        self._asked = dict.fromkeys(learned, (0.0, 0.0))
        #: Units by which headers moved each level since.
        self._corrections = dict.fromkeys(learned, 0.0)
        self._levels: dict[str, float] = {}

    @property
    def has_pending(self) -> bool:
        """Whether there is something to read or to tell."""
        return bool(self.unread) or self.facts_to_tell() is not None

    # -- to the ledger ---------------------------------------------------------------------------

    def facts_to_tell(self) -> Optional[str]:
        """What was learned, if the ledger does not have it so; a correction needs it, too."""
        facts = self._own_facts()
        corrects = any(abs(units) > NOTHING for units in self._corrections.values())
        return facts if facts and (facts != self._facts or corrects) else None

    def _own_facts(self) -> str:
        known = {
            kind: [own.limit, own.burst, own.margin, own.trusted, own.source]
            for kind, own in self._learned.items()
            if own.known
        }
        return json.dumps(known, separators=(",", ":")) if known else ""

    def correction(self, kind: str) -> float:
        """Microseconds by which the headers move the bucket's instant."""
        units = self._corrections.get(kind, 0.0)
        return -units / self._learned[kind].rate * SECOND if units else 0.0

    def counts(self) -> tuple[tuple[str, float], ...]:
        """What was produced here since the ledger heard of it last. The answer is taken in next."""
        own = zip(self._traffic.taken, self._traffic.produced)
        self._asked = dict(zip(self._learned, own))
        return tuple(
            (kind, produced - self._totals[kind]) for kind, (_, produced) in self._asked.items()
        )

    # -- from the ledger -------------------------------------------------------------------------

    def apply(self, order: ExchangeRequest, reply: ExchangeResponse) -> None:
        """What the others took and learned."""
        for (kind, _), total in zip(order.counts, reply.totals):
            produced = total - self._asked[kind][1]
            self._traffic.produced = self._traffic.produced.more_of(kind, produced)
            self._totals[kind] = total
        self._take_over(reply.facts)
        self.version = reply.version
        for bucket, taken in zip(order.buckets, reply.taken):
            asked = self._asked.get(bucket.name)
            if asked is not None:
                others = taken - asked[0]
                self._traffic.taken = self._traffic.taken.more_of(bucket.name, others)

    def is_anothers(self, order: ExchangeRequest, reply: ExchangeResponse) -> bool:
        """Whether the facts in force are new, and another process's. Ask before apply()."""
        return reply.facts not in ("", order.facts, self._facts)

    def _take_over(self, facts: str) -> None:
        if facts and facts != self._facts:
            for kind, learned in json.loads(facts).items():
                if kind in self._learned:
                    self._learned[kind].adopt(*learned)
        self._facts = facts

    def begin_reading(self, now: float) -> list[tuple[Feedback, Dispatch]]:
        """Headers that may be read now; end_reading() follows."""
        self._levels = {kind: own.level(now) for kind, own in self._learned.items() if own.known}
        unread, self.unread = self.unread, []
        return unread

    def end_reading(self, now: float) -> None:
        """What the headers changed is told to the ledger next."""
        for kind, own in self._learned.items():
            before = self._levels.get(kind)
            self._corrections[kind] = 0.0 if before is None else own.level(now) - before

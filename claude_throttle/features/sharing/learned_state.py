"""The learned quotas of a lane that several processes share.

Each process reads the headers of its own responses. They report what all processes have taken, so
the level they are compared with must include what the others took. It does so right after each
exchange with the store; until then headers wait in ``unread``. Comparing them earlier would take
the others' traffic for a smaller quota.

What a process corrects, it corrects in the store, under a version: if another process has corrected
the quota meanwhile, the version has changed, and the second correction is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Optional

from claude_throttle.core.domain.cost import Cost
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
    """What one process has learned of a lane's quotas and exchanges with the others.

    Not thread-safe: the lane's mutex guards it. Calls come in pairs: counts() before an exchange
    and apply() after it, then begin_reading() and end_reading() around the reading of headers.
    """

    def __init__(self, learned: Mapping[str, LearnedQuota], traffic: Traffic) -> None:
        self._learned = learned
        self._traffic = traffic
        #: Headers that cannot be read until it is known what the others have taken.
        self.unread: list[tuple[Feedback, Dispatch]] = []
        #: The version of the facts that this process has seen last.
        self.version = 0.0
        #: What was learned, as JSON, as the store has it.
        self._facts = ""
        #: The store's running totals of units produced, as received last, and what this process had
        #: taken and produced when it asked.
        self._totals = dict.fromkeys(learned, 0.0)
        self._asked = dict.fromkeys(learned, (0.0, 0.0))
        #: Units by which headers have moved each level since the last exchange.
        self._corrections = dict.fromkeys(learned, 0.0)
        self._levels: dict[str, float] = {}
        #: Units that left before their quota was known, so before they could be reserved.
        self._unreserved = dict.fromkeys(learned, 0.0)

    @property
    def has_pending(self) -> bool:
        """Whether there is something to read or to report."""
        return bool(self.unread) or self.pending_facts() is not None

    def take(self, cost: Cost) -> None:
        """Count *cost*, which leaves now, where its quota is not known yet."""
        for kind, learned in self._learned.items():
            if not learned.known:
                self._unreserved[kind] += getattr(cost, kind)

    # -- to the store ----------------------------------------------------------------------------

    def pending_facts(self) -> Optional[str]:
        """What was learned, as JSON; None if the store has the same and nothing is corrected."""
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
        """Microseconds by which headers move the bucket's instant."""
        units = self._corrections.get(kind, 0.0)
        return -units / self._learned[kind].rate * SECOND if units else 0.0

    def counts(self) -> tuple[tuple[str, float], ...]:
        """Units produced here that the store has not counted. apply() must follow."""
        own = zip(self._traffic.taken, self._traffic.produced)
        self._asked = dict(zip(self._learned, own))
        return tuple(
            (kind, produced - self._totals[kind]) for kind, (_, produced) in self._asked.items()
        )

    # -- from the store --------------------------------------------------------------------------

    def apply(self, request: ExchangeRequest, response: ExchangeResponse) -> None:
        """Add what the others took, and adopt what they learned."""
        if request.facts is not None and response.facts == request.facts:
            self._unreserved = dict.fromkeys(self._learned, 0.0)  # the account begins with them
        for (kind, _), total in zip(request.counts, response.totals):
            produced = total - self._asked[kind][1]
            self._traffic.produced = self._traffic.produced.more_of(kind, produced)
            self._totals[kind] = total
        self._adopt(response.facts)
        self.version = response.version
        for bucket, taken in zip(request.buckets, response.taken):
            asked = self._asked.get(bucket.name)
            if asked is not None:
                others = taken - asked[0]
                self._traffic.taken = self._traffic.taken.more_of(bucket.name, others)

    def is_news(self, request: ExchangeRequest, response: ExchangeResponse) -> bool:
        """Whether the facts are new, and another process's. Ask before apply()."""
        return response.facts not in ("", request.facts, self._facts)

    def _adopt(self, facts: str) -> None:
        if facts and facts != self._facts:
            for kind, learned in json.loads(facts).items():
                if kind in self._learned:
                    self._learned[kind].adopt(*learned)
        self._facts = facts

    def report_early_usage(self) -> dict[str, float]:
        """Units by kind that are missing in the account, since another process began it."""
        early = {
            kind: units for kind, units in self._unreserved.items() if self._learned[kind].known
        }
        self._unreserved.update(dict.fromkeys(early, 0.0))
        return early

    def begin_reading(self, now: float) -> list[tuple[Feedback, Dispatch]]:
        """The headers that may be read now. end_reading() must follow."""
        self._levels = {kind: own.level(now) for kind, own in self._learned.items() if own.known}
        unread, self.unread = self.unread, []
        return unread

    def end_reading(self, now: float) -> None:
        """Keep by how much the headers moved the levels, for the store."""
        for kind, own in self._learned.items():
            before = self._levels.get(kind)
            self._corrections[kind] = 0.0 if before is None else own.level(now) - before

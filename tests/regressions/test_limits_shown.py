"""``limits()`` said more than was let leave (review of 2027-01)."""

from __future__ import annotations

import pytest

from claude_throttle.account.limits import quotas_of
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.pacer import AUTO, Pacer

NOW = 100.0


def rows(quotas, headroom):
    pacer = Pacer(quotas, AUTO, headroom=headroom)
    pacer.start_with({"requests": 600.0}, "tier start", NOW)
    pacer.set_quotas(quotas, AUTO, NOW, headroom)
    return {(row.kind, row.per): row for row in quotas_of(pacer, NOW)}


def test_what_headroom_leaves_of_a_learned_limit_is_in_force():
    """600 learned, a quarter left to others: 450, and no more at once than that allows."""
    row = rows({}, 0.25)["requests", 60.0]
    assert (row.told, row.learned, row.in_force) == (None, 600, 450)
    assert row.source == "tier start"
    assert row.remaining <= row.burst


@pytest.mark.parametrize(
    ("told", "in_force", "source"), [(300, 300, "told"), (500, 450, "tier start")]
)
def test_the_smallest_of_told_learned_and_what_headroom_leaves(told, in_force, source):
    """And its origin: 500 told is more than the 450 that are left of what was learned."""
    row = rows({"rpm": Quota(told)}, 0.25)["requests", 60.0]
    assert (row.told, row.learned, row.in_force, row.source) == (told, 600, in_force, source)


def test_without_headroom_nothing_is_taken_off():
    """The whole of what was learned."""
    row = rows({}, 0.0)["requests", 60.0]
    assert (row.learned, row.in_force) == (600, 600)


def test_other_periods_keep_their_own_rows():
    """What is told for a day has no ceiling of a minute."""
    shown = rows({"rpd": Quota(1000, per=86_400.0)}, 0.25)
    assert shown["requests", 86_400.0].in_force == 1000
    assert shown["requests", 60.0].in_force == 450

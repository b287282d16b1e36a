"""What an account of a tier may do, before any answer told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain.models import SEPARATE, SHARED
from claude_throttle.core.domain.tiers import (
    TIERS,
    batches_rpm,
    count_tokens_rpm,
    starting_limits,
    tier_name,
)

COLUMNS = ("requests", "input_tokens", "output_tokens")

tiers = st.sampled_from(sorted(TIERS))
lanes = st.one_of(st.sampled_from(sorted([*SHARED.values(), *SEPARATE.values()])), st.text())


@pytest.mark.parametrize(
    ("tier", "lane", "row"),
    [
        ("start", "opus-4", (1_000, 2_000_000, 400_000)),
        ("start", "fable-5", (1_000, 500_000, 100_000)),
        ("start", "haiku-3-5", (1_000, 100_000, 20_000)),
        ("build", "sonnet-5-5", (5_000, 5_000_000, 1_000_000)),
        ("build", "fable-5", (2_000, 1_500_000, 300_000)),
        ("build", "haiku-3-5", (2_000, 200_000, 40_000)),
        ("scale", "haiku-4-5", (10_000, 10_000_000, 2_000_000)),
        ("scale", "fable-5", (4_000, 4_000_000, 800_000)),
        ("scale", "haiku-3-5", (4_000, 400_000, 80_000)),
        (1, "sonnet-4", (50, 30_000, 8_000)),
        (1, "haiku-4-5", (50, 50_000, 10_000)),
        (2, "opus-4", (1_000, 450_000, 90_000)),
        (3, "opus-4", (2_000, 800_000, 160_000)),
        (3, "haiku-4-5", (2_000, 1_000_000, 200_000)),
        (4, "sonnet-4", (4_000, 2_000_000, 400_000)),
        (4, "haiku-4-5", (4_000, 4_000_000, 800_000)),
        ("evaluation", "opus-5", (5, 30_000, 8_000)),
    ],
)
def test_a_tier_starts_with_what_the_page_says(tier, lane, row):
    """Copied from the page, one number of each kind at least, to find a slip of the pen."""
    assert tuple(starting_limits(tier, lane)[column] for column in COLUMNS) == row


@given(tiers, lanes)
def test_every_lane_of_every_tier_has_all_three_limits(tier, lane):
    """Positive, named as the fields of a cost, nothing else; whatever the lane is called."""
    limits = starting_limits(tier, lane)
    assert tuple(limits) == COLUMNS
    assert all(limits[column] > 0 for column in COLUMNS)


@given(tiers, lanes)
def test_an_unknown_lane_is_treated_with_the_most_care(tier, lane):
    """No lane of the tier starts with less of anything than one nobody knows."""
    limits, unknown = starting_limits(tier, lane), starting_limits(tier, "?")
    assert all(unknown[column] <= limits[column] for column in COLUMNS)


@pytest.mark.parametrize("names", [("evaluation", "start", "build", "scale"), ("1", "2", "3", "4")])
@pytest.mark.parametrize("lane", ["opus-4", "sonnet-4", "haiku-4-5", "haiku-3-5", "?"])
def test_a_higher_tier_never_gives_less(names, lane):
    """In every column, and for batches and counts."""
    for lower, higher in zip(names, names[1:]):
        less, more = starting_limits(lower, lane), starting_limits(higher, lane)
        assert all(less[column] <= more[column] for column in COLUMNS)
        assert less != more
        assert batches_rpm(lower) < batches_rpm(higher)
        assert count_tokens_rpm(lower) < count_tokens_rpm(higher)


def test_the_tables_use_the_names_of_the_lanes():
    """A row nobody can reach would be a limit nobody gets."""
    named = {lane for tier in TIERS.values() for lane in tier.rows}
    assert named <= {*SHARED.values(), *SEPARATE.values()}


def test_what_a_caller_does_to_the_limits_does_not_change_the_table():
    """Each gets its own."""
    starting_limits("start", "opus-5").update(requests=7)
    assert starting_limits("start", "opus-5")["requests"] == 1_000


@pytest.mark.parametrize(
    ("tier", "batches", "counts"),
    [
        ("evaluation", 5, 5),
        ("start", 1_000, 5_000),
        ("build", 2_000, 10_000),
        ("scale", 4_000, 20_000),
        (1, 50, 100),
        (2, 1_000, 2_000),
        (3, 2_000, 4_000),
        (4, 4_000, 8_000),
    ],
)
def test_batches_and_counts_have_quotas_of_their_own(tier, batches, counts):
    """Requests per minute, over all models."""
    assert (batches_rpm(tier), count_tokens_rpm(tier)) == (batches, counts)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        ("4", "4"),
        ("Start", "start"),
        (" scale ", "scale"),
        ("Tier 2", "2"),
        ("tier3", "3"),
    ],
)
def test_a_tier_may_be_spelled_as_people_spell_it(value, name):
    """As a number, as the console shows it, in any case."""
    assert tier_name(value) == name


@given(tiers)
def test_a_normal_name_is_left_as_it_is(tier):
    """To normalise twice is to normalise once."""
    assert tier_name(tier) == tier


@pytest.mark.parametrize(
    "value", ["sacle", "free", "", "tier", "5", 0, 5, -1, True, None, 2.0, b"1"]
)
def test_what_is_no_tier_is_refused_with_the_choices(value):
    """A ValueError, so that it can be caught without knowing us; it lists what there is."""
    with pytest.raises(ValueError, match="tier must be one of evaluation, start, build, scale, 1,"):
        tier_name(value)


def test_a_slip_is_answered_with_the_nearest_choice():
    """The message says what was probably meant, and only if something was."""
    with pytest.raises(ValueError, match="'sacle'; did you mean 'scale'"):
        starting_limits("sacle", "opus-5")
    with pytest.raises(ValueError, match="'qqq'$"):
        batches_rpm("qqq")


def test_the_custom_tier_is_told_what_to_do_instead():
    """It exists, so "no such tier" would be wrong: its limits are in no table."""
    with pytest.raises(ValueError, match="leave tier out"):
        count_tokens_rpm("custom")


@given(st.text(min_size=1).map(lambda text: text * 100))
def test_a_refusal_is_short_whatever_was_given(value):
    """A megabyte given by mistake does not end in a log."""
    with pytest.raises(ValueError, match="tier must be one of") as refused:
        tier_name(value)
    assert len(str(refused.value)) < 250

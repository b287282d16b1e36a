"""Which models share a rate limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.domain import models as lanes
from claude_throttle.core.domain.models import counts_cache_reads, lane_of, lane_of_profile

#: As the API spells them (Model literal of SDK 2.11.0), and what the page says of each.
PAGE = {
    "claude-fable-5-2": "fable-5",
    "claude-fable-5-1": "fable-5",
    "claude-fable-5": "fable-5",
    "claude-mythos-5-2": "mythos-5",
    "claude-mythos-5-1": "mythos-5",
    "claude-mythos-5": "mythos-5",
    "claude-opus-5-5": "opus-5-5",
    "claude-opus-5": "opus-5",
    "claude-opus-4-8": "opus-4",
    "claude-opus-4-7": "opus-4",
    "claude-opus-4-6": "opus-4",
    "claude-opus-4-5": "opus-4",
    "claude-sonnet-5-5": "sonnet-5-5",
    "claude-sonnet-5": "sonnet-5",
    "claude-sonnet-4-6": "sonnet-4",
    "claude-sonnet-4-5": "sonnet-4",
    "claude-haiku-5-5": "haiku-5-5",
    "claude-haiku-4-5": "haiku-4-5",
}

models = st.sampled_from(sorted(PAGE))
dates = st.dates().map(lambda day: f"{day:%Y%m%d}".zfill(8))
#: Names of anybody's models, some of them cut like ours.
pieces = st.sampled_from(["opus", "gpt", "4", "5", "20250929", "latest", "v1", "-", "/", "@", ":"])
names = st.one_of(st.text(), st.lists(pieces).map("-".join), st.lists(pieces).map("".join))


@pytest.mark.parametrize("model", PAGE)
def test_models_share_a_lane_as_the_page_says(model):
    """Opus 4.x, Sonnet 4.x, Fable 5.x, Mythos 5.x together, every other model by itself."""
    assert lane_of(model) == PAGE[model]


@pytest.mark.parametrize(
    ("model", "lane"),
    [
        ("claude-opus-4-0", "opus-4"),
        ("claude-opus-4-20250514", "opus-4"),
        ("claude-opus-4-1", "opus-4"),
        ("claude-opus-4-1-20250805", "opus-4"),
        ("claude-sonnet-4-20250514", "sonnet-4"),
    ],
)
def test_retired_models_of_a_shared_bucket_stay_in_it(model, lane):
    """The page named them in it until they were retired; nothing says they were moved out."""
    assert lane_of(model) == lane


def test_the_next_minor_version_joins_the_others():
    """The rows read "Opus 4.x" and "Fable 5.x": too little pace for a day, rather than 429s."""
    assert lane_of("claude-opus-4-9") == "opus-4"
    assert lane_of("claude-fable-5-10") == "fable-5"


@pytest.mark.parametrize(
    "model",
    [
        "claude-opus-6",
        "claude-opus-5-6",
        "claude-mythos-preview",
        "claude-opus-4-8-turbo",
        "claude-opus-4-128000",
    ],
)
def test_a_claude_model_nobody_knows_has_a_lane_of_its_own(model):
    """It is separate until the table says otherwise; a suffix makes another model."""
    assert lane_of(model) == model
    assert lane_of(f"{model}-20270101") == model


@given(names.filter(lambda name: "claude-" not in name))
def test_any_other_name_is_a_lane_by_itself(name):
    """A gateway's or a test's model: unchanged, whatever it looks like, and never an error."""
    assert lane_of(name) == name


@given(st.one_of(names, names.map("claude-{}".format), names.map("eu.anthropic.claude-{}".format)))
def test_a_lane_is_its_own_lane(name):
    """To ask for the lane of a lane's name changes nothing, so either may be kept as the key."""
    assert lane_of(lane_of(name)) == lane_of(name)


@given(models, dates)
def test_dated_ids_and_aliases_fall_together(model, date):
    """One model has one lane, by whichever of its names."""
    assert lane_of(f"{model}-{date}") == lane_of(f"{model}-latest") == lane_of(model)


@given(models, dates, st.sampled_from(["", "us.", "eu.", "apac.", "us-gov.", "global."]))
def test_cloud_spellings_fall_with_the_plain_ones(model, date, region):
    """Bedrock with and without region, version and throughput; Google Cloud; gateways."""
    lane = PAGE[model]
    bedrock = f"{region}anthropic.{model}"
    for edition in ("", "-v1", f"-{date}-v1:0", f"-{date}-v2:0:200k"):
        assert lane_of(bedrock + edition) == lane
        assert lane_of(f"arn:aws:bedrock:x:1:inference-profile/{bedrock}{edition}") == lane
    assert lane_of(f"{model}@{date}") == lane_of(f"{model}@latest") == lane
    assert lane_of(f"anthropic/{model}") == lane_of(f"bedrock/{bedrock}") == lane


def test_a_vendor_that_only_ends_like_ours_is_another():
    """The name must be the vendor's whole name."""
    assert lane_of("misanthropic.claude-opus-5") == "misanthropic.claude-opus-5"
    assert lane_of("my-claude-opus-5") == "my-claude-opus-5"


def test_an_override_wins_over_the_table():
    """By exact id, or by a pattern; others are untouched."""
    overrides = {"claude-opus-4-8": "big", "claude-haiku-*": "small", "gpt-?": "other"}
    assert lane_of("claude-opus-4-8", overrides) == "big"
    assert lane_of("claude-opus-4-7", overrides) == "opus-4"
    assert lane_of("claude-haiku-9", overrides) == "small"
    assert lane_of("gpt-7", overrides) == "other"
    assert lane_of("gpt-77", overrides) == "gpt-77"
    assert lane_of("claude-opus-4-8") == "opus-4"


def test_an_override_holds_for_the_dated_and_cloud_spellings_of_its_model():
    """Who writes the alias means the model; who writes the dated id means that one alone."""
    overrides = {"claude-haiku-4-5": "h", "claude-sonnet-4-5-20250929": "s", "claude-opus-5*": "o"}
    assert lane_of("claude-haiku-4-5-20251001", overrides) == "h"
    assert lane_of("us.anthropic.claude-haiku-4-5-20251001-v1:0", overrides) == "h"
    assert lane_of("claude-sonnet-4-5-20250929", overrides) == "s"
    assert lane_of("claude-sonnet-4-5", overrides) == "sonnet-4"
    assert lane_of("eu.anthropic.claude-opus-5-v1:0", overrides) == "o"


def test_an_exact_id_goes_before_patterns_and_the_first_pattern_before_the_second():
    """So that an exception can be written wherever it reads best."""
    overrides = {"claude-*": "all", "claude-opus-*": "never", "claude-opus-5": "one"}
    assert lane_of("claude-opus-5", overrides) == "one"
    assert lane_of("claude-opus-5-5", overrides) == "all"


@given(names, st.dictionaries(names, st.text(min_size=1), max_size=3))
def test_no_override_makes_a_lookup_fail(name, overrides):
    """An unfinished bracket in a pattern is no reason to refuse a call."""
    known = {*overrides.values(), lane_of(name)}
    assert lane_of(name, overrides) in known
    assert lane_of(name, {**overrides, name: "mine"}) == "mine"


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("claude-3-5-haiku-20241022", True),
        ("anthropic.claude-3-5-haiku-20241022-v1:0", True),
        ("claude-3-5-haiku-latest", True),
        ("claude-3-haiku-20240307", True),
        ("claude-3-opus-20240229", True),
        ("claude-3-5-sonnet-20241022", False),
        ("claude-haiku-4-5-20251001", False),
        ("claude-opus-5", False),
        ("whatever", False),
    ],
)
def test_cache_reads_count_for_the_models_marked_with_a_dagger(model, counts):
    """Haiku 3.5 on the page of today; Haiku 3 and Opus 3 on that of 2025-11."""
    assert counts_cache_reads(model) is counts


def test_made_up_names_do_not_fill_the_memory():
    """A caller who makes up a model name per call costs a bounded number of entries."""
    for number in range(lanes.MAX_NAMES * 2):
        lane_of(f"claude-made-up-by-{number}-users")
    for table in (lanes._by_table, lanes.plain_name):
        assert table.cache_info().currsize <= lanes.MAX_NAMES


@given(models, dates, st.sampled_from(["us", "eu", "apac", "us-gov", "global"]))
def test_a_profile_of_bedrock_has_a_lane_of_its_own(model, date, region):
    """Its quota is its own, by whichever spelling; without a region it is the model's."""
    bedrock = f"{region}.anthropic.{model}"
    for edition in ("", "-v1", f"-{date}-v1:0", f"-{date}-v2:0:200k"):
        assert lane_of_profile(bedrock + edition) == f"{region}.{PAGE[model]}"
        arn = f"arn:aws:bedrock:x:1:inference-profile/{bedrock}{edition}"
        assert lane_of_profile(arn) == f"{region}.{PAGE[model]}"
    for plain in (model, f"anthropic.{model}-v1:0", f"{model}@{date}", f"anthropic/{model}"):
        assert lane_of_profile(plain) == PAGE[model]


@given(st.one_of(names, names.map("claude-{}".format), names.map("eu.anthropic.claude-{}".format)))
def test_a_lane_of_a_profile_is_its_own_lane(name):
    """As any lane."""
    assert lane_of_profile(lane_of_profile(name)) == lane_of_profile(name)


def test_an_override_wins_over_the_region():
    """By the id, or by a pattern for its plain name."""
    name = "us.anthropic.claude-opus-5-v1:0"
    assert lane_of_profile(name, {name: "mine"}) == "mine"
    assert lane_of_profile(name, {"claude-opus-*": "mine"}) == "mine"


def test_a_region_does_not_change_what_counts_as_input():
    """Reads from the cache count for Haiku 3, wherever it runs."""
    assert counts_cache_reads("us.haiku-3")
    assert not counts_cache_reads("us.haiku-4-5")

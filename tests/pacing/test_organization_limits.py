"""What the Rate Limits API says an organization may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.account.rate_limits_api import RateLimitGroup, limits_of, read_groups

OPUS_4 = ["claude-opus-4-5", "claude-opus-4-5-20251101", "claude-opus-4-6", "claude-opus-4-8"]


def entry(models, *limits, **fields):
    """One entry, as the API's page shows them."""
    return {
        "type": "rate_limit",
        "id": "rl_1",
        "group": {"type": "model_group", "id": "rlg_1", "display_name": "for display only"},
        "models": models,
        "limits": [{"type": name, "value": value} for name, value in limits],
        **fields,
    }


def page(*entries):
    """One page of an answer."""
    return {"data": list(entries), "next_page": None}


def only(found):
    """The limits of the one group there is."""
    (group,) = read_groups([page(found)])
    return dict(group.limits)


ANSWER = page(
    entry(
        ["claude-opus-5-5"],
        ("requests_per_minute", 4_000),
        ("input_tokens_per_minute", 10_000_000),
        ("output_tokens_per_minute", 800_000),
    ),
    entry(
        OPUS_4,
        ("requests_per_minute", 2_000),
        ("input_tokens_per_minute_cache_aware", 5_000_000),
        ("output_tokens_per_minute", 400_000),
    ),
    entry(None, ("enqueued_batch_requests", 500_000), group={"type": "batch", "id": "rlg_3"}),
)


def test_an_answer_is_read_group_by_group():
    """Models and limits of each model group, in order; a group of another surface is none."""
    assert read_groups([ANSWER]) == [
        RateLimitGroup(
            ("claude-opus-5-5",),
            {"requests": 4_000, "input_tokens": 10_000_000, "output_tokens": 800_000},
        ),
        RateLimitGroup(
            tuple(OPUS_4),
            {"requests": 2_000, "input_tokens": 5_000_000, "output_tokens": 400_000},
        ),
    ]


def test_pages_are_read_one_after_the_other():
    """The API says it may page one day."""
    first, second, _ = ANSWER["data"]
    assert read_groups([page(first), page(), page(second)]) == read_groups([ANSWER])


def test_the_older_shape_is_read_too():
    """Until 2026-09 the type stood beside the models, without a group."""
    old = entry(["claude-opus-5"], ("requests_per_minute", 60), group_type="model_group")
    del old["group"]
    assert only(old) == {"requests": 60}
    old["group_type"] = "files"
    assert read_groups([page(old)]) == []


def test_a_group_of_another_type_is_passed_over_though_it_names_models():
    """What it limits is another pool: a fast mode must not slow the rest down, nor speed it up."""
    fast = entry(["claude-opus-5"], ("requests_per_minute", 1), group={"type": "fast_mode"})
    assert read_groups([page(fast)]) == []


def test_of_two_limits_of_one_kind_the_lower_holds():
    """The limiter with and the one without cache reads apply side by side."""
    plain = ("input_tokens_per_minute", 300)
    aware = ("input_tokens_per_minute_cache_aware", 200)
    assert only(entry(["m"], plain, aware)) == only(entry(["m"], aware, plain))
    assert only(entry(["m"], plain, aware)) == {"input_tokens": 200}


def test_limiters_nobody_knows_are_left_out():
    """Those of other pools and periods, and those still to come."""
    others = [(name, 1) for name in ("fast_otpm", "tokens_per_day", "tokens_per_minute", "new")]
    assert only(entry(["m"], *others, ("output_tokens_per_minute", 5))) == {"output_tokens": 5}


@pytest.mark.parametrize(
    "value",
    [None, "4000", 0, -1, True, float("nan"), float("inf"), 10**400, [], {}],
)
def test_a_value_that_is_no_amount_is_no_limit(value):
    """It is missing then, so that what was learned or told stands."""
    assert only(entry(["m"], ("requests_per_minute", value), ("output_tokens_per_minute", 5))) == {
        "output_tokens": 5
    }


def test_limits_are_looked_up_by_id_then_by_lane():
    """Ids as the API lists them; else by date, cloud or minor version it does not list."""
    groups = read_groups([ANSWER])
    assert limits_of("claude-opus-4-8", groups)["requests"] == 2_000
    assert limits_of("claude-opus-4-7", groups)["requests"] == 2_000
    assert limits_of("us.anthropic.claude-opus-5-5-v1:0", groups)["requests"] == 4_000
    assert limits_of("claude-sonnet-5", groups) == {}


def test_the_api_knows_better_than_the_table_which_models_share():
    """A model that has been given a group of its own has that group's limits."""
    moved = page(*ANSWER["data"], entry(["claude-opus-4-9"], ("requests_per_minute", 7)))
    assert limits_of("claude-opus-4-9", read_groups([moved])) == {"requests": 7}


def test_groups_may_come_from_a_generator():
    """They are gone through twice: the name is looked for in all before the lane is."""
    groups = read_groups([ANSWER, page(entry(["claude-opus-4-9"], ("requests_per_minute", 7)))])
    assert limits_of("claude-opus-4-9", iter(groups)) == {"requests": 7}
    assert limits_of("claude-opus-4-7", iter(groups))["requests"] == 2_000


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
limiters = st.sampled_from(["requests_per_minute", "output_tokens_per_minute", "other"])
limits = st.fixed_dictionaries({}, optional={"type": limiters | json, "value": json})
groups = st.fixed_dictionaries({}, optional={"type": st.just("model_group") | json})
entries = st.fixed_dictionaries(
    {},
    optional={
        "group": groups | json,
        "group_type": json,
        "models": st.lists(st.text() | json, max_size=3) | json,
        "limits": st.lists(limits | json, max_size=3) | json,
    },
)
pages = st.lists(st.fixed_dictionaries({"data": st.lists(entries | json) | json}) | json)


@given(pages)
def test_garbage_is_read_as_far_as_it_makes_sense(pages):
    """Nothing raises; what comes out has names and positive amounts, and nothing else."""
    found = read_groups(pages)
    for group in found:
        assert group.models
        assert all(isinstance(name, str) for name in group.models)
        assert set(group.limits) <= {"requests", "input_tokens", "output_tokens"}
        assert all(0 < value < float("inf") for value in group.limits.values())
        first = next(other for other in found if group.models[0] in other.models)
        assert limits_of(group.models[0], found) == first.limits


@given(entries)
def test_one_broken_entry_costs_no_other(broken):
    """Its neighbours are read as if it were not there."""
    whole = ANSWER["data"][1]
    assert read_groups([page(whole)])[0] in read_groups([page(broken, whole)])

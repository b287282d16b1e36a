"""What the headers say about limits, and the words of a refusal; above all, what they do not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from urllib3.response import HTTPHeaderDict

from claude_throttle.core.domain.feedback import RampLimit, RateLimit
from claude_throttle.transport.limit_headers import (
    read_date,
    read_growth,
    read_limits,
    refused_kind,
)

PREFIX = "anthropic-ratelimit-"


def fields(**told):
    """``requests="50/49"`` as headers; a third part is the reset."""
    headers = {}
    for name, values in told.items():
        for end, value in zip(("limit", "remaining", "reset"), values.split("/", 2)):
            headers[f"{PREFIX}{name.replace('_', '-')}-{end}"] = value
    return CaseInsensitiveDict(headers)


def read(**told):
    return read_limits(fields(**told)).rate_limits


# -- what is there ---------------------------------------------------------------------------------


def test_three_limits_are_told_apart():
    """By the names of a cost's fields."""
    told = read(requests="50/49", input_tokens="30000/29000", output_tokens="8000/8000")
    assert told == {
        "requests": RateLimit(50, 49),
        "input_tokens": RateLimit(30_000, 29_000),
        "output_tokens": RateLimit(8_000, 8_000),
    }


def test_one_limit_is_told_without_the_others():
    """Requests only; input only; what is not told is not known."""
    assert read(requests="50/49") == {"requests": RateLimit(50, 49)}
    assert read(input_tokens="30000/0") == {"input_tokens": RateLimit(30_000, 0)}


CAPTURES = [
    # 2026-02-27, opus-4-6: refused for input tokens; two resets are the epoch.
    (
        fields(
            requests="50/50/2026-02-27T12:52:07Z",
            input_tokens="30000/0/2026-02-27T12:53:25Z",
            output_tokens="8000/8000/1970-01-01T00:00:00Z",
            tokens="38000/8000/1970-01-01T00:00:00Z",
        ),
        {"requests": (50, 50), "input_tokens": (30_000, 0), "output_tokens": (8_000, 8_000)},
    ),
    # 2025-06-02: only the input is told as empty; untouched resets are now.
    (
        fields(
            input_tokens="40000/0/2025-06-02T15:15:48Z",
            output_tokens="8000/8000/2025-06-02T15:14:45Z",
        ),
        {"input_tokens": (40_000, 0), "output_tokens": (8_000, 8_000)},
    ),
]


@pytest.mark.parametrize(("headers", "told"), CAPTURES, ids=["2026-02", "2025-06"])
def test_captured_headers(headers, told):
    """The combined tokens are a sum and no limit; a reset is the full refill, or 1970."""
    assert read_limits(headers).rate_limits == told


@given(st.text(max_size=30))
def test_a_reset_changes_nothing(reset):
    """Whatever it says: it is not asked."""
    assert read(requests=f"50/49/{reset}") == {"requests": RateLimit(50, 49)}


@pytest.mark.parametrize("remaining", ["0", "1000", "29000", "30000", "31000"])
def test_rounded_values_are_taken_as_they_are(remaining):
    """To the nearest thousand, so more than the limit may be left; the pace allows for it."""
    assert read(input_tokens=f"30000/{remaining}")["input_tokens"].remaining == float(remaining)


@pytest.mark.parametrize("mapping", [CaseInsensitiveDict, HTTPHeaderDict])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_names_are_read_in_any_case(mapping, case):
    """A proxy may write them as it likes."""
    headers = mapping({case(name): value for name, value in fields(requests="50/49").items()})
    assert read_limits(headers).rate_limits == {"requests": RateLimit(50, 49)}


# -- what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"retry-after": "3"}, dict(fields(tokens="38000/8000"))])
def test_without_them_nothing_is_known(headers):
    """Some accounts get none at all; the sum alone tells nothing."""
    assert read_limits(headers).rate_limits == {}


def test_half_of_them_is_none():
    """A limit without what is left of it, or the other way round."""
    assert read_limits({PREFIX + "requests-limit": "50"}).rate_limits == {}
    assert read_limits({PREFIX + "requests-remaining": "50"}).rate_limits == {}
    assert (
        read_limits({PREFIX + "unified-status": "allowed", PREFIX + "limit": "5"}).rate_limits == {}
    )


NO_LIMIT = ["", "0", "0.0", "-0", "-50", "1e999", "-1e999", "nan", "inf", "many", "50,000", "0x32"]
NO_LIMIT += ["1e-320", "0.5", "1e300", "9" * 400, "50 requests", "\x00", "é"]


@pytest.mark.parametrize("text", NO_LIMIT)
def test_a_limit_that_makes_no_sense_is_none(text):
    """The others count all the same."""
    told = read(requests=f"{text}/49", input_tokens="30000/29000")
    assert told == {"input_tokens": RateLimit(30_000, 29_000)}


NOT_LEFT = ["", "-1", "1e999", "nan", "inf", "-inf", "some", "1,000", "1e300"]


@pytest.mark.parametrize("text", NOT_LEFT)
def test_a_rest_that_makes_no_sense_is_none(text):
    """Then the limit is not believed either."""
    assert read(requests=f"50/{text}", input_tokens="30000/0") == {
        "input_tokens": RateLimit(30_000, 0)
    }


NUMBERS = st.integers().map(str) | st.floats().map(repr)
WORDS = NUMBERS | st.text(max_size=12) | st.sampled_from(NO_LIMIT + NOT_LEFT)
NAMES = st.sampled_from(
    [
        PREFIX + k + e
        for k in ("requests", "input-tokens", "output-tokens", "tokens")
        for e in ("-limit", "-remaining", "-reset")
    ]
)


@given(st.dictionaries(NAMES, WORDS))
def test_nothing_that_breaks_arithmetic_comes_out(headers):
    """No header raises; a limit is positive, its rate too, and all is finite."""
    for limit, remaining in read_limits(headers).rate_limits.values():
        assert math.isfinite(limit)
        assert limit / 60.0 > 0
        assert 0 <= remaining < math.inf
        assert math.isfinite(remaining / (limit / 60.0))


# -- the words of a refusal ------------------------------------------------------------------------

WHO = "(org: 123, model: claude-x)"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (f"This request would exceed … of 50 requests per minute {WHO}", "requests"),
        (f"This request would exceed … of 30,000 input tokens per minute {WHO}", "input_tokens"),
        (f"This request would exceed … of 8,000 output tokens per minute {WHO}", "output_tokens"),
        ("Number of request tokens has exceeded your per-minute rate limit", None),
        ("Rate limited. Please try again later.", None),
        ("", None),
    ],
)
def test_a_refusal_names_its_quota(message, kind):
    """By the field of a cost; the oldest wordings do not."""
    assert refused_kind(message) == kind


GROWS = "Your current limit is {} {} per minute, and will increase to {} at the next minute"


@pytest.mark.parametrize("kind", ["requests", "input tokens", "output tokens"])
def test_growth_is_of_the_quota_it_names(kind):
    """With thousands parted by commas, or not."""
    told = read_growth(GROWS.format("58,276", kind, "68276"))
    assert told == RampLimit(kind.replace(" ", "_"), 58_276.0, 68_276.0)


NO_GROWTH = [("0", "5"), ("5", "5"), ("9", "5"), (",", ","), ("5", ","), (",", "5"), ("", "5")]
NO_GROWTH += [("five", "six"), ("1", "9" * 400), ("9" * 400, "9" * 401)]


@pytest.mark.parametrize(("now", "then"), NO_GROWTH)
def test_growth_that_is_none_is_not_told(now, then):
    """No step, none upwards, no numbers, or none that a float could hold."""
    assert read_growth(GROWS.format(now, "input tokens", then)) is None


def test_a_long_text_is_read_in_no_time():
    """A hundred thousand beginnings of a sentence are not tried against each other."""
    assert read_growth("current limit is 5 " * 100_000) is None


PIECES = st.sampled_from(
    ["current limit is ", "increase to ", " per minute ", "requests", ",", "7"]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join))
def test_no_words_break_anything(message):
    """Nothing raises; growth goes upwards, and is finite."""
    refused_kind(message)
    read_date(message)
    told = read_growth(message)
    assert told is None or 0 < told.limit < told.next_limit < math.inf

"""Which models share a rate limit: the table, as of 2026-11.

From the rate-limit page (platform.claude.com/docs/en/api/rate-limits) as of 2026-09, and from notes
that quote it in 2026-10. Where it is wrong for an account, the setting that overrides it wins, and
``GET /v1/organizations/rate_limits`` says how it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Optional

NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})

#: One bucket for all minor versions; the page's rows are "Opus 4.x", "Sonnet 4.x" and, since
#: 2026-10, "Fable 5.x". It names Opus 4.5 to 4.8 and Sonnet 4.5 and 4.6. Opus 4.0, 4.1 and Sonnet
#: 4.0 stood in the same footnotes for as long as they were served (until 2026-06-15, 2026-08-05 and
#: 2026-06-15), so they left the sentence, not the bucket: a request that still reaches one belongs
#: here. Fable 5.2 and Mythos 5.2 are in no copy of the page yet: one bucket is the careful reading.
SHARED = {
    "claude-opus-4": "opus-4",
    "claude-sonnet-4": "sonnet-4",
    "claude-fable-5": "fable-5",
    "claude-mythos-5": "mythos-5",
}

#: A bucket of its own each (same page and notes). Haiku 5.5, Haiku 3 and Opus 3 by the rule of the
#: page: "applied separately for each model".
SEPARATE = {
    "claude-opus-5": "opus-5",
    "claude-opus-5-5": "opus-5-5",
    "claude-sonnet-5": "sonnet-5",
    "claude-sonnet-5-5": "sonnet-5-5",
    "claude-haiku-5-5": "haiku-5-5",
    "claude-haiku-4-5": "haiku-4-5",
    "claude-3-5-haiku": "haiku-3-5",
    "claude-3-haiku": "haiku-3",
    "claude-3-opus": "opus-3",
}

#: Marked † on the page: reads from the prompt cache count as input. 2026-09: Haiku 3.5; the other
#: two in 2025-11. All are retired but on clouds.
COUNT_CACHE_READS = frozenset({"haiku-3-5", "haiku-3", "opus-3"})

_LANES = frozenset({*SHARED.values(), *SEPARATE.values()})

#: The value of ``speed`` that asks for fast mode, whose limits are apart from the model's own; and
#: what ends the name of a lane of such calls.
FAST_SPEED = "fast"
STANDARD_SPEED = "standard"
FAST = "+fast"

#: Model names remembered, of some hundred bytes each: callers may make names up.
MAX_NAMES = 1024

#: Digits of the date in a model id, as in 20250929, and at most of a minor version.
DATE_DIGITS = 8
MINOR_DIGITS = 2


def lane_of(model: str, overrides: Mapping[str, str] = NO_OVERRIDES) -> str:
    """The name of the bucket *model* draws from; its own name if it is not in the table.

    *overrides* maps model ids, or shell-style patterns, to lanes; the id is looked up as given,
    then without date and cloud. An exact id goes before patterns; of these, the first. Cheap enough
    for every submit: :data:`MAX_NAMES` results are cached.
    """
    if overrides:
        lane = _overridden(model, overrides)
        if lane is not None:
            return lane
    return _by_table(model)


def lane_of_profile(model: str, overrides: Mapping[str, str] = NO_OVERRIDES) -> str:
    """The name of the lane of *model*; a profile of Amazon Bedrock has one of its region.

    The profiles "us.", "eu.", "global." of one model have quotas of their own: "us.sonnet-4".
    """
    lane = lane_of(model, overrides)
    region = model.rpartition("/")[2].rpartition("anthropic.claude-")[0]
    if region[-1:] != "." or not _is_region(region[:-1]) or lane != _by_table(model):
        return lane
    return region + lane


def counts_cache_reads(model: str) -> bool:
    """Whether what *model* reads from the prompt cache counts as input tokens."""
    lane = _by_table(model)
    return lane[len(_region_prefix(lane)) :] in COUNT_CACHE_READS


def is_lane_of_table(lane: str) -> bool:
    """Whether *lane* is a bucket of the table, in whatever region: the names of its models tell."""
    return lane[len(_region_prefix(lane)) :] in _LANES


def in_region_of(lane: str, model: str) -> str:
    """*model* as Bedrock's profile for the region of *lane*; as it is if the lane has none."""
    region = _region_prefix(lane)
    return f"{region}anthropic.{model}" if region and model.startswith("claude-") else model


def _region_prefix(lane: str) -> str:
    """The region of a lane with its dot, as in "us.sonnet-4"; empty if it has none."""
    region, _, rest = lane.partition(".")
    found = _is_region(region) and (rest in _LANES or rest.startswith("claude-"))
    return f"{region}." if found else ""


def _overridden(model: str, overrides: Mapping[str, str]) -> Optional[str]:
    from fnmatch import fnmatchcase  # brings re: only for those who override

    names = (model, plain_name(model))
    for name in names:
        if name in overrides:
            return overrides[name]
    for pattern, lane in overrides.items():
        if any(fnmatchcase(name, pattern) for name in names):
            return lane
    return None


@lru_cache(maxsize=MAX_NAMES)
def _by_table(model: str) -> str:
    name = plain_name(model)
    if name in SEPARATE:
        return SEPARATE[name]
    major, _, minor = name.rpartition("-")
    if major in SHARED and _is_number(minor) and len(minor) <= MINOR_DIGITS:
        return SHARED[major]
    return SHARED.get(name, name)


def _is_region(label: str) -> bool:
    """One label of Bedrock's profiles, as "us", "apac", "us-gov"."""
    return label.replace("-", "").isalpha() and label.isascii()


@lru_cache(maxsize=MAX_NAMES)
def plain_name(model: str) -> str:
    """A Claude model's id without date, alias and cloud; any other name as it is.

    Spellings: ``claude-haiku-4-5-20251001`` and ``-latest``; Bedrock's
    ``us.anthropic.claude-sonnet-4-5-20250929-v1:0``, also as the end of an ARN; Google Cloud's
    ``claude-sonnet-4-5@20250929``; the gateways' ``anthropic/claude-sonnet-4-5``.
    """
    name = model.rpartition("/")[2].partition("@")[0].partition(":")[0]
    region, vendor, rest = name.rpartition("anthropic.claude-")
    if vendor and (not region or region.endswith(".")):
        name = "claude-" + rest
    if not name.startswith("claude-"):
        return model
    head, _, tail = name.rpartition("-")
    while head and _is_edition(tail):
        name = head
        head, _, tail = name.rpartition("-")
    return name


def _is_edition(part: str) -> bool:
    """A date, ``latest``, or Bedrock's ``v1``: which copy of a model, not which model."""
    if part == "latest" or (part[:1] == "v" and _is_number(part[1:])):
        return True
    return _is_number(part) and len(part) == DATE_DIGITS


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()

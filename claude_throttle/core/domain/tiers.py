"""The rate limits of each usage tier, used until response headers say better; as of 2026-11.

Starting points only: the first headers replace them. Sources, all of the rate-limit page
(platform.claude.com/docs/en/api/rate-limits): start, build and scale as of 2026-09, rows of models
that are newer from notes quoting it in 2026-09 and 2026-10. Tiers 1 to 4 as of 2025-11; they were
renamed on 2026-06-26. Copies from shortly before show tier 1 with more: the lower figure stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Union

from claude_throttle.errors import ConfigurationError


class TierLimits(NamedTuple):
    """The limits of one model group in one tier, in units per minute."""

    requests: float
    input_tokens: float
    output_tokens: float


class Tier(NamedTuple):
    """One tier. All numbers are per minute."""

    #: By lane.
    rows: Mapping[str, TierLimits]
    #: Requests to all endpoints of the Message Batches API, over all models.
    batches: float
    #: Requests to count_tokens: a quota of its own.
    count_tokens: float


#: Each by itself, with the same numbers. Opus 5.5, Sonnet 5.5 and Haiku 5.5 from the notes; the
#: build row of Sonnet 5.5 was not seen, it is taken to be like the others.
MAIN_LANES = (
    "opus-5-5",
    "opus-5",
    "opus-4",
    "sonnet-5-5",
    "sonnet-5",
    "sonnet-4",
    "haiku-5-5",
    "haiku-4-5",
)


def _since_2026(
    main: TierLimits, fable: TierLimits, haiku_3_5: TierLimits
) -> dict[str, TierLimits]:
    return {**dict.fromkeys(MAIN_LANES, main), "fable-5": fable, "haiku-3-5": haiku_3_5}


def _until_2026(
    opus_and_sonnet: TierLimits, haiku_4_5: TierLimits, haiku_3_5: TierLimits
) -> dict[str, TierLimits]:
    shared = dict.fromkeys(("opus-4", "sonnet-4"), opus_and_sonnet)
    return {**shared, "haiku-4-5": haiku_4_5, "haiku-3-5": haiku_3_5}


#: Message Batches: the page, 2026-09 and 2025-11. count_tokens: notes, 2026-09 and 2026-10 (one of
#: 2026-07-28 has 2,000 for start: the old tier 2), and the page, 2025-11.
TIERS: Mapping[str, Tier] = {
    # Its limits are "below the standard limits" and not published. A 429 was seen that named 5
    # requests a minute; batches and counts as many, for want of a number. The tokens are the lowest
    # ever published for a current model.
    "evaluation": Tier(
        rows={"opus-4": TierLimits(5, 30_000, 8_000)},
        batches=5,
        count_tokens=5,
    ),
    "start": Tier(
        rows=_since_2026(
            main=TierLimits(1_000, 2_000_000, 400_000),
            fable=TierLimits(1_000, 500_000, 100_000),
            haiku_3_5=TierLimits(1_000, 100_000, 20_000),
        ),
        batches=1_000,
        count_tokens=5_000,
    ),
    "build": Tier(
        rows=_since_2026(
            main=TierLimits(5_000, 5_000_000, 1_000_000),
            fable=TierLimits(2_000, 1_500_000, 300_000),
            haiku_3_5=TierLimits(2_000, 200_000, 40_000),
        ),
        batches=2_000,
        count_tokens=10_000,
    ),
    "scale": Tier(
        rows=_since_2026(
            main=TierLimits(10_000, 10_000_000, 2_000_000),
            fable=TierLimits(4_000, 4_000_000, 800_000),
            haiku_3_5=TierLimits(4_000, 400_000, 80_000),
        ),
        batches=4_000,
        count_tokens=20_000,
    ),
    "1": Tier(
        rows=_until_2026(
            opus_and_sonnet=TierLimits(50, 30_000, 8_000),
            haiku_4_5=TierLimits(50, 50_000, 10_000),
            haiku_3_5=TierLimits(50, 50_000, 10_000),
        ),
        batches=50,
        count_tokens=100,
    ),
    "2": Tier(
        rows=_until_2026(
            opus_and_sonnet=TierLimits(1_000, 450_000, 90_000),
            haiku_4_5=TierLimits(1_000, 450_000, 90_000),
            haiku_3_5=TierLimits(1_000, 100_000, 20_000),
        ),
        batches=1_000,
        count_tokens=2_000,
    ),
    "3": Tier(
        rows=_until_2026(
            opus_and_sonnet=TierLimits(2_000, 800_000, 160_000),
            haiku_4_5=TierLimits(2_000, 1_000_000, 200_000),
            haiku_3_5=TierLimits(2_000, 200_000, 40_000),
        ),
        batches=2_000,
        count_tokens=4_000,
    ),
    "4": Tier(
        rows=_until_2026(
            opus_and_sonnet=TierLimits(4_000, 2_000_000, 400_000),
            haiku_4_5=TierLimits(4_000, 4_000_000, 800_000),
            haiku_3_5=TierLimits(4_000, 400_000, 80_000),
        ),
        batches=4_000,
        count_tokens=8_000,
    ),
}


def tier_name(value: Union[str, int]) -> str:
    """The tier as the table spells it: 1, "1", "Tier 1" and "tier1" are one; case is free.

    Raises :class:`ConfigurationError`, a ValueError, which names the choices and a close one.
    """
    if isinstance(value, (str, int)):
        name = _without_prefix(str(value).strip().lower())
        if name in TIERS:
            return name
        if name == "custom":
            raise ConfigurationError(
                "tier='custom': its limits are arranged with each account; "
                "leave tier out and they are learned, or tell them as rpm=, itpm=, otpm="
            )
    raise ConfigurationError(f"tier must be one of {', '.join(TIERS)}, not {_shown(value)}")


def starting_limits(tier: Union[str, int], lane: str) -> Mapping[str, float]:
    """Requests, input tokens and output tokens per minute, by the names of a cost's fields.

    A lane the tier does not list gets the lowest number of each column.
    """
    rows = TIERS[tier_name(tier)].rows
    row = rows.get(lane) or TierLimits(*map(min, zip(*rows.values())))
    return row._asdict()


def batches_rpm(tier: Union[str, int]) -> float:
    """Requests per minute to the Message Batches API, over all models and endpoints."""
    return TIERS[tier_name(tier)].batches


def count_tokens_rpm(tier: Union[str, int]) -> float:
    """Requests per minute to count_tokens; independent of those to messages."""
    return TIERS[tier_name(tier)].count_tokens


def _without_prefix(name: str) -> str:
    return name[len("tier") :].strip(" -_") if name.startswith("tier") else name


def _shown(value: object) -> str:
    import difflib  # only for a slip

    name = _without_prefix(str(value).strip().lower())
    close = difflib.get_close_matches(name, TIERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{value!r:.80}{hint}"

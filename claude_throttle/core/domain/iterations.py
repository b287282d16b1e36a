"""What ``usage.iterations`` adds to the four counts of an answer: whose tokens they were.

One request may sample several models: the one that was asked, a fallback after it declined, an
advisor. Its top-level counts are those of the message alone (SDK 2.14, ``BetaIterationsUsage``): a
``compaction`` and an ``advisor_message`` are in none of them, and a message that a fallback wrote
is counted as the fallback's. The asked model's name may be an alias, so only its lane is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, Callable, NamedTuple, Optional

from claude_throttle.core.domain.cost import NO_USAGE, Usage, usage_of
from claude_throttle.core.domain.models import (
    STANDARD_SPEED,
    in_region_of,
    is_lane_of_table,
    lane_of_profile,
)

#: Types of entries whose tokens are in no top-level count.
OUTSIDE = frozenset({"compaction", "advisor_message"})

#: Entries that are read; a loop of server tools has some dozens.
MOST_ITERATIONS = 1000

#: Tokens of one iteration: ten times the largest context window of 2026.
MOST_OF_ONE = 10_000_000

#: Characters of a model's name; an ARN of Amazon Bedrock has some 150.
LONGEST_NAME = 200


class Iteration(NamedTuple):
    """One entry: a piece of the work that an answer took."""

    kind: str
    #: The model that did it; None for the one that was asked.
    model: Optional[str]
    usage: Usage


class IteratedUsage(Usage):
    """The top-level counts of an answer, with its iterations. :func:`apportion` takes it apart."""

    iterations: tuple[Iteration, ...] = ()
    #: The speed at which it was served, where that may be another than was asked.
    speed = ""


def read_iterated(usage: Any) -> Usage:
    """The usage in a mapping, or in an object of the SDK; a plain one if its entries add nothing.

    Entries without a type or of an unknown one are read, odd numbers count as 0, what is no entry
    is skipped.
    """
    counts, entries = _counts(usage), _field(usage, "iterations")
    is_standard = _field(usage, "speed") == STANDARD_SPEED
    if not (is_standard or isinstance(entries, (list, tuple))):
        return counts
    listed = entries[:MOST_ITERATIONS] if isinstance(entries, (list, tuple)) else ()
    read = tuple(filter(None, map(_iteration, listed)))
    tells = not all(entry.model is None and entry.kind not in OUTSIDE for entry in read)
    if not (is_standard or tells):
        return counts
    found = IteratedUsage(*counts)
    found.iterations = read if tells else ()
    found.speed = STANDARD_SPEED if is_standard else ""
    return found


def _iteration(entry: Any) -> Optional[Iteration]:
    kind, model = _field(entry, "type"), _field(entry, "model")
    counts = _counts(entry)
    usage = Usage(*(count if count <= MOST_OF_ONE else 0 for count in counts))
    if usage == NO_USAGE:
        return None
    return Iteration(kind if isinstance(kind, str) else "", _clean_name(model), usage)


def _clean_name(model: Any) -> Optional[str]:
    """A model's name, if it can be one: it becomes the name of a lane, and people read it."""
    fits = isinstance(model, str) and 0 < len(model) <= LONGEST_NAME and model.isprintable()
    return model if fits else None


def _counts(holder: Any) -> Usage:
    return usage_of(*(_whole(_field(holder, name)) for name in Usage._fields))


def _whole(value: Any) -> Any:
    """A number of a float's or another library's type as an int; anything else as it is."""
    is_number = hasattr(value, "__index__") or (isinstance(value, float) and math.isfinite(value))
    return int(value) if is_number else value


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def apportion(
    usage: Usage, lane: str, overrides: Mapping[str, str]
) -> tuple[Usage, dict[str, Usage]]:
    """What the models of *lane*, which was asked, took; and what others took, by model."""
    iterations = getattr(usage, "iterations", ())
    is_here = partial(_is_here, lane=lane, overrides=overrides)
    inner = [entry for entry in iterations if entry.kind not in OUTSIDE]
    own, elsewhere = _split_message(usage, [] if _is_alias(usage, inner) else inner, is_here)
    for entry in iterations:
        if entry.kind in OUTSIDE and is_here(entry):
            own = own.plus(entry.usage)
        elif entry.kind in OUTSIDE:
            elsewhere.append(entry)
    took: dict[str, Usage] = {}
    for entry in elsewhere:
        model = in_region_of(lane, entry.model or "")
        took[model] = took.get(model, NO_USAGE).plus(entry.usage)
    return own, took


def _is_here(entry: Iteration, lane: str, overrides: Mapping[str, str]) -> bool:
    """Whether an entry is of a model in *lane*.

    A lane that is not in the table may be named by an alias, or by a deployment: its model's own
    name says nothing then, so the type of the entry decides.
    """
    if entry.model is None or lane_of_profile(in_region_of(lane, entry.model), overrides) == lane:
        return True
    is_other = entry.kind == "advisor_message" or _is_fallback(entry)
    return not (is_other or is_lane_of_table(lane))


def _is_fallback(entry: Iteration) -> bool:
    return entry.kind.startswith("fallback")


def _is_alias(usage: Usage, inner: list[Iteration]) -> bool:
    """Whether one model wrote it all, and it is no fallback: the one asked, whatever its name."""
    one = len({entry.model for entry in inner}) <= 1
    return one and not any(map(_is_fallback, inner)) and _total(inner) in (usage, NO_USAGE)


def _split_message(
    usage: Usage, inner: list[Iteration], is_here: Callable[[Iteration], bool]
) -> tuple[Usage, list[Iteration]]:
    """The message's own part and the entries of others.

    The counts of the message may be of the model that wrote it or of all of them. Where an entry
    says what the asked model took, that decides; what no entry explains is the asked model's.
    """
    others = [entry for entry in inner if not is_here(entry)]
    if not others:
        return Usage(*usage), others
    mine, theirs = _total(filter(is_here, inner)), _total(others)
    if mine == NO_USAGE:
        written_by_others = usage in (theirs, others[-1].usage)
        return (NO_USAGE if written_by_others else Usage(*usage)), others
    return Usage(*(max(own, all_ - their) for own, all_, their in zip(mine, usage, theirs))), others


def _total(entries: Any) -> Usage:
    return reduce(Usage.plus, (entry.usage for entry in entries), NO_USAGE)

"""How urgent a call is: the usual values of ``priority=``."""

from __future__ import annotations

import enum
import operator
from typing import TYPE_CHECKING, Any, Literal, Union

from claude_throttle.core.domain.not_given import is_not_given
from claude_throttle.errors import InvalidCall


class Priority(enum.IntEnum):
    """Lower leaves first. Any int works; these are the usual ones."""

    INTERACTIVE = 0
    NORMAL = 10
    BATCH = 20


if TYPE_CHECKING:
    from claude_throttle.core.domain.not_given import Given

    #: A number, or the name of a usual one.
    PriorityLike = Given[
        Union[int, Literal["interactive", "normal", "batch", "INTERACTIVE", "NORMAL", "BATCH"]]
    ]


def priority_of(value: Any) -> int:
    """The number of a ``priority=``: a whole number, a name in any case, or none given.

    Raises :class:`InvalidCall`.
    """
    if is_not_given(value):
        return Priority.NORMAL
    if isinstance(value, str):
        named = Priority.__members__.get(value.strip().upper())
        if named is not None:
            return named
    elif isinstance(value, float) and value.is_integer():
        return int(value)  # of a column of numbers with a gap in it
    else:
        try:
            return operator.index(value)  # numpy's whole numbers, too
        except TypeError:
            pass
    names = ", ".join(f'"{name.lower()}"' for name in Priority.__members__)
    raise InvalidCall(f"priority= must be a whole number or one of {names}, not {value!r:.80}")

"""What calls take from the quotas: an estimate before, the server's count after.

:class:`Cost` is in units of quotas and may hold fractions, because estimates do; :class:`Usage` is
in whole model tokens, as the API's ``usage`` counts them. Which of those tokens count towards a
quota is decided here, in one place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Half of what NamedTuple's own constructor takes; several in each call.
_new = tuple.__new__


class Cost(NamedTuple):
    """What one call takes from each kind of quota: an estimate or a count. Immutable.

    Parts may be negative where a cost is a difference, as between a count and its estimate.
    """

    requests: float
    input_tokens: float
    output_tokens: float

    @property
    def tokens(self) -> float:
        """Input and output together, for quotas on both (``tpm``, ``tpd``)."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Cost) -> Cost:
        """The sum."""
        return _new(Cost, (self[0] + other[0], self[1] + other[1], self[2] + other[2]))

    def minus(self, other: Cost) -> Cost:
        """The difference."""
        return _new(Cost, (self[0] - other[0], self[1] - other[1], self[2] - other[2]))

    def more_of(self, kind: str, units: float) -> Cost:
        """A copy with *units* more of one kind."""
        return self._replace(**{kind: getattr(self, kind) + units})

    def times(self, factor: float) -> Cost:
        """A copy with each part multiplied by *factor*."""
        return _new(Cost, (self[0] * factor, self[1] * factor, self[2] * factor))


NO_COST = Cost(0.0, 0.0, 0.0)


class RequestSize(NamedTuple):
    """What is known of a request's size before it is answered."""

    #: Input tokens by the size of the request, before calibration, or by the API's count.
    input_tokens: float = 0.0
    max_tokens: int = 0
    #: The API counted them.
    is_counted: bool = False
    #: It asks for the prompt cache: what comes from there counts nothing.
    cache_marked: bool = False


UNKNOWN_SIZE = RequestSize()


class Usage(NamedTuple):
    """Model tokens, as the server counted them. Immutable; what a response lacks is 0."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    def counted_input_tokens(self, with_cache_reads: bool = False) -> int:
        """Those that count towards input tokens per minute: cache reads mostly do not.

        Source: the rate-limit page, 2026-09.
        """
        read = self.cache_read_input_tokens if with_cache_reads else 0
        return self.input_tokens + self.cache_creation_input_tokens + read

    def plus(self, other: Usage) -> Usage:
        """The sum."""
        return Usage(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])


NO_USAGE = Usage()

#: Tokens. JSON allows numbers that no float can hold: arithmetic with one would lose the answer.
MOST_TOKENS = 10**12


def usage_of(*counts: Any) -> Usage:
    """Usage of *counts*, in the order of its fields; anything but a possible number counts as 0."""
    return _new(
        Usage,
        [count if isinstance(count, int) and 0 <= count <= MOST_TOKENS else 0 for count in counts],
    )

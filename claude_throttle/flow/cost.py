"""What calls take: booked before, counted after."""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    """What one call takes from the quotas: an estimate before, the truth after."""

    requests: float
    input_tokens: float
    output_tokens: float

    @property
    def tokens(self) -> float:
        return self.input_tokens + self.output_tokens


NO_COST = Cost(0.0, 0.0, 0.0)


class Usage(NamedTuple):
    """Model tokens, as the server counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @property
    def counted_input_tokens(self) -> int:
        """Those that count towards input tokens per minute: cache reads do not.

        Source: the rate-limit page, 2026-09.
        """
        return self.input_tokens + self.cache_creation_input_tokens


NO_USAGE = Usage()

"""What a limit can be: its kinds, its numbers, its periods.

What comes from a server may be any text, so each number is checked before it is used.
"""

from __future__ import annotations

import math
from typing import Optional

#: What the API limits: fields of :class:`Cost`, by what they are called in names of headers.
KINDS_BY_NAME = {
    "requests": "requests",
    "input-tokens": "input_tokens",
    "output-tokens": "output_tokens",
}

#: Units a minute. A limit below makes no sense; the largest published is 10,000,000 (2026-10), and
#: above this one floats cannot count.
LEAST_LIMIT = 1.0
MOST_UNITS = 2.0**53

#: Seconds of the periods that limits are for.
PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}

#: Seconds since 1970, in 2001. A wait of as many seconds would be 31 years: some gateways send the
#: instant of the next try, or its milliseconds.
FIRST_INSTANT = 1e9


def read_number(text: Optional[str]) -> Optional[float]:
    """A finite number from zero; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None

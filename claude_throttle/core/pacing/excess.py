"""Whether a refused call is larger than the whole limit that refused it, so that it never passes.

Input is counted before a request is let in, and an estimate of it errs by little. Output counts as
it is produced (rate-limit page, 2026-09): there only a refusal in spite of a full bucket, or one
after the other, says that the server counts ``max_tokens``, as platforms and relays do.
"""

from __future__ import annotations

from typing import Optional

from claude_throttle.core.domain.cost import Cost, RequestSize
from claude_throttle.core.domain.feedback import Excess, RateLimit, RelayedLimit, StatedLimit

#: By so many times an estimate of the input may be too high: one that answers have corrected, and
#: one by the size of the text alone. The first answers are short, and correct it wrongly.
ESTIMATE_ERROR = 1.15
RAW_ERROR = 1.5

#: Tokens by which a header may show too much: it is rounded to the nearest thousand.
HEADER_ERROR = 500.0

#: Tokens. Below, such a header does not tell a full bucket from a half empty one.
LEAST_TOLD = 5000.0

#: Attempts after which it is certain: at once; if it is refused again; never, since others may use
#: up the bucket.
SURE, LIKELY, DOUBTFUL = 1, 2, 1_000_000


def excess(
    limit: StatedLimit, shown: Optional[RateLimit], cost: Cost, size: RequestSize
) -> Optional[Excess]:
    """By how much a call is larger than *limit*; None if it may pass.

    *cost* is what was booked for it; *shown* what the headers of the refusal show of that limit.
    """
    kind, most = limit.kind, limit.limit
    if kind == "requests":
        return None
    units, is_full = _most(kind, cost, size), _is_full(shown)
    if units > most and (is_full or _least_input(kind, cost, size) > most):
        tries = SURE
    elif is_full:  # it was not the bucket, whatever it was
        tries = DOUBTFUL
    elif units <= most or size.cache_marked:
        return None
    else:
        tries = LIKELY if shown is None or kind == "input_tokens" else DOUBTFUL
    return Excess(kind.replace("_", " "), units, most, limit.per, tries)


def _most(kind: str, cost: Cost, size: RequestSize) -> float:
    """What the call may take, at most."""
    entered, written = cost.input_tokens, max(cost.output_tokens, size.max_tokens)
    if not size.is_counted:
        entered = max(entered, size.input_tokens)
    sizes = {"input_tokens": entered, "output_tokens": written, "tokens": entered + written}
    return sizes[kind]


def _least_input(kind: str, cost: Cost, size: RequestSize) -> float:
    """The input that it takes for certain; 0.0 where that is not what is limited."""
    if kind == "output_tokens" or size.cache_marked:
        return 0.0
    if size.is_counted:
        return cost.input_tokens
    raw = size.input_tokens or cost.input_tokens
    return max(min(cost.input_tokens, raw) / ESTIMATE_ERROR, raw / RAW_ERROR)


def _is_full(shown: Optional[RateLimit]) -> bool:
    """Whether the API's own headers show that nothing had left the bucket."""
    if shown is None or isinstance(shown, RelayedLimit) or shown.limit < LEAST_TOLD:
        return False
    return shown.remaining >= shown.limit - HEADER_ERROR

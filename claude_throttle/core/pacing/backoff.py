"""How long a refused request waits before it is sent again, by itself: exponential, with jitter."""

from __future__ import annotations

import random
from typing import Callable

from claude_throttle.core.domain.feedback import CONCURRENCY, Feedback

#: Seconds: first and longest backoff, as the SDK has them (0.5 * 2**n up to 8).
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0

#: Draws a number between two, like ``random.uniform``.
Draw = Callable[[float, float], float]


def backoff(failures: int, draw: Draw = random.uniform) -> float:
    """Seconds to wait after so many failures in a row (from 1): exponential, equal jitter."""
    ceiling = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * draw(0.5, 1.0)


def retry_wait(feedback: Feedback, failures: int, draw: Draw = random.uniform) -> float:
    """Seconds that this request alone would wait, after so many failures (from 1).

    Never less than ``retry-after``. Whether the whole lane waits instead is decided by
    :class:`claude_throttle.core.pacing.pacer.Pacer`.
    """
    if not feedback.retry_after:  # "0" says nothing either
        # Another request's answer makes room in a concurrency limit, at any time.
        crowded = feedback.cause == CONCURRENCY
        return backoff(1, draw) / 2 if crowded else backoff(failures, draw)
    if feedback.pauses_lane:
        return feedback.retry_after  # the lane adds its jitter, once per pause
    return feedback.retry_after + backoff(1, draw) / 5

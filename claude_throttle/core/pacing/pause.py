"""A pause that the server asked for: nothing leaves the lane until its end."""

from __future__ import annotations

import math
import random
from typing import Callable


def pause_jitter(seconds: float) -> float:
    """Up to a tenth on top of a pause of *seconds*, so that processes do not all return at once."""
    # The module's generator: a private one would draw the same in every forked worker.
    return random.uniform(0.0, min(2.0, max(0.05, seconds / 10.0)))


#: Seconds. A longer request is taken for a mistake: after a day the server is asked again.
LONGEST_PAUSE_SECONDS = 86_400.0


class Pause:
    """The pause of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self, jitter: Callable[[float], float] = pause_jitter) -> None:
        #: Nothing leaves before this instant.
        self.until = -math.inf
        self._jitter = jitter
        self._drawn = 0.0
        #: No call has left since it began.
        self.is_unfinished = False

    def start(self, seconds: float, now: float) -> float:
        """Pause for *seconds* plus jitter, drawn once per pause; never shortens one.

        Returns the instant of its end.
        """
        seconds = min(seconds, LONGEST_PAUSE_SECONDS)
        if now >= self.until:
            self._drawn = self._jitter(seconds)
        self.is_unfinished = True
        self.until = max(self.until, now + seconds + self._drawn)
        return self.until

"""How long a refused request waits: by itself, with its whole lane, and for the retry budget.

By itself it backs off exponentially, with jitter. With retries limited to a share of the traffic,
an outage is not doubled; botocore and gRPC have such a budget, too. Here an empty budget delays a
retry and fails none: with a steady tenth of faults, calls would fail that would have been answered.
"""

from __future__ import annotations

import math
import random
from typing import Callable, Optional

from claude_throttle.core.domain.feedback import CONCURRENCY, Feedback

#: Seconds: first and longest backoff, as the SDK has them (0.5 * 2**n up to 8).
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0

#: Seconds. A longer request is taken for a mistake: after a day the server is asked again.
LONGEST_PAUSE_SECONDS = 86_400.0

#: Seconds. In a longer wait one call is tried from time to time, whatever was named: a gateway may
#: have sent milliseconds for seconds, or the limit may be raised meanwhile.
LONGEST_UNPROBED_SECONDS = 900.0

#: Seconds from its beginning to the first try, and from one to the next; the last repeats.
PAUSE_PROBE_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0)

#: Retries a second that are always allowed: a small program has no traffic to speak of.
PER_SECOND = 3.0

#: Retries that may be saved up.
MOST_SAVED = 10.0

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
    if feedback.retry_after > LONGEST_UNPROBED_SECONDS:
        return _probe_gap(failures - 1) + backoff(1, draw) / 5
    return feedback.retry_after + backoff(1, draw) / 5


def _probe_gap(probes: int) -> float:
    return PAUSE_PROBE_SECONDS[min(probes, len(PAUSE_PROBE_SECONDS) - 1)]


def pause_jitter(seconds: float) -> float:
    """Up to a tenth on top of a pause of *seconds*, so that processes do not all return at once."""
    # The module's generator: a private one would draw the same in every forked worker.
    return random.uniform(0.0, min(2.0, max(0.05, seconds / 10.0)))


class Pause:
    """The pause of one lane. Not thread-safe: the lane's mutex guards it.

    In one of more than a quarter of an hour a probe leaves now and then; its answer ends the pause.
    """

    def __init__(self, jitter: Callable[[float], float] = pause_jitter) -> None:
        #: Nothing leaves before this instant: the end, or that of the next probe.
        self.until = -math.inf
        self._jitter = jitter
        self._drawn = 0.0
        #: The status of the refusal that began it; None where that is not known.
        self.status: Optional[int] = None
        #: No call has left since it began, unless as a probe.
        self.is_unfinished = False
        #: The end of one that is probed; -inf in any other.
        self.named_until = -math.inf
        #: The instant at which the last probe left; inf if none is out or was.
        self.probed_at = math.inf
        self._probes = 0

    @property
    def ends_at(self) -> float:
        """The instant of its end by the server's word, probes aside."""
        return max(self.until, self.named_until)

    def start(self, seconds: float, now: float) -> float:
        """Pause for *seconds* plus jitter, drawn once per pause; never shortens one.

        Returns the instant before which nothing leaves.
        """
        seconds = min(seconds, LONGEST_PAUSE_SECONDS)
        if now >= self.until:
            self._drawn = self._jitter(seconds)
        self.is_unfinished = True
        end = now + seconds + self._drawn
        if now >= self.named_until:
            self.probed_at, self._probes = math.inf, 0
        if seconds <= LONGEST_UNPROBED_SECONDS:
            self.until = max(self.until, end)
            return self.until
        self.named_until = max(self.named_until, end)
        if now >= self.until:
            self._await_probe(now)
        return self.until

    def _await_probe(self, now: float) -> None:
        gap = _probe_gap(self._probes) + self._drawn
        self._probes += 1
        self.until = min(self.named_until, now + gap)

    def probe(self, now: float) -> None:
        """A call leaves while the pause goes on; nothing follows before the next probe is due."""
        self.is_unfinished, self.probed_at = True, now
        self._await_probe(now)

    def cut_short(self) -> None:
        """A probe was answered, or told a shorter wait."""
        self.until = self.named_until = -math.inf
        self.is_unfinished, self.probed_at = False, math.inf


class RetryBudget:
    """The retry budget of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self, share: float) -> None:
        self.share = share
        #: Calls that left since the last withdrawal.
        self.sends = 0
        self._saved = MOST_SAVED
        self._at = -math.inf

    def withdraw(self, now: float) -> float:
        """Take one retry; returns the seconds it must wait for its share of the traffic."""
        self._saved = min(MOST_SAVED, self._saved + self.sends * self.share)
        self.sends = 0
        earned = max(0.0, now - max(self._at, now - MOST_SAVED)) * PER_SECOND
        self._saved = min(MOST_SAVED, self._saved + earned) - 1.0
        self._at = now
        return max(0.0, -self._saved / PER_SECOND)

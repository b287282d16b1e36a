"""The only reader of time.

Everything that computes takes ``now`` as an argument; everything that waits, waits here. So a test
can put a :class:`claude_throttle.testing.ManualClock` in this place and move time by hand.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

#: Seconds. No wait is longer: ``Condition.wait`` overflows on huge numbers, and an hourly look
#: costs nothing.
LONGEST_WAIT_SECONDS = 3600.0


#: Seconds. The main thread looks this often whether Ctrl-C was pressed: a signal that arrives just
#: before a wait begins does not end that wait.
MAIN_THREAD_WAIT_SECONDS = 0.25


def longest_wait() -> float:
    """The longest single wait of this thread, in seconds."""
    if threading.current_thread() is threading.main_thread():
        return MAIN_THREAD_WAIT_SECONDS
    return LONGEST_WAIT_SECONDS


class Clock(Protocol):
    """The time source of a throttler: ``Throttler(clock=…)``.

    Instants are seconds on one monotonic scale. :data:`claude_throttle.SYSTEM_CLOCK` is the
    machine's own; :class:`claude_throttle.testing.ManualClock` moves when a test says so.
    """

    def monotonic(self) -> float:
        """Now, on a scale that never jumps."""
        ...

    def wall(self) -> float:
        """Now, in seconds since 1970; only for reading dates in headers."""
        ...

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on a held *condition* until notified, or until *seconds* have passed.

        May return early; callers look again.
        """
        ...


class SystemClock:
    """The real time of this machine."""

    # Asked several times in each call.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        longest = longest_wait()
        condition.wait(longest if seconds is None else min(seconds, longest))


#: The clock that a throttler uses by default.
SYSTEM_CLOCK = SystemClock()

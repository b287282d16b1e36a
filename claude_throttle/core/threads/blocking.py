"""Work that names what it has to wait for, and leaves the waiting to its caller.

A generator yields each call that would block: a wait on a condition, an exchange with a store. In
production :func:`run_blocking` makes those calls in the thread that runs the generator. The
simulation makes them in virtual time, for any number of generators in one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

from claude_throttle.core.threads.clock import Clock

T = TypeVar("T")

BlockingCall = Callable[[], Any]

#: Yields calls that block, is sent what they return (or is thrown what they raise), returns a T.
Blocking = Generator[BlockingCall, Any, T]


@dataclass(frozen=True)
class Wait:
    """A wait on a held condition, until notified or until *seconds* have passed."""

    clock: Clock
    condition: threading.Condition
    seconds: Optional[float]

    def __call__(self) -> None:
        self.clock.wait(self.condition, self.seconds)


def run_blocking(steps: Blocking[T]) -> T:
    """Run *steps* to its end in this thread, and return its result.

    What a call raises is thrown into the generator, which may handle it; otherwise it is raised
    here. KeyboardInterrupt, too: a generator that holds a lock releases it in its own ``finally``.
    """
    resume, result = steps.send, None
    while True:
        try:
            call = resume(result)
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            resume, result = steps.send, call()
        except BaseException as error:  # noqa: BLE001 - the generator handles it, or ends with it
            resume, result = steps.throw, error

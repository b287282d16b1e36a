"""Virtual time: scheduled events in order, and the threads, clock and pool that live in it.

Everything runs in the one thread that calls :meth:`VirtualTime.run_until_idle`. Time stands still
while an event runs, and moves on to the next instant that has one. Code that would block cannot run
here: it must be a generator of the blocking calls it would make
(:mod:`claude_throttle.core.threads.blocking`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from functools import partial
from typing import Any, Callable, NoReturn, Optional, Protocol

from claude_throttle.core.threads.blocking import Blocking, BlockingCall, Wait
from claude_throttle.core.threads.clock import Condition
from claude_throttle.core.threads.thread_pool import Task, ThreadPool

Event = Callable[[], None]

#: How a blocking call ended: its result, or the exception it raised.
Ended = Callable[[Any, Optional[BaseException]], None]

#: Makes a blocking call in virtual time, and tells how it ended.
Performer = Callable[[BlockingCall, Ended], None]

#: The wall clock's time at the instant 0.
WALL_SECONDS = 1_790_000_000.0


class Schedule(Protocol):
    """A place to schedule events: the whole simulation's, or that of one process."""

    @property
    def now(self) -> float:
        """The present instant, in seconds."""
        ...

    def at(self, instant: float, event: Event) -> None:
        """Have *event* happen at *instant*; of one instant, in the order of scheduling."""
        ...


class VirtualTime:
    """The schedule of a simulation, and the clock of everything in it. Not thread-safe.

    Events of the same instant run in the order in which they were scheduled: so a run depends on
    its seed only, and never on the order of a heap.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._scheduled: list[tuple[float, int, Event]] = []
        self._order = itertools.count()

    def at(self, instant: float, event: Event) -> None:
        """Have *event* happen at *instant*; of one instant, in the order of scheduling."""
        heapq.heappush(self._scheduled, (instant, next(self._order), event))

    def run_until_idle(self, until: float = math.inf) -> None:
        """Let everything happen that is scheduled up to the instant *until*."""
        while self._scheduled and self._scheduled[0][0] <= until:
            self.now, _, event = heapq.heappop(self._scheduled)
            event()

    # -- as a clock ------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """The present instant."""
        return self.now

    def wall(self) -> float:
        """Seconds since 1970, moving along."""
        return WALL_SECONDS + self.now

    def wait(self, condition: threading.Condition, seconds: Optional[float]) -> NoReturn:
        """Raises RuntimeError: nothing may block in virtual time.

        What has to wait is a generator, run by a :class:`VirtualThread`.
        """
        raise RuntimeError(f"a wait of {seconds} s on {condition} would block virtual time")


class VirtualThread:
    """Runs a generator of blocking calls (:mod:`core.threads.blocking`) in virtual time.

    Waits on conditions it makes itself; *perform* makes all other calls. *late*: seconds by which
    it wakes late from a wait that timed out, drawn for each. A call's exception is raised in the
    generator, at its ``yield``, as a real thread would meet it.
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: Blocking[None],
        perform: Performer,
        late: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._schedule, self._steps = schedule, steps
        self._perform, self._late = perform, late
        self.ended = False

    def start(self) -> None:
        """Begin at the present instant."""
        self._schedule.at(self._schedule.now, partial(self._resume, None, None))

    def close(self) -> None:
        """End it where it waits, and release the locks it holds there.

        The garbage collector would do so in any thread, and only the one that took them may.
        """
        self._steps.close()

    def _resume(self, result: Any, error: Optional[BaseException]) -> None:
        try:
            call = self._steps.send(result) if error is None else self._steps.throw(error)
        except StopIteration:
            self.ended = True
            return
        if isinstance(call, Wait):
            _VirtualWait(self._schedule, call, self._late(), partial(self._resume, None, None))
        else:
            self._perform(call, self._resume)


class _VirtualWait:
    """One wait on a condition; takes the place of a thread's lock among its waiters.

    It ends once, by notification or by time-out, whichever is first; the other one then does
    nothing.
    """

    __slots__ = ("_condition", "_ended", "_resume", "_schedule")

    def __init__(self, schedule: Schedule, wait: Wait, late: float, resume: Event) -> None:
        self._schedule, self._resume = schedule, resume
        self._condition: Optional[Condition] = None
        self._ended = False
        if isinstance(wait.condition, Condition):
            self._condition = wait.condition
            self._condition.add_waiter(self)
        if wait.seconds is not None and wait.seconds < math.inf:
            schedule.at(schedule.now + max(0.0, wait.seconds) + late, self._time_out)

    def release(self) -> None:
        """The condition was notified. Its lock is held, so the waiter goes on a moment later."""
        if not self._ended:
            self._ended = True
            self._schedule.at(self._schedule.now, self._resume)

    def _time_out(self) -> None:
        if not self._ended:
            self._ended = True
            if self._condition is not None:
                self._condition.remove_waiter(self)
            self._resume()


class VirtualPool(ThreadPool):
    """Runs its tasks as events of the present instant; a task that raises ends the simulation.

    It always claims to have an idle thread, so no limit on threads shows in a simulation.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    @property
    def idle(self) -> bool:
        return True

    def run(self, task: Task) -> None:
        self._schedule.at(self._schedule.now, task)

"""The threads that carry calls to the server.

Permits bound how many calls are in flight; nothing bounds threads. One is started when a call
leaves and none is idle, so a slow answer holds a sender, never the worker.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Callable, Optional

logger = logging.getLogger("claude_throttle")

Task = Callable[[], None]

#: Seconds after which an idle sender ends.
IDLE_SECONDS = 30.0


class Senders:
    """A pool of daemon threads that grows with what is in flight and shrinks when idle."""

    def __init__(self, name: str = "claude-throttle-sender") -> None:
        self._name = name
        self._pid = os.getpid()
        self._tasks: queue.SimpleQueue[Optional[Task]] = queue.SimpleQueue()
        # Guards what follows. Never held while a thread starts or a task runs.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._idle = 0
        self._threads = 0
        self._stopped = False

    @property
    def threads(self) -> int:
        """How many there are now."""
        return self._threads

    @property
    def idle(self) -> bool:
        """Whether a thread waits for a task. A look; by the time you act it may have one."""
        return self._idle > 0

    def run(self, task: Task) -> None:
        """Have *task* run in a sender thread, soon. Never blocks; a task handles its own errors."""
        with self._lock:
            wanted = self._idle <= 0
            if wanted:
                self._threads += 1
            else:
                self._idle -= 1
        if wanted:
            self._start(task)
        else:
            self._tasks.put(task)

    def stop(self) -> None:
        """Let idle threads end now instead of after their idle time. It may still be used."""
        with self._lock:
            self._stopped = True
            idle, self._idle = max(0, self._idle), 0
            self._threads -= idle
        for _ in range(idle):
            self._tasks.put(None)

    def _start(self, task: Task) -> None:
        # Daemons: a blocked read must not keep the interpreter. The exit hook waits for answers.
        # No argument: a thread keeps those for life, and with them its first call.
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending, or the machine has no thread left: those we have go on.
            self._do_without(task)
        else:
            self._tasks.put(task)

    def _do_without(self, task: Task) -> None:
        with self._lock:
            self._threads -= 1
            others = self._threads > 0
            self._idle -= others
        if others:
            self._tasks.put(task)
        else:
            _run_safely(task)

    def _work(self) -> None:
        while True:
            task = self._next_task()
            # Greenlets survive a fork: the copies in the child have nothing to do there.
            if task is None or self._pid != os.getpid():
                return
            _run_safely(task)
            del task
            with self._lock:
                if self._stopped and self._tasks.empty():
                    self._threads -= 1
                    return
                self._idle += 1

    def _next_task(self) -> Optional[Task]:
        while True:
            try:
                return self._tasks.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # A task may have been promised to us between the time-out and here.
                    if self._tasks.empty() and self._idle > 0:
                        # In one step, so that nobody counts on a thread that is ending.
                        self._idle -= 1
                        self._threads -= 1
                        return None


def _run_safely(task: Task) -> None:
    try:
        task()
    except BaseException:
        logger.exception("a sender task failed; this is a bug in claude_throttle")

"""The threads that send calls to the server.

The concurrency limiter bounds how many calls are in flight; nothing bounds threads. One is started
when a call leaves and none is idle, so a slow answer holds a sender, never the worker.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from typing import Callable, Generic, Optional, TypeVar

logger = logging.getLogger("claude_throttle")

Item = TypeVar("Item")

Task = Callable[[], None]

#: Seconds after which an idle sender ends.
IDLE_SECONDS = 30.0


class Mailbox(Generic[Item]):
    """A queue for one reader, whose writers take no lock.

    put() may be called by any thread, and by the garbage collector; get() by one thread.

    Not ``queue.SimpleQueue``: from Python 3.13 on its readers wait in a table of the interpreter's
    own (``_PyParkingLot``), and a fork without Python's hooks, as uWSGI's, leaves the table full of
    threads that do not exist. The child crashed when it put something into a queue of its own.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        # Held while there is nothing new; the reader waits for it. It guards nothing.
        self._nothing_new = threading.Lock()
        self._nothing_new.acquire()

    def put(self, item: Item) -> None:
        """Add *item*, and wake the reader. Never waits."""
        try:
            self._items.append(item)
        finally:  # Ctrl-C may come in between
            try:  # noqa: SIM105 - a context manager takes a microsecond of each call
                self._nothing_new.release()
            except RuntimeError:  # it was released already
                pass

    def get(self, timeout: float) -> Item:
        """Remove and return the oldest; raises ``queue.Empty`` after *timeout* seconds."""
        while not self._items:
            if not self._nothing_new.acquire(timeout=timeout):
                raise queue.Empty
        return self._items.popleft()


#: The mailbox of one thread. None in it: the thread may end.
Tasks = Mailbox[Optional[Task]]


class ThreadPool:
    """A pool of daemon threads that grows with what is in flight and shrinks when idle.

    Thread-safe. It belongs to the process that made it; a forked child makes its own. No thread is
    started before the first task.
    """

    def __init__(self, name: str = "claude-throttle-sender") -> None:
        self._name = name
        self._pid = os.getpid()
        # Guards what follows. Never held while a thread starts or a task runs.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        #: The mailboxes of threads that wait for a task.
        self._idle: list[Tasks] = []
        #: Tasks for which no thread could be started: the first thread that is free takes them.
        self.left_over: deque[Task] = deque()
        self._threads = 0
        self._stopped = False

    @property
    def threads(self) -> int:
        """The number of threads now."""
        return self._threads

    @property
    def idle(self) -> bool:
        """Whether a thread waits for a task. A look: when you act, it may have one."""
        return bool(self._idle)

    def run(self, task: Task) -> None:
        """Run *task* in a sender thread, soon. Never blocks while threads can be started.

        A task handles its own errors; one that raises is logged. If the system gives no thread, an
        existing one takes the task when it is free, and without any the calling thread runs it.
        """
        with self._lock:
            if self._idle:
                self._idle.pop().put(task)
                return
            self._threads += 1
        self._start(task)

    def start_left_over(self) -> None:
        """Try again to start a thread for a task for which none could be started.

        The threads that there are may all wait for what that task holds.
        """
        with self._lock:
            if not self.left_over:
                return
            task = self.left_over.popleft()
            self._threads += 1
        self._start(task)

    def stop(self) -> None:
        """Let idle threads end now instead of after their idle time. It may still be used."""
        with self._lock:
            self._stopped = True
            idle, self._idle = self._idle, []
            self._threads -= len(idle)
        for tasks in idle:
            tasks.put(None)

    def _start(self, task: Task) -> None:
        tasks: Tasks = Mailbox()
        # Daemons: a blocked read must not keep the interpreter. The exit hook waits for answers.
        # Not the task: a thread keeps its arguments until it ends, and would keep its first call.
        thread = threading.Thread(target=self._work, args=(tasks,), name=self._name, daemon=True)
        tasks.put(task)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending, or the machine has no thread left: those we have go on.
            self._do_without(task)

    def _do_without(self, task: Task) -> None:
        """Run *task* although no thread could be started: by another thread, or here."""
        with self._lock:
            self._threads -= 1
            if self._idle:
                self._idle.pop().put(task)
                return
            if self._threads > 0:
                self.left_over.append(task)
                return
        while True:
            _run_safely(task)
            with self._lock:
                if self._threads > 0 or not self.left_over:
                    return
                task = self.left_over.popleft()

    def _work(self, tasks: Tasks) -> None:
        while True:
            task = self._next_task(tasks)
            # Greenlets survive a fork: the copies in the child have nothing to do there.
            if task is None or self._pid != os.getpid():
                return
            _run_safely(task)
            del task
            with self._lock:
                if self.left_over:
                    tasks.put(self.left_over.popleft())
                elif self._stopped:
                    self._threads -= 1
                    return
                else:
                    self._idle.append(tasks)

    def _next_task(self, tasks: Tasks) -> Optional[Task]:
        promised = False
        while True:
            try:
                return tasks.get(IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # If it is not idle, a task was put there between the time-out and here; or, if
                    # there is none the next time, the thread that had it was interrupted before.
                    if tasks in self._idle:
                        self._idle.remove(tasks)
                    elif not promised:
                        promised = True
                        continue
                    self._threads -= 1
                    return None


def _run_safely(task: Task) -> None:
    try:
        task()
    except BaseException:
        logger.exception("a sender task failed; this is a bug in claude_throttle")

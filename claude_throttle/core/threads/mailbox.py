"""A queue for one reader, whose writers take no lock.

Not ``queue.SimpleQueue``: from Python 3.13 on its readers wait in a table of the interpreter's own
(``_PyParkingLot``), and a fork without Python's hooks, as uWSGI's, leaves the table full of threads
that are not there. The child crashed when it put something into a queue of its own.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """put() may come from any thread, and from the garbage collector; get() from one thread."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        # No guard but a bell: held while there is nothing new.
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, item: Item) -> None:
        """Never waits."""
        try:
            self._items.append(item)
        finally:  # Ctrl-C may come in between
            self.ring()

    def ring(self) -> None:
        """Have the reader look."""
        try:  # noqa: SIM105 - a context manager takes a microsecond of each call
            self._bell.release()
        except RuntimeError:  # it has been rung already
            pass

    def get(self, timeout: float) -> Item:
        """The oldest. Raises ``queue.Empty`` if for *timeout* seconds there is none."""
        while not self._items:
            if not self._bell.acquire(timeout=timeout):
                raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        """Whether there is nothing. A look."""
        return not self._items

"""Thread-local things, also for programs that gevent patches after this was imported.

gunicorn does that with ``--preload`` and its gevent workers. What ``threading.local`` was until
then is one for all greenlets, and one call would answer for another.
"""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class ThreadLocal:
    """Finds this thread's, or this greenlet's, own. Thread-safe without a lock."""

    __slots__ = ("_by_kind",)

    def __init__(self) -> None:
        # A plain dict: setdefault is atomic.
        self._by_kind: dict[Any, threading.local] = {}

    def mine(self) -> threading.local:
        """A ``threading.local`` of the kind there is now."""
        kind = threading.local
        found = self._by_kind.get(kind)
        return found if found is not None else self._by_kind.setdefault(kind, kind())

    def list_of_mine(self, name: str) -> list[Any]:
        """A list of this thread's own, empty at first."""
        mine: dict[str, list[Any]] = self.mine().__dict__
        found = mine.get(name)
        return found if found is not None else mine.setdefault(name, [])


class ThreadLocalList(Generic[Item]):
    """A list of its own for each thread, or greenlet; empty at first. Thread-safe without a lock.

    Works if gevent patches ``threading`` after this was imported: gunicorn does that with
    ``--preload`` and its gevent workers. What ``threading.local`` was until then is one for all
    greenlets, and one call would answer for another. So there is one ``threading.local`` for each
    kind there ever was.
    """

    __slots__ = ("_by_kind",)

    def __init__(self) -> None:
        # A plain dict: setdefault is atomic.
        self._by_kind: dict[Any, threading.local] = {}

    def mine(self) -> list[Item]:
        """This thread's list."""
        kind = threading.local
        local = self._by_kind.get(kind)
        if local is None:
            local = self._by_kind.setdefault(kind, kind())
        try:
            items: list[Item] = local.items
        except AttributeError:
            items = local.__dict__.setdefault("items", [])
        return items

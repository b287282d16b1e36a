"""Thread-local lists, also for programs that gevent patches after this was imported."""

from __future__ import annotations

import threading
from typing import Any, Generic, Optional, TypeVar

Item = TypeVar("Item")


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

    def last(self) -> Optional[Item]:
        """The last item of this thread's list; None if it is empty."""
        # A slice: another thread may remove it between a look and the next.
        return next(iter(self.mine()[-1:]), None)

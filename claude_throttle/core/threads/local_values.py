"""One value per process, and one list per thread.

What a parent owns is never touched by its forked child.

Measured on gunicorn, uWSGI and Celery in all their modes: only a state keyed by pid *and* a fork
hook get through all of them. A pid check alone meets the parent's waiting thread in the inherited
queue; Python's hook alone is never called by uWSGI, which has one of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any, Callable, Generic, Optional, Protocol, TypeVar


class Abandonable(Protocol):
    """A value that a forked child can let go of without a lock."""

    def abandon(self) -> None: ...


Value = TypeVar("Value", bound=Abandonable)
Item = TypeVar("Item")


class ProcessLocal(Generic[Value]):
    """A value made on first use, anew in each process. Thread-safe without a lock.

    *make* may be called by two threads at once; one of the two values is kept, the other one
    dropped. So making one must not start a thread or open a socket.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        # A plain dict: setdefault and pop are atomic, and no lock can be left held by a fork.
        self._by_pid: dict[int, Value] = {}
        self._inherited: list[Value] = []
        _everyone.add(self)
        _hook_into_uwsgi()

    def mine(self) -> Value:
        """This process's value; made if there is none yet."""
        pid = os.getpid()
        value = self._by_pid.get(pid)
        if value is not None:
            return value
        self.forget_parent()
        return self._by_pid.setdefault(pid, self._make())

    def mine_if_any(self) -> Optional[Value]:
        """This process's value; None if it was never used here."""
        return self._by_pid.get(os.getpid())

    def forget_parent(self) -> None:
        """Let go of the values of other processes. Called in a forked child; harmless elsewhere."""
        for pid in list(self._by_pid):
            if pid != os.getpid():
                value = self._by_pid.pop(pid, None)
                if value is not None:
                    # Kept, not collected: closing its pools takes locks that no thread of this
                    # process can release.
                    self._inherited.append(value)
                    value.abandon()


#: Weakly: a hook can never be unregistered.
_everyone: weakref.WeakSet[ProcessLocal[Any]] = weakref.WeakSet()


def _forget_parents() -> None:
    for one in list(_everyone):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)

# Whether uWSGI's hook calls ours; another may have replaced it since, then the pid check is left.
_hooked: list[bool] = []


def _hook_into_uwsgi() -> None:
    """Be called after forks of uWSGI, if uWSGI runs this process."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or _hooked:
        return
    _hooked.append(True)
    before: Optional[Callable[[], None]] = getattr(uwsgi, "post_fork_hook", None)

    def forked() -> None:
        _forget_parents()
        if before is not None:
            before()

    uwsgi.post_fork_hook = forked  # type: ignore[attr-defined]


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

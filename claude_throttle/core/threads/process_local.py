"""One state per process: what a parent owns is never touched by its child.

Measured on gunicorn, uWSGI and Celery in all their modes: only a state keyed by pid *and* a fork
hook get through all of them. A pid check alone meets the parent's waiting thread in the inherited
queue; Python's hook alone is never called by uWSGI, which has one of its own.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING, Callable, Optional

if TYPE_CHECKING:
    from claude_throttle.engine import Engine


class ProcessLocal:
    """Makes a Process on first use, in each process anew. Thread-safe without a lock."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        # A plain dict: setdefault and pop are atomic, and no lock can be left held by a fork.
        self._by_pid: dict[int, Engine] = {}
        self._inherited: list[Engine] = []
        _everyone.add(self)
        _hook_into_uwsgi()

    def mine(self) -> Engine:
        """This process's own."""
        pid = os.getpid()
        process = self._by_pid.get(pid)
        if process is not None:
            return process
        self.forget_parent()
        return self._by_pid.setdefault(pid, self._make())

    def mine_if_any(self) -> Optional[Engine]:
        """The same, if it was ever used here."""
        return self._by_pid.get(os.getpid())

    def forget_parent(self) -> None:
        """In a forked child: let go of what was inherited."""
        for pid in list(self._by_pid):
            if pid != os.getpid():
                process = self._by_pid.pop(pid, None)
                if process is not None:
                    # Kept, not collected: closing its pools takes locks nobody may hold here.
                    self._inherited.append(process)
                    process.abandon()


#: Weakly: a hook can never be unregistered.
_everyone: weakref.WeakSet[ProcessLocal] = weakref.WeakSet()


def _forget_parents() -> None:
    for one in list(_everyone):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)

# Whether uWSGI's hook calls ours; another may have replaced it since, then the pid check is left.
_hooked: list[bool] = []


def _hook_into_uwsgi() -> None:
    """Hear of the forks of uWSGI, if that is who runs this process."""
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

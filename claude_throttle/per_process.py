"""One state per process: what a parent owns is never touched by its child.

Measured on gunicorn, uWSGI and Celery in all their modes: only a state keyed by pid *and* a fork
hook get through all of them. A pid check alone meets the parent's waiting thread in the inherited
queue; the hook alone is never called by uWSGI.
"""

from __future__ import annotations

import os
import weakref
from typing import Callable, Optional

from claude_throttle.process import Process


class PerProcess:
    """Makes a Process on first use, in each process anew. Thread-safe without a lock."""

    def __init__(self, make: Callable[[], Process]) -> None:
        self._make = make
        # A plain dict: setdefault and pop are atomic, and no lock can be left held by a fork.
        self._by_pid: dict[int, Process] = {}
        self._inherited: list[Process] = []
        if hasattr(os, "register_at_fork"):
            # Weakly: it can never be unregistered.
            forget = weakref.WeakMethod(self._forget_parent)
            os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def mine(self) -> Process:
        """This process's own."""
        pid = os.getpid()
        process = self._by_pid.get(pid)
        if process is not None:
            return process
        self._forget_parent()
        return self._by_pid.setdefault(pid, self._make())

    def mine_if_any(self) -> Optional[Process]:
        """The same, if it was ever used here."""
        return self._by_pid.get(os.getpid())

    def _forget_parent(self) -> None:
        for pid in list(self._by_pid):
            if pid != os.getpid():
                process = self._by_pid.pop(pid, None)
                if process is not None:
                    # Kept, not collected: closing its pools takes locks nobody may hold here.
                    self._inherited.append(process)
                    process.abandon()

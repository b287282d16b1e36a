"""Keeps a forked child off the sockets of its parent, and off half of an import.

A fork copies descriptors, not connections: what the child reads from a shared socket is missing at
the parent, and an answer to the parent could be taken for the child's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

#: Held while modules of ours are imported that a child needs, too, and over each fork. Python keeps
#: a lock for each module that is being imported; a child that is forked meanwhile has a copy that
#: nobody releases, and would hang at its own import. Re-entrant: an import may itself fork.
importing = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire,
        after_in_parent=importing.release,
        after_in_child=importing.release,
    )


@contextlib.contextmanager
def dead_end() -> Iterator[int]:
    """A descriptor to put, by ``dup2``, in the place of a socket that belongs to the parent.

    Threads do not survive a fork, but greenlets do: those that wait for an answer would take the
    parent's. With this they fail at once, and what they write goes nowhere.
    """
    dead, other = os.pipe()
    os.close(other)
    try:
        yield dead
    finally:
        os.close(dead)

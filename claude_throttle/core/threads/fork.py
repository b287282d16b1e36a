"""Keeps a forked child off the sockets of its parent.

A fork copies descriptors, not connections: what the child reads from a shared socket is missing at
the parent, and an answer to the parent could be taken for the child's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


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

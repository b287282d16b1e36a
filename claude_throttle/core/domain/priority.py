"""How urgent a call is: the usual values of ``priority=``."""

from __future__ import annotations

import enum


class Priority(enum.IntEnum):
    """Lower leaves first. Any int works; these are the usual ones."""

    INTERACTIVE = 0
    NORMAL = 10
    BATCH = 20

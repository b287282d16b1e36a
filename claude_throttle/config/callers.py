"""Which line of the program called us, for ``warnings.warn``: nobody looks for a line of ours."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Optional

#: Modules between the program's line and ours.
_BETWEEN = ("claude_throttle.", "requests.", "httpx", "httpcore", "anthropic.", "contextlib")


def levels_to_caller() -> int:
    """How far up the line of the program is, as the ``stacklevel`` of a warning."""
    frame: Optional[FrameType] = sys._getframe(1)
    levels = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame, levels = frame.f_back, levels + 1
    return levels

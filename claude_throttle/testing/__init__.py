"""For tests of code that calls Claude: a server on loopback that enforces quotas, and its judge.

Read in this order: :mod:`quotas` (what it allows), :mod:`faults` (what it can be told to answer),
:mod:`service` (how it decides), :mod:`plans` and :mod:`replies` (what it then sends), :mod:`wire`
and :mod:`connection` (HTTP), :mod:`server` (the thread), :mod:`arrivals` (what it saw);
:mod:`clock` is a clock that moves when told.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from claude_throttle.testing.arrivals import Arrival, worst_excess
from claude_throttle.testing.faults import (
    Drip,
    Garbage,
    Ok,
    Redirect,
    Reply,
    Reset,
    Scripted,
    SpendCap,
    Stall,
    StreamError,
    Truncated,
)

if TYPE_CHECKING:
    from claude_throttle.testing.clock import ManualClock
    from claude_throttle.testing.server import FakeClaude

__all__ = [
    # the server, and what it saw
    "FakeClaude",
    "Arrival",
    "worst_excess",
    # time
    "ManualClock",
    # what it can be told to answer
    "Scripted",
    "Ok",
    "Reply",
    "Reset",
    "Stall",
    "Garbage",
    "Truncated",
    "Drip",
    "Redirect",
    "SpendCap",
    "StreamError",
]

_LATER = {"FakeClaude": "server", "ManualClock": "clock"}


def __getattr__(name: str) -> object:
    # The server brings asyncio along; who only wants a clock or a scripted answer should not pay.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = found
    return found

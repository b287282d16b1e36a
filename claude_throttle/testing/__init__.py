"""For tests of code that calls Claude: a server on loopback that enforces quotas, and its judge.

Read in this order: :mod:`quotas` (what it allows; made of :mod:`buckets`, :mod:`others` and
:mod:`acceleration`), :mod:`faults` and :mod:`accounts` (what it can be told to answer),
:mod:`behaviour` and :mod:`service` (how it decides), :mod:`plans`, :mod:`streams` and
:mod:`replies` (what it then sends), :mod:`rate_limits_api`, :mod:`fake_batches` and
:mod:`batch_records`, :mod:`wire` and :mod:`connection`
(HTTP), :mod:`server` (the thread), :mod:`arrivals` (what it saw), :mod:`scripted_api` (the same
server with a unit test's words); :mod:`with_responses` (no server at all); :mod:`clock` is a clock
that moves when told.
:mod:`simulation` and :mod:`simulated_server` play the same limits in virtual time, without threads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from claude_throttle.simulation.windows import worst_excess
from claude_throttle.testing.accounts import (
    BILLING_PROBLEM,
    CONTRACT_SPEND_LIMIT,
    CREDIT_TOO_LOW,
    KEY_REFUSED,
    LINKED_SPEND_LIMIT,
    NOT_PERMITTED,
    ORGANIZATION_ON_HOLD,
    OWN_SPEND_LIMIT,
    WORKSPACE_SPEND_LIMIT,
)
from claude_throttle.testing.arrivals import Arrival
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
    from claude_throttle.simulation.simulated_server import SimulatedServer
    from claude_throttle.simulation.simulation import Simulation
    from claude_throttle.testing.clock import ManualClock
    from claude_throttle.testing.scripted_api import ClaudeApi
    from claude_throttle.testing.server import FakeClaude
    from claude_throttle.testing.streams import Streamed
    from claude_throttle.testing.with_responses import add_message, add_refusal, limit_headers

__all__ = [
    # the server, and what it saw
    "FakeClaude",
    "ClaudeApi",
    "Arrival",
    "worst_excess",
    # for the library "responses", without a server
    "add_message",
    "add_refusal",
    "limit_headers",
    # time
    "ManualClock",
    # virtual time
    "Simulation",
    "SimulatedServer",
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
    "Streamed",
    # the same, when the account is the problem
    "OWN_SPEND_LIMIT",
    "WORKSPACE_SPEND_LIMIT",
    "CONTRACT_SPEND_LIMIT",
    "LINKED_SPEND_LIMIT",
    "CREDIT_TOO_LOW",
    "BILLING_PROBLEM",
    "ORGANIZATION_ON_HOLD",
    "KEY_REFUSED",
    "NOT_PERMITTED",
]

_LATER = {
    "FakeClaude": "claude_throttle.testing.server",
    "ClaudeApi": "claude_throttle.testing.scripted_api",
    "ManualClock": "claude_throttle.testing.clock",
    "Simulation": "claude_throttle.simulation.simulation",
    "SimulatedServer": "claude_throttle.simulation.simulated_server",
    **dict.fromkeys(
        ("add_message", "add_refusal", "limit_headers"), "claude_throttle.testing.with_responses"
    ),
    "Streamed": "claude_throttle.testing.streams",
}


def __getattr__(name: str) -> object:
    # The server brings asyncio along; who only wants a clock or a scripted answer should not pay.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found

"""For tests of code that calls Claude: a fake API that enforces quotas, and a clock moved by hand.

``FakeClaude`` is a server on loopback; ``ClaudeApi`` adds the methods that unit tests need. Read
:mod:`faults` and :mod:`refusals` first (the answers that can be scripted), then :mod:`behaviour`
and :mod:`service` (the decision), :mod:`default_answer` and :mod:`minimal_json` (the answer to what
is not scripted), :mod:`computed` (that of a function), :mod:`plans`, :mod:`streams` and
:mod:`replies` (the response), :mod:`rate_limits_api`, :mod:`fake_batches` and :mod:`batch_records`
(the other endpoints), :mod:`http_reader`, :mod:`connection` and :mod:`server` (HTTP and its
thread), :mod:`arrivals` (the log), :mod:`scripted_api`, :mod:`interception` (of clients made for
the real API), :mod:`with_responses` (mocks, without a server) and :mod:`clock`. The quotas are
those of :mod:`claude_throttle.simulation`, which enforces them in virtual time, without threads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from claude_throttle.simulation.windows import worst_excess
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
from claude_throttle.testing.refusals import (
    BILLING_PROBLEM,
    CONTRACT_SPEND_LIMIT,
    CREDENTIAL_RESTRICTED,
    CREDIT_TOO_LOW,
    KEY_REFUSED,
    LINKED_SPEND_LIMIT,
    NOT_PERMITTED,
    ORGANIZATION_DISABLED,
    ORGANIZATION_ON_HOLD,
    OWN_SPEND_LIMIT,
    WORKSPACE_SPEND_LIMIT,
    firewall_page,
    gateway_rate_limit,
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
    # the server, and its log
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
    # answers that can be scripted
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
    # refusals for problems of the account
    "OWN_SPEND_LIMIT",
    "WORKSPACE_SPEND_LIMIT",
    "CONTRACT_SPEND_LIMIT",
    "LINKED_SPEND_LIMIT",
    "CREDENTIAL_RESTRICTED",
    "CREDIT_TOO_LOW",
    "BILLING_PROBLEM",
    "ORGANIZATION_DISABLED",
    "ORGANIZATION_ON_HOLD",
    "KEY_REFUSED",
    "NOT_PERMITTED",
    # refusals by what stands in front of the API
    "firewall_page",
    "gateway_rate_limit",
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
    # The server imports asyncio; a program that uses only a clock should not pay for that.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found

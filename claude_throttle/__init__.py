"""All of a Claude API quota for synchronous Python: no 429s, no lost calls, no asyncio.

>>> from claude_throttle import Throttler
>>> throttler = Throttler(api_key="not-a-key", rpm=50)
>>> throttler
<Throttler https://api.anthropic.com rpm=50 open>

To pytest, which warns if a package with a plugin was loaded before it: PYTEST_DONT_REWRITE
"""

from typing import TYPE_CHECKING, Any

from claude_throttle._version import __version__
from claude_throttle.namesake import warn_of_namesake

if TYPE_CHECKING:
    from claude_throttle.account.limits import LaneState, Limits, QuotaState
    from claude_throttle.config.call_options import CallOptions, MapOptions
    from claude_throttle.config.settings import Settings
    from claude_throttle.core.dispatch.permit import Permit
    from claude_throttle.core.domain.cost import Usage
    from claude_throttle.core.domain.events import (
        CallFailed,
        CallQueued,
        CallSent,
        CallSucceeded,
        CircuitClosed,
        CircuitHalfOpened,
        CircuitOpened,
        ConcurrencyChanged,
        ConnectionLimitReached,
        Event,
        IterationBooked,
        LanePaused,
        LaneResumed,
        LimitLearned,
        PausedByHand,
        PermitClosed,
        PermitGranted,
        ResumedByHand,
        RetryScheduled,
        StoreLost,
        StoreReturned,
        Suspended,
        SuspensionEnded,
    )
    from claude_throttle.core.domain.priority import Priority
    from claude_throttle.core.domain.quota import Quota
    from claude_throttle.core.threads.clock import SYSTEM_CLOCK, Clock
    from claude_throttle.core.threads.error_watch import ErrorWatch
    from claude_throttle.core.threads.exit_hooks import close_all
    from claude_throttle.errors import (
        AccountSuspended,
        BatchIncomplete,
        BrokenAnswer,
        CircuitOpen,
        Closed,
        ConfigurationError,
        DeadlineExceeded,
        Forked,
        InvalidCall,
        QueueFull,
        QuotaTooSmall,
        ThrottleError,
        UnknownSetting,
        Unprocessed,
    )
    from claude_throttle.features.batches.api import (
        Batches,
        BatchHandle,
        BatchProgress,
        BatchResult,
        BatchState,
    )
    from claude_throttle.features.sharing.fleet import (
        FleetLane,
        FleetMember,
        FleetState,
        fleet,
        pause_fleet,
        resume_fleet,
    )
    from claude_throttle.features.sharing.virtual_queue import LineTicket
    from claude_throttle.features.streaming.message_stream import MessageStream
    from claude_throttle.metrics.histogram import Quantiles
    from claude_throttle.metrics.history import HistoryInterval
    from claude_throttle.metrics.recorder import Stats
    from claude_throttle.throttler import Throttler
    from claude_throttle.transport.api_refusals import ApiRefusal, api_refusal

__all__ = [
    # The front door
    "Throttler",
    "Settings",
    "Quota",
    "Priority",
    "Permit",
    "MessageStream",
    "LineTicket",
    # Their keywords, for annotations
    "CallOptions",
    "MapOptions",
    # Message Batches
    "Batches",
    "BatchHandle",
    "BatchProgress",
    "BatchResult",
    "BatchState",
    # Looking
    "Stats",
    "Quantiles",
    "HistoryInterval",
    "Usage",
    "Limits",
    "LaneState",
    "QuotaState",
    "fleet",
    "pause_fleet",
    "resume_fleet",
    "FleetState",
    "FleetMember",
    "FleetLane",
    # Events
    "Event",
    "CallQueued",
    "CallSent",
    "RetryScheduled",
    "LanePaused",
    "LaneResumed",
    "LimitLearned",
    "ConcurrencyChanged",
    "CircuitOpened",
    "CircuitHalfOpened",
    "CircuitClosed",
    "Suspended",
    "SuspensionEnded",
    "PausedByHand",
    "ResumedByHand",
    "StoreLost",
    "StoreReturned",
    "CallSucceeded",
    "CallFailed",
    "PermitGranted",
    "PermitClosed",
    "IterationBooked",
    "ConnectionLimitReached",
    # For integrations
    "Clock",
    "SYSTEM_CLOCK",
    "close_all",
    "ErrorWatch",
    # Errors
    "ThrottleError",
    "ConfigurationError",
    "UnknownSetting",
    "InvalidCall",
    "QuotaTooSmall",
    "QueueFull",
    "CircuitOpen",
    "AccountSuspended",
    "Closed",
    "DeadlineExceeded",
    "BrokenAnswer",
    "Forked",
    "Unprocessed",
    "BatchIncomplete",
    "api_refusal",
    "ApiRefusal",
    # About
    "__version__",
]

#: Where each name is defined: a module is imported when one of its names is first used.
_MODULES = {
    "account.limits": "LaneState Limits QuotaState",
    "config.call_options": "CallOptions MapOptions",
    "config.settings": "Settings",
    "core.dispatch.permit": "Permit",
    "core.domain.cost": "Usage",
    "core.domain.events": (
        "CallFailed CallQueued CallSent CallSucceeded CircuitClosed CircuitHalfOpened "
        "CircuitOpened ConcurrencyChanged ConnectionLimitReached Event "
        "IterationBooked LanePaused LaneResumed LimitLearned PausedByHand PermitClosed "
        "PermitGranted ResumedByHand RetryScheduled StoreLost StoreReturned Suspended "
        "SuspensionEnded"
    ),
    "core.domain.priority": "Priority",
    "core.domain.quota": "Quota",
    "core.threads.clock": "Clock SYSTEM_CLOCK",
    "core.threads.error_watch": "ErrorWatch",
    "core.threads.exit_hooks": "close_all",
    "errors": (
        "AccountSuspended BatchIncomplete BrokenAnswer CircuitOpen Closed "
        "ConfigurationError DeadlineExceeded Forked InvalidCall QueueFull QuotaTooSmall "
        "ThrottleError UnknownSetting Unprocessed"
    ),
    "features.batches.api": "BatchHandle BatchProgress BatchResult BatchState Batches",
    "features.sharing.fleet": "FleetLane FleetMember FleetState fleet pause_fleet resume_fleet",
    "features.sharing.virtual_queue": "LineTicket",
    "features.streaming.message_stream": "MessageStream",
    "metrics.histogram": "Quantiles",
    "metrics.history": "HistoryInterval",
    "metrics.recorder": "Stats",
    "throttler": "Throttler",
    "transport.api_refusals": "ApiRefusal api_refusal",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

warn_of_namesake(__path__)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

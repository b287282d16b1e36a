"""All of a Claude API quota for synchronous Python: no 429s, no lost calls, no asyncio.

>>> from claude_throttle import Throttler
>>> throttler = Throttler(api_key="not-a-key", rpm=50)
>>> throttler
<Throttler https://api.anthropic.com rpm=50 open>
"""

from claude_throttle._version import __version__
from claude_throttle.errors import (
    BrokenAnswer,
    Closed,
    ConfigurationError,
    DeadlineExceeded,
    Forked,
    InvalidCall,
    QueueFull,
    QuotaTooSmall,
    ThrottleError,
    UnknownSetting,
)
from claude_throttle.flow.cost import Usage
from claude_throttle.flow.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    Event,
    LanePaused,
    RetryScheduled,
)
from claude_throttle.flow.permit import Permit
from claude_throttle.flow.ticket import Priority
from claude_throttle.metrics.quantiles import Quantiles
from claude_throttle.metrics.stats import Stats
from claude_throttle.pacing.quota import Quota
from claude_throttle.settings import Settings
from claude_throttle.throttler import Throttler

__all__ = [
    # The front door
    "Throttler",
    "Settings",
    "Quota",
    "Priority",
    "Permit",
    # Looking
    "Stats",
    "Quantiles",
    "Usage",
    # Events
    "Event",
    "CallQueued",
    "CallSent",
    "RetryScheduled",
    "LanePaused",
    "CallSucceeded",
    "CallFailed",
    # Errors
    "ThrottleError",
    "ConfigurationError",
    "UnknownSetting",
    "InvalidCall",
    "QuotaTooSmall",
    "QueueFull",
    "Closed",
    "DeadlineExceeded",
    "BrokenAnswer",
    "Forked",
    # About
    "__version__",
]

"""What the fake server can be told to answer, and the dice for random faults.

Give these to :meth:`claude_throttle.testing.FakeClaude.script`. All are frozen: share them freely
between threads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

CLOUDFLARE_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"


@dataclass(frozen=True)
class Ok:
    """A good answer, without asking the quotas."""

    #: The answer's text; ``None`` echoes the last user text.
    text: Optional[str] = None
    #: Put over the usage the server would have told.
    usage: Optional[Mapping[str, Any]] = None
    #: Content blocks after the text, for example a ``tool_use``.
    extra_content_blocks: tuple[Mapping[str, Any], ...] = ()
    #: Seconds until it is complete; ``None`` takes as long as any other.
    latency: Optional[float] = None


@dataclass(frozen=True)
class Reply:
    """An error (or anything else) as the API would send it."""

    status: int
    #: Put over the usual headers; ``None`` as a value leaves that header out.
    headers: Mapping[str, Optional[str]] = field(default_factory=dict)
    #: ``None`` takes the documented type for the status.
    error_type: Optional[str] = None
    message: str = ""
    #: ``error.details.error_code``; ``None`` sends no details.
    error_code: Optional[str] = None
    #: Sent as it is, in place of the error's JSON.
    body: Optional[bytes] = None
    #: Seconds before it is sent; ``None`` sends errors at once.
    latency: Optional[float] = None


@dataclass(frozen=True)
class Reset:
    """The connection is reset (RST)."""

    #: 0: before any byte of the answer; more: after that many bytes of a good answer.
    after_bytes: int = 0


@dataclass(frozen=True)
class Stall:
    """Nothing more is sent until ``release_stalled()``; then the rest of a good answer."""

    #: Bytes of the good answer that are sent before.
    after_bytes: int = 0


@dataclass(frozen=True)
class Garbage:
    """Something that is no JSON, as a proxy would send it: no ``request-id``, no limits."""

    body: bytes = CLOUDFLARE_PAGE
    status: int = 200


@dataclass(frozen=True)
class Truncated:
    """Half the body of a good answer, then the connection is closed."""


@dataclass(frozen=True)
class Drip:
    """A good answer, sent one byte at a time."""

    seconds_per_byte: float


@dataclass(frozen=True)
class Redirect:
    """Sends the client somewhere else."""

    location: str
    status: int = 307


@dataclass(frozen=True)
class SpendCap:
    """The 429 no waiting helps against: ``enforced_spend_limit_reached``, no ``retry-after``."""


@dataclass(frozen=True)
class StreamError:
    """HTTP 200, then an ``error`` event in the stream. A call that does not stream gets a 529."""

    error_type: str = "overloaded_error"
    message: str = "Overloaded"
    #: Text deltas sent before the error; 0 makes the error the first event.
    after_deltas: int = 0


Scripted = Union[Ok, Reply, Reset, Stall, Garbage, Truncated, Drip, Redirect, SpendCap, StreamError]

RATE_LIMITED = Reply(
    429,
    {"retry-after": "1", "x-should-retry": "true"},
    message="This request would exceed your account's rate limit. Please try again later.",
)
INTERNAL = Reply(500, {"x-should-retry": "true"}, message="Internal server error")
OVERLOADED = Reply(529, {"x-should-retry": "true"}, message="Overloaded")

FAULTS: Mapping[str, Scripted] = {
    "429": RATE_LIMITED,
    "500": INTERNAL,
    "529": OVERLOADED,
    "reset": Reset(),
    "stall": Stall(),
    "garbage": Garbage(),
    "truncated": Truncated(),
}


class FaultDice:
    """Rolls a fault by name with the given probabilities. Not thread-safe."""

    def __init__(
        self, rates: Mapping[str, float], seed: object, overload_retry_after: int | None
    ) -> None:
        self._overloaded = _overloaded(overload_retry_after)
        self._random = random.Random(f"faults {seed}")
        self.reweigh(rates)

    def reweigh(self, rates: Mapping[str, float]) -> None:
        """Roll with other probabilities from now on; what is not named has none."""
        unknown = sorted(set(rates) - set(FAULTS))
        if unknown:
            raise ValueError(f"no such fault: {unknown}; there are {sorted(FAULTS)}")
        if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1 + 1e-9:
            raise ValueError(f"fault_rates are probabilities, together at most 1 (got {rates})")
        self._rates = dict(rates)

    def roll(self) -> Scripted | None:
        """The fault for the next arrival, or ``None``."""
        point = self._random.random()
        for name, rate in self._rates.items():
            if point < rate:
                return self._overloaded if name == "529" else FAULTS[name]
            point -= rate
        return None


def _overloaded(retry_after: int | None) -> Reply:
    if retry_after is None:
        return OVERLOADED
    headers = {**OVERLOADED.headers, "retry-after": str(retry_after)}
    return Reply(529, headers, message=OVERLOADED.message)

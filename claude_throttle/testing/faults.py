"""Answers that the fake server can be scripted to give, and the sampler of random faults.

They are arguments of :meth:`claude_throttle.testing.FakeClaude.script`, and immutable: safe to
share between threads. They say what the client sees; how it is put on the wire is decided by the
function registered for the class in :mod:`plans`. A new kind of answer needs both.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

#: What a proxy in front of the API sends when the API does not answer: HTML, whatever the client
#: accepts. It must not be taken for a refusal by the API.
CLOUDFLARE_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"


@dataclass(frozen=True)
class Ok:
    """A successful response.

    It is given to the next request that the quotas admit, whatever its key.
    """

    #: The response's text; ``None`` is that of an answer that nobody scripted.
    text: Optional[str] = None
    #: Fields that replace those of the server's usage; ``iterations``, too, which a stream tells at
    #: its end.
    usage: Optional[Mapping[str, Any]] = None
    #: Content blocks after the text, for example a ``tool_use``.
    extra_content_blocks: tuple[Mapping[str, Any], ...] = ()
    #: Seconds until it is complete; ``None`` is the server's latency.
    latency: Optional[float] = None
    #: ``None``: "tool_use" with such a block, otherwise "end_turn". With "stop_sequence" the
    #: request's first one is named.
    stop_reason: Optional[str] = None


@dataclass(frozen=True)
class Reply:
    """A response with any status, usually an error in the API's format."""

    status: int
    #: Headers that replace the usual ones; a value of ``None`` removes that header.
    headers: Mapping[str, Optional[str]] = field(default_factory=dict)
    #: ``None``: the documented type of the status.
    error_type: Optional[str] = None
    message: str = ""
    #: ``error.details.error_code``; ``None``: no details.
    error_code: Optional[str] = None
    #: The body, in place of the error's JSON.
    body: Optional[bytes] = None
    #: Seconds before it is sent; ``None``: at once.
    latency: Optional[float] = None


@dataclass(frozen=True)
class Reset:
    """Resets the connection (RST).

    With ``after_bytes=0`` no byte of an answer was sent, and a client may repeat its request; after
    some bytes the server has done the work, and the request would be paid for twice.
    """

    #: Bytes of a successful response that are sent before.
    after_bytes: int = 0


@dataclass(frozen=True)
class Stall:
    """Sends nothing more until ``release_stalled()``, then the rest of a successful response.

    For tests of read timeouts and of ``close()``: the connection stays open, and the request counts
    as in flight.
    """

    #: Bytes of the response that are sent before.
    after_bytes: int = 0


@dataclass(frozen=True)
class Garbage:
    """An answer of something in front of the API: no ``request-id``, no rate-limit headers.

    A proxy's page, or with other *headers* the JSON of a gateway.
    """

    body: bytes = CLOUDFLARE_PAGE
    status: int = 200
    #: Further headers; ``content-type`` is that of HTML unless it is given.
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Truncated:
    """Sends half the body of a successful response, then closes the connection.

    The ``content-length`` is that of the whole body. urllib3 2 notices that bytes are missing,
    urllib3 1.26 by default does not: there, only the JSON does not end.
    """


@dataclass(frozen=True)
class Drip:
    """A successful response, sent one byte at a time.

    A read timeout starts anew with each byte, so it never ends such a response; only a deadline for
    the whole call does.
    """

    seconds_per_byte: float


@dataclass(frozen=True)
class Redirect:
    """Redirects the client to another URL.

    A client must not follow: its key would go to another host.
    """

    location: str
    status: int = 307


@dataclass(frozen=True)
class SpendCap:
    """The 429 of a spend limit: ``enforced_spend_limit_reached``, without ``retry-after``."""


@dataclass(frozen=True)
class StreamError:
    """HTTP 200, then an ``error`` event in the stream. A call that does not stream gets a 529."""

    error_type: str = "overloaded_error"
    message: str = "Overloaded"
    #: Text deltas before the error; with 0 the error is the first event, with None it comes behind
    #: ``message_stop``.
    after_deltas: Optional[int] = 0
    #: What is sent in place of the API's event, as a gateway does it: ``{"error": …}`` or a text,
    #: sent without an ``event:`` line, or bytes, sent as they are.
    frame: Union[Mapping[str, Any], str, bytes, None] = None


Scripted = Union[Ok, Reply, Reset, Stall, Garbage, Truncated, Drip, Redirect, SpendCap, StreamError]


def refuses(scripted: object) -> bool:
    """Whether *scripted* stands for a request that used no quota: a refusal, or no answer."""
    if isinstance(scripted, Reset):
        return scripted.after_bytes <= 0
    status = getattr(scripted, "status", 200)
    return isinstance(scripted, SpendCap) or not 200 <= status < 300


RATE_LIMITED = Reply(
    429,
    {"retry-after": "1", "x-should-retry": "true"},
    message="This request would exceed your account's rate limit. Please try again later.",
)
INTERNAL = Reply(500, {"x-should-retry": "true"}, message="Internal server error")
OVERLOADED = Reply(529, {"x-should-retry": "true"}, message="Overloaded")

#: The answers that ``fault_rates`` can draw, by their names there.
FAULTS: Mapping[str, Scripted] = {
    "429": RATE_LIMITED,
    "500": INTERNAL,
    "529": OVERLOADED,
    "reset": Reset(),
    "stall": Stall(),
    "garbage": Garbage(),
    "truncated": Truncated(),
}


class FaultSampler:
    """Draws random faults with given probabilities. Not thread-safe.

    Exactly one random number is drawn for each arrival: a seed gives the same faults for the same
    order of requests, and other rates do not shift what is drawn afterwards. Raises ValueError for
    an unknown fault, or for probabilities that are negative or more than 1 in sum.
    """

    def __init__(
        self, rates: Mapping[str, float], seed: object, overload_retry_after: int | None
    ) -> None:
        self._overloaded = _overloaded(overload_retry_after)
        self._random = random.Random(f"faults {seed}")
        self.set_rates(rates)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Replace the probabilities; faults that are not named have none."""
        unknown = sorted(set(rates) - set(FAULTS))
        if unknown:
            raise ValueError(f"unknown faults: {unknown}; known are {sorted(FAULTS)}")
        if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1 + 1e-9:
            raise ValueError(f"fault_rates must be probabilities, at most 1 in sum (got {rates})")
        self._rates = dict(rates)

    def draw(self) -> Scripted | None:
        """The fault of the next arrival, or ``None``."""
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

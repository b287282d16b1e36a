"""What an attempt brought back, and what the pacer decides: frozen values.

They are the whole vocabulary between the transport, which knows HTTP, and the pacing, which does
not: a status or a header that matters to the pace becomes a field here or has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Optional

from claude_throttle.core.domain.cost import Cost

#: Why the server refused, as far as the pacer must know. Empty for an answer, good or bad.
RATE = "rate limit"
CONCURRENCY = "concurrency limit"
RAMP = "ramp limit"
OVERLOAD = "overloaded"
FAULT = "fault"
ACCOUNT = "account"
#: The API refuses what it has accepted a moment ago: a key, a model. It may pass.
DOUBT = "doubt"
#: The API's own 404 about a model. Any other is the affair of its request.
NOT_FOUND = "not found"
#: What was asked is not to be had with this account, now or later.
UNAVAILABLE = "unavailable"
#: Nothing came back in time: that says nothing about the server.
SILENCE = "silence"

#: The source of a limit that the API's own headers show.
HEADERS = "headers"
#: The end of the sources of limits that a relay's headers show.
RELAYED = " headers"

#: With ``retry-after`` these hold up the whole lane.
PAUSING = frozenset({RATE, RAMP, OVERLOAD})


class RateLimit(NamedTuple):
    """One quota as the ``anthropic-ratelimit-…`` headers of one response show it."""

    #: Units per minute.
    limit: float
    #: Units that were left, at the admission of the call or at its answer: it is not documented.
    remaining: float

    @property
    def source(self) -> str:
        """Where it comes from."""
        return HEADERS


class RelayedLimit(RateLimit):
    """One quota as a relay or gateway shows it, in headers of other names. Trusted less."""

    kind = "requests"
    #: Seconds; 60.0 for units per minute, as the API's own.
    per = 60.0
    _source = "relay headers"

    @property
    def source(self) -> str:
        """Where it comes from: the names of its headers."""
        return self._source

    def of(self, kind: str, per: float, source: str) -> RelayedLimit:
        """Itself, of that kind and period, from there."""
        self.kind, self.per, self._source = kind, per, source
        return self


#: By the names of the fields of :class:`Cost`: "requests", "input_tokens", "output_tokens"; what a
#: relay shows of other quotas, by a name of its own.
RateLimits = Mapping[str, RateLimit]

NO_RATE_LIMITS: RateLimits = MappingProxyType({})


class StatedLimit(NamedTuple):
    """The limit that the words of a refusal name."""

    #: A field of :class:`Cost`, or "tokens".
    kind: str
    #: Units per period.
    limit: float
    #: Seconds.
    per: float = 60.0


class UsageWindow(NamedTuple):
    """How far a window of time is used up, as ``anthropic-ratelimit-unified-…`` headers say."""

    #: In the server's word: "allowed", "allowed_warning", "rejected"; "" if it gave none.
    status: str = ""
    #: The share that is used, from 0.0; or None.
    utilization: Optional[float] = None
    #: Seconds since 1970, or None.
    resets_at: Optional[float] = None


class OtherLimits(NamedTuple):
    """Limits apart from a model's own, as the headers of one response show them."""

    #: Those of fast mode.
    fast: RateLimits = NO_RATE_LIMITS
    #: Those of Priority Tier.
    priority: RateLimits = NO_RATE_LIMITS
    #: By name: "5h", "7d", and "overall" for what is said of all together.
    windows: Mapping[str, UsageWindow] = MappingProxyType({})
    #: Seconds for which the whole account is refused; 0.0 if it is not.
    account_pause: float = 0.0


class RampLimit(NamedTuple):
    """A ramp limit in the server's words: so much now, more from the next minute on."""

    kind: str
    #: Units per minute.
    limit: float
    next_limit: float


class AccountRefusal(NamedTuple):
    """The reason for which the API accepts nothing from this account."""

    #: In one or two words: "spend limit", "key refused" ...
    reason: str
    #: The server's own words.
    message: str
    #: When access comes back, in the server's own words, or None.
    until: Optional[str]


class Feedback(NamedTuple):
    """The facts of a response, or of the lack of one, that matter to the pacer."""

    cause: str = ""
    #: Seconds the server asks us to wait, or None.
    retry_after: Optional[float] = None
    rate_limits: RateLimits = NO_RATE_LIMITS
    #: Which quota a rate refusal was about, if it says so.
    kind: Optional[str] = None
    growth: Optional[RampLimit] = None
    #: HTTP status, or None if nothing was answered.
    status: Optional[int] = None
    #: It will not be tried again.
    final: bool = False
    account: Optional[AccountRefusal] = None
    stated: Optional[StatedLimit] = None
    others: Optional[OtherLimits] = None

    @property
    def pauses_lane(self) -> bool:
        """Everything in the lane would be refused, too, and the server says until when."""
        return bool(self.retry_after) and self.cause in PAUSING


class ResponseReport(NamedTuple):
    """The outcome of a request that another client sent under a permit."""

    feedback: Feedback
    #: The server refused it, or nothing came back.
    refused: bool = False
    #: The server may have counted its tokens.
    keeps_tokens: bool = True
    #: Seconds that its sender would wait if the lane were not held up.
    wait_seconds: float = 0.0
    #: Whether another attempt makes sense; None leaves that to its sender.
    again: Optional[bool] = None
    #: A limit refused it before anything was done, and it may pass when its turn comes again.
    passes: bool = False
    #: What the pacer makes of a refusal.
    delay: Optional[RetryDelay] = None


class Decision(NamedTuple):
    """The instant at which a call may leave, and what it waits for."""

    #: The instant; now or earlier if it may leave at once, inf if that is not known yet.
    ready_at: float
    #: What names that instant: "rpm", "itpm (learned)", "pause", "circuit" …; "" if nothing does.
    constraint: str


#: The constraint of a call for which an instant has to be reserved in a shared store first.
RESERVATION = "reservation"


class Dispatch(NamedTuple):
    """When an attempt was dispatched, its sequence number, and what had left by then.

    Kept until the answer: its rate-limit headers are compared with what has left since.
    """

    #: The instant.
    at: float
    #: Counts the dispatches of one lane, from 1.
    number: int
    #: What each quota had seen leave by then, this attempt included.
    taken: Cost
    #: What of it left so shortly before that the server may see it later.
    recent: Cost
    #: Output tokens that had been produced and counted by then.
    produced: float
    #: It is the first after a pause.
    resumes: bool = False
    #: It tries whether the server is back.
    probes: bool = False


class Excess(NamedTuple):
    """What a refused call takes of a quota that is smaller than that."""

    #: "input tokens", "output tokens", "tokens".
    what: str
    #: What the call takes, or may take.
    units: float
    #: Units per period, and its seconds.
    limit: float
    per: float
    #: Attempts after which it is certain enough that the call can never pass.
    tries: int


class RetryDelay(NamedTuple):
    """The delay before a refused call may be sent again."""

    #: Seconds until it may queue again; inf: never.
    seconds: float
    #: Only this call waits; otherwise the lane does, and the call queues at once, at its own place.
    alone: bool
    #: It uses up none of the call's retries.
    free: bool = False
    #: The refusal would be final, but what it refuses has just worked: it is tried again.
    doubted: bool = False
    #: The call is larger than the limit that refused it.
    excess: Optional[Excess] = None

    def may_follow(self, attempt: int) -> bool:
        """Whether another attempt may pass after that one, counted from 1."""
        fits = self.excess is None or attempt < self.excess.tries
        return fits and self.seconds < math.inf


#: The delay of a call that no other try can help.
NEVER = RetryDelay(math.inf, alone=True)

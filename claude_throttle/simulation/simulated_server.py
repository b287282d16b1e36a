"""The server of a simulation: the same buckets as the fake API has, without sockets.

Its answers are :class:`Feedback`, what the transport would have read from a response. Wording and
headers of real responses are tested against the fake server in :mod:`claude_throttle.testing`.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Callable, NamedTuple, Optional

from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    Feedback,
    RampLimit,
    RateLimit,
    RateLimits,
    StatedLimit,
)
from claude_throttle.simulation.acceleration import RampRefusal
from claude_throttle.simulation.quotas import ADMISSION, ANSWER, ModelQuotas, SimulatedLimits

#: Tokens. The headers round ``remaining`` to the nearest thousand (rate-limit page, 2026-09).
TOKEN_STEP = 1000.0

#: A lost connection: a fault without a status.
RESET = "reset"


class SimulatedRequest(NamedTuple):
    """The figures of one request that matter to a server: sizes, and the time its answer takes."""

    input_tokens: float = 100.0
    output_tokens: float = 50.0
    max_tokens: int = 1000
    #: Seconds until it is answered, once it is admitted.
    latency: float = 0.2
    #: Input tokens as its sender estimates them from the text; ``None``: exactly right.
    guess: Optional[float] = None


class SeenRequest(NamedTuple):
    """One arrival in the server's log. Immutable."""

    at: float
    request: SimulatedRequest
    #: Why it was refused (a constant of core/domain/feedback.py); empty if it was admitted.
    cause: str


#: The instant of the answer, and a function that makes it at that instant.
Reply = tuple[float, Callable[[float], Feedback]]


class SimulatedServer:
    """Enforces quotas in virtual time; ``log`` holds every arrival, in order.

    *headers_at*: when the rate-limit headers are computed, "admission" or "answer". *overloaded*,
    *errors*, *resets*: shares of the requests that meet a 529, a 500, a lost connection. None of
    these takes anything from the quotas, as with the fake API. *hidden*: kinds of which no header
    tells, so that only the words of a refusal do.
    """

    def __init__(
        self,
        limits: SimulatedLimits,
        *,
        headers_at: str = ANSWER,
        overloaded: float = 0.0,
        errors: float = 0.0,
        resets: float = 0.0,
        hidden: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        if headers_at not in (ADMISSION, ANSWER):
            raise ValueError(f"headers_at must be {ADMISSION!r} or {ANSWER!r} (got {headers_at!r})")
        self.limits = limits
        self.quotas = ModelQuotas(limits, 0.0)
        self.log: list[SeenRequest] = []
        #: While set, every request is refused with it; the quotas do not count them.
        self.outage: Optional[Feedback] = None
        self.in_flight = 0
        self._at_answer = headers_at == ANSWER
        self._hidden = frozenset(hidden)
        self._shares = ((OVERLOAD, overloaded), (FAULT, errors), (RESET, resets))
        self._chance = random.Random(seed)

    def reshape(self, limits: SimulatedLimits, now: float) -> None:
        """Put other limits in force from *now* on."""
        self.limits = limits
        self.quotas.reshape(limits, now)

    def arrive(self, request: SimulatedRequest, now: float) -> Reply:
        """A request arrives at *now*: the instant of its answer, and what makes the answer then.

        The function must be called at that instant, once: it ends the request's time in flight and
        charges its output. A refusal is answered at once.
        """
        feedback = self._refusal(request, now)
        self.log.append(SeenRequest(now, request, feedback.cause if feedback else ""))
        if feedback is not None:
            return now, lambda _: feedback
        self.in_flight += 1
        stamped = self.rate_limits(now)

        def answer(at: float) -> Feedback:
            self.in_flight -= 1
            self.quotas.charge_output(request.output_tokens, at)
            return Feedback(rate_limits=self.rate_limits(at) if self._at_answer else stamped)

        return now + request.latency, answer

    def _refusal(self, request: SimulatedRequest, now: float) -> Optional[Feedback]:
        """Why a request is refused: an outage, a fault, concurrency or a quota, in this order."""
        fault = self._fault()
        if self.outage is not None:
            return self.outage
        if fault:
            return _broken(fault)
        most = self.limits.max_concurrency
        if most is not None and self.in_flight >= most:
            return Feedback(CONCURRENCY, None, self.rate_limits(now), status=429)
        return self._limited(request, now)

    def _fault(self) -> str:
        # Drawn for each request: an outage must not change what the seed brings afterwards.
        drawn = self._chance.random()
        for fault, share in self._shares:
            if drawn < share:
                return fault
            drawn -= share
        return ""

    def _limited(self, request: SimulatedRequest, now: float) -> Optional[Feedback]:
        refusal = self.quotas.admit(int(request.input_tokens), now)
        if refusal is None:
            return None
        kind, rate_limits = refusal.what.replace(" ", "_"), self.rate_limits(now)
        if isinstance(refusal, RampRefusal):
            growth = RampLimit(kind, refusal.per_minute, refusal.next_per_minute)
            return Feedback(RAMP, refusal.retry_after, rate_limits, kind, growth, status=429)
        stated = StatedLimit(kind, refusal.per_minute)
        return Feedback(RATE, refusal.retry_after, rate_limits, kind, status=429, stated=stated)

    def rate_limits(self, now: float) -> RateLimits:
        """The limits and remaining units that rate-limit headers would have at *now*."""
        standings = {one.name.replace("-", "_"): one for one in self.quotas.standings(now)}
        return {
            kind: RateLimit(one.per_minute, _shown(one.name, one.remaining))
            for kind, one in standings.items()
            if kind != "tokens" and kind not in self._hidden
        }


def _broken(fault: str) -> Feedback:
    if fault == RESET:
        return Feedback(FAULT)
    return Feedback(OVERLOAD, status=529) if fault == OVERLOAD else Feedback(FAULT, status=500)


def _shown(name: str, remaining: float) -> float:
    """*remaining* as the headers show it: whole requests, and tokens rounded to thousands."""
    if name == "requests":
        return float(remaining // 1)
    return round(remaining / TOKEN_STEP) * TOKEN_STEP

"""What the fake server decides: script, key, spend, concurrency, quotas, faults, in this order.

Everything here is safe to call from any thread; connections call it from the server's.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional, Union

from claude_throttle.flow.clock import Clock
from claude_throttle.testing import replies
from claude_throttle.testing.arrivals import Arrival, ArrivalLog
from claude_throttle.testing.faults import FaultDice, Ok, Reply, Scripted, SpendCap
from claude_throttle.testing.plans import Plan, Scene, plan_for
from claude_throttle.testing.quotas import Limits, ModelQuotas
from claude_throttle.testing.reading import SECRET_HEADERS, Call, read_call
from claude_throttle.testing.wire import Request

Latency = Union[float, Callable[[random.Random, dict[str, Any]], float]]
OutputTokens = Union[int, Callable[[random.Random, dict[str, Any]], int]]


@dataclass(frozen=True)
class Behaviour:
    """How the server answers; see :class:`claude_throttle.testing.FakeClaude`."""

    limits: Limits
    clock: Clock
    organization_id: str
    #: Seconds, or a function of a random source and the request's body that tells them.
    latency: Latency = 0.0
    output_tokens: OutputTokens = 20
    characters_per_token: float = 4.0
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    spend_cap_after: Optional[int] = None
    #: Seconds.
    overload_retry_after: Optional[int] = None
    seed: object = 0
    api_keys: Optional[Collection[str]] = None
    log_limit: Optional[int] = None


class Service:
    """The part of the server that knows no sockets."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._clock = behaviour.clock
        self.log = ArrivalLog(behaviour.log_limit)
        # Guards all below. Never held while calling the user's functions or waiting.
        self._lock = threading.Lock()
        self._limits = behaviour.limits
        self._quotas: dict[str, ModelQuotas] = {}
        self._script: deque[Scripted] = deque()
        seed = behaviour.seed
        self._dice = FaultDice(behaviour.fault_rates, seed, behaviour.overload_retry_after)
        self._ids = random.Random(f"ids {seed}")
        self._lengths = random.Random(f"lengths {seed}")
        self._in_flight = 0
        self._admitted = 0

    def script(self, *answers: Scripted) -> None:
        """Put *answers* at the end of what the next arrivals get."""
        for answer in answers:
            if plan_for.dispatch(type(answer)) is plan_for.dispatch(object):
                raise TypeError(f"{answer!r} is no scripted answer; see testing/faults.py")
        with self._lock:
            self._script.extend(answers)

    def limits(self, **changes: float | None) -> Limits:
        """Change what is named, from now on; returns what is in force."""
        with self._lock:
            now = self._clock.monotonic()
            self._limits = replace(self._limits, **changes)  # type: ignore[arg-type]
            for quotas in self._quotas.values():
                quotas.reshape(self._limits, now)
            return self._limits

    def answer(self, request: Request) -> Plan:
        """Decide what *request* gets, and write it in the log."""
        at = self._clock.monotonic()
        if request.method == "POST" and request.path == "/v1/messages":
            return self._message(request, at)
        if request.method == "POST" and request.path == "/v1/messages/count_tokens":
            return self._count(request)
        return self._plain(Reply(404, {"x-should-retry": "false"}, message="Not found"))

    def produced(self, model: str, output_tokens: float) -> None:
        """Charge *output_tokens* that were produced just now."""
        with self._lock:
            self._quotas_locked(model).charge_output(output_tokens, self._clock.monotonic())

    def ended(self, plan: Plan) -> None:
        """An answer was sent, or nobody is there any more to read it."""
        if plan.admitted:
            with self._lock:
                self._in_flight -= 1

    def broken(self) -> Plan:
        """The answer when a function given by the user raised."""
        message = "a function given to FakeClaude raised; the server's log tells more"
        return self._plain(Reply(500, message=message))

    def _message(self, request: Request, at: float) -> Plan:
        call = read_call(request, self._behaviour.characters_per_token, True)
        latency, output_tokens = self._drawn(call)
        # Critical section: decide whether it is let in.
        with self._lock:
            decided, charged = self._decide_locked(call, at)
            scene = self._scene_locked(call, at, latency, output_tokens, charged)
            plan = plan_for(decided, scene)
            self._in_flight += plan.admitted
            self._admitted += plan.admitted
            self.log.add(_arrival(request, call, plan, at, self._in_flight))
        return plan

    def _drawn(self, call: Call) -> tuple[float, int]:
        if call.problem is not None:
            return 0.0, 0
        latency, tokens = self._behaviour.latency, self._behaviour.output_tokens
        seconds = latency(self._lengths, call.body) if callable(latency) else latency
        count = tokens(self._lengths, call.body) if callable(tokens) else tokens
        return max(0.0, seconds), min(max(0, int(count)), call.max_tokens)

    def _decide_locked(self, call: Call, now: float) -> tuple[Scripted, bool]:
        """What the call gets, and whether its output is charged. Requires _lock."""
        fault = self._dice.roll()
        if self._script:
            return self._script.popleft(), False
        refusal = self._refusal_locked(call, now)
        return refusal or fault or Ok(), refusal is None and self._limits.otpm is not None

    def _refusal_locked(self, call: Call, now: float) -> Scripted | None:
        """Requires _lock."""
        keys, cap = self._behaviour.api_keys, self._behaviour.spend_cap_after
        if call.problem is not None:
            return call.problem
        if keys is not None and call.key not in keys:
            return Reply(401, message="invalid x-api-key")
        if cap is not None and self._admitted >= cap:
            return SpendCap()
        most = self._limits.max_concurrency
        if most is not None and self._in_flight >= most:
            return replies.TOO_MANY_CONNECTIONS
        refusal = self._quotas_locked(call.model).admit(call.input_tokens, now)
        if refusal is None:
            return None
        return replies.refusal_reply(refusal, self._behaviour.organization_id, call.model)

    def _quotas_locked(self, model: str) -> ModelQuotas:
        """Requires _lock."""
        if model not in self._quotas:
            self._quotas[model] = ModelQuotas(self._limits, self._clock.monotonic())
        return self._quotas[model]

    def _scene_locked(
        self, call: Call, now: float, latency: float, output_tokens: int, charged: bool
    ) -> Scene:
        """Requires _lock."""
        request_id, message_id = self._id_locked("req"), self._id_locked("msg")
        wall = self._clock.wall()
        edge = {"date": replies.http_date(wall), "server": "cloudflare"}
        headers = {**edge, "content-type": "application/json", "request-id": request_id}
        headers["anthropic-organization-id"] = self._behaviour.organization_id
        if call.model:
            standings = self._quotas_locked(call.model).standings(now)
            headers.update(replies.rate_limit_headers(standings, wall))
        return Scene(call, request_id, message_id, headers, edge, latency, output_tokens, charged)

    def _id_locked(self, prefix: str) -> str:
        """Requires _lock."""
        return f"{prefix}_01{self._ids.getrandbits(88):022x}"

    def _count(self, request: Request) -> Plan:
        call = read_call(request, self._behaviour.characters_per_token, False)
        if call.problem is not None:
            return self._plain(call.problem)
        body = replies.to_json({"input_tokens": call.input_tokens})
        return self._plain(Reply(200, body=body))

    def _plain(self, answer: Scripted) -> Plan:
        nothing = Call({}, "", 0, 0, "", False, "", None)
        with self._lock:
            scene = self._scene_locked(nothing, self._clock.monotonic(), 0.0, 0, False)
        # Only messages are in flight.
        return plan_for(answer, scene)._replace(admitted=False)


def _arrival(request: Request, call: Call, plan: Plan, at: float, in_flight: int) -> Arrival:
    headers = request.headers.copy()
    for name in SECRET_HEADERS:
        headers.pop(name, None)
    return Arrival(
        at,
        call.model,
        call.input_tokens,
        plan.output_tokens,
        plan.status,
        call.nonce,
        headers,
        plan.admitted,
        call.key[-4:],
        in_flight,
    )

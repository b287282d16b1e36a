"""What the fake server decides: outage, script, key, spend, concurrency, quotas, faults, in order.

Everything here is safe to call from any thread; connections call it from the server's.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

from claude_throttle.simulation.quotas import ANSWER, ModelQuotas, SimulatedLimits
from claude_throttle.testing import rate_limits_api, replies
from claude_throttle.testing.accounts import KEY_REFUSED
from claude_throttle.testing.arrivals import MESSAGES, Arrival, ArrivalLog
from claude_throttle.testing.behaviour import Behaviour
from claude_throttle.testing.fake_batches import PATH as BATCHES
from claude_throttle.testing.fake_batches import FakeBatches
from claude_throttle.testing.faults import FaultDice, Ok, Reply, Reset, Scripted, SpendCap
from claude_throttle.testing.plans import Head, Plan, Scene, plan_for
from claude_throttle.testing.reading import SECRET_HEADERS, ReceivedCall, read_call
from claude_throttle.testing.wire import HttpRequest

#: Where the tokens of a prompt are counted.
COUNT = "/v1/messages/count_tokens"


class Service:
    """The part of the server that knows no sockets."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._clock = behaviour.clock
        self.log = ArrivalLog(behaviour.log_limit)
        #: What came to other places than messages.
        self.other_log = ArrivalLog(behaviour.log_limit)
        self.batches = FakeBatches(behaviour)
        # Guards all below. Never held while calling the user's functions or waiting.
        self._lock = threading.Lock()
        self._limits = behaviour.limits
        self._quotas: dict[str, ModelQuotas] = {}
        self._counting = ModelQuotas(_of_counting(self._limits), self._clock.monotonic())
        self._script: deque[Scripted] = deque()
        self._outage: Optional[Scripted] = None
        seed = behaviour.seed
        self._dice = FaultDice(behaviour.fault_rates, seed, behaviour.overload_retry_after)
        self._ids = random.Random(f"ids {seed}")
        self._lengths = random.Random(f"lengths {seed}")
        self._in_flight = 0
        self._admitted = 0

    def script(self, *answers: Scripted) -> None:
        """Put *answers* at the end of what the next arrivals get."""
        for answer in answers:
            _must_be_known(answer)
        with self._lock:
            self._script.extend(answers)

    def outage(self, reply: Scripted | None) -> None:
        """Answer every message with *reply* until told ``None``."""
        if reply is not None:
            _must_be_known(reply)
        with self._lock:
            self._outage = reply

    def faults(self, rates: Mapping[str, float]) -> None:
        """Roll with these probabilities from now on."""
        with self._lock:
            self._dice.reweigh(rates)

    def limits(self, **changes: float | None) -> SimulatedLimits:
        """Change what is named, from now on; returns what is in force."""
        with self._lock:
            now = self._clock.monotonic()
            self._limits = replace(self._limits, **changes)  # type: ignore[arg-type]
            for quotas in self._quotas.values():
                quotas.reshape(self._limits, now)
            self._counting.reshape(_of_counting(self._limits), now)
            return self._limits

    def others_taken(self) -> int:
        """Requests somebody else was let in with, over all buckets."""
        with self._lock:
            now = self._clock.monotonic()
            for quotas in self._quotas.values():
                quotas.catch_up(now)
            return sum(quotas.others_taken for quotas in self._quotas.values())

    def answer(self, request: HttpRequest) -> Plan:
        """Decide what *request* gets, and write it in the log."""
        at = self._clock.monotonic()
        place = (request.method, request.path)
        if place == ("POST", MESSAGES):
            return self._message(request, at)
        if place == ("POST", COUNT):
            return self._count(request, at)
        if place == ("GET", rate_limits_api.PATH):
            return self._rate_limits(request, at)
        if request.path.startswith(BATCHES):
            return self._plain(self.batches.answer(request, at))
        return self._plain(Reply(404, {"x-should-retry": "false"}, message="Not found"))

    def late_head(self, model: str, head: Head) -> bytes:
        """The head of an answer that is sent now."""
        with self._lock:
            wall = self._clock.wall()
            told = self._told_locked(model, self._clock.monotonic(), wall)
        headers = {**head.headers, "date": replies.http_date(wall), **told}
        return replies.encode_head(head.status, headers)

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

    def _message(self, request: HttpRequest, at: float) -> Plan:
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

    def _drawn(self, call: ReceivedCall) -> tuple[float, int]:
        if call.problem is not None:
            return 0.0, 0
        latency, tokens = self._behaviour.latency, self._behaviour.output_tokens
        seconds = latency(self._lengths, call.body) if callable(latency) else latency
        count = tokens(self._lengths, call.body) if callable(tokens) else tokens
        return max(0.0, seconds), min(max(0, int(count)), call.max_tokens)

    def _decide_locked(self, call: ReceivedCall, now: float) -> tuple[Scripted, bool]:
        """What the call gets, and whether its output is charged. Requires _lock."""
        # Also when it is not asked: an outage must not change what the seed says afterwards.
        fault = self._dice.roll()
        if self._outage is not None:
            return self._outage, False
        if self._script:
            return self._script.popleft(), False
        refusal = self._refusal_locked(call, fault, now)
        return refusal or fault or Ok(), refusal is None and self._limits.otpm is not None

    def _refusal_locked(
        self, call: ReceivedCall, fault: Scripted | None, now: float
    ) -> Scripted | None:
        """Requires _lock."""
        told, cap = self._behaviour, self._behaviour.spend_cap_after
        problem = self._problem(call)
        if problem is not None:
            return problem
        if _is_at_the_edge(fault):
            return fault  # it does not get as far as the quotas
        if cap is not None and self._admitted >= cap:
            return SpendCap()
        most = self._limits.max_concurrency
        if most is not None and self._in_flight >= most:
            return replies.too_many_connections(
                told.concurrency_retry_after, told.concurrency_should_retry
            )
        refusal = self._quotas_locked(call.model).admit(call.input_tokens, now)
        if refusal is None:
            return None
        return replies.refusal_reply(refusal, told.organization_id, call.model)

    def _problem(self, call: ReceivedCall) -> Scripted | None:
        if call.problem is not None or self._behaviour.lets_in(call.key):
            return call.problem
        return KEY_REFUSED

    def _quotas_locked(self, model: str) -> ModelQuotas:
        """Requires _lock."""
        bucket = self._behaviour.bucket_of(model)
        if bucket not in self._quotas:
            self._quotas[bucket] = ModelQuotas(self._limits, self._clock.monotonic())
        return self._quotas[bucket]

    def _scene_locked(
        self, call: ReceivedCall, now: float, latency: float, output_tokens: int, charged: bool
    ) -> Scene:
        """Requires _lock."""
        request_id, message_id = self._id_locked("req"), self._id_locked("msg")
        wall = self._clock.wall()
        edge = {"date": replies.http_date(wall), "server": "cloudflare"}
        headers = {**edge, "content-type": "application/json", "request-id": request_id}
        headers["anthropic-organization-id"] = self._behaviour.organization_id
        headers.update(self._told_locked(call.model, now, wall))
        late = self._behaviour.headers_at == ANSWER
        return Scene(
            call, request_id, message_id, headers, edge, latency, output_tokens, charged, late
        )

    def _told_locked(self, model: str, now: float, wall: float) -> dict[str, str]:
        """The headers about limits. Requires _lock."""
        if not model:
            return {}
        return replies.rate_limit_headers(self._quotas_locked(model).standings(now), wall)

    def _id_locked(self, prefix: str) -> str:
        """Requires _lock."""
        return f"{prefix}_01{self._ids.getrandbits(88):022x}"

    def _count(self, request: HttpRequest, at: float) -> Plan:
        call = read_call(request, self._behaviour.characters_per_token, False)
        decided = self._problem(call) or self._count_refusal(call, at)
        if decided is None:
            decided = Reply(200, body=replies.to_json({"input_tokens": call.input_tokens}))
        return self._aside(decided, request, call, at)

    def _count_refusal(self, call: ReceivedCall, at: float) -> Reply | None:
        with self._lock:
            refusal = self._counting.admit(call.input_tokens, at)
        if refusal is None:
            return None
        return replies.refusal_reply(refusal, self._behaviour.organization_id, call.model)

    def _rate_limits(self, request: HttpRequest, at: float) -> Plan:
        call = read_call(request, self._behaviour.characters_per_token, False)
        with self._lock:
            shared = self._behaviour.shared_models
            found = rate_limits_api.entries(self._limits, shared, self._quotas)
        decided: Scripted = KEY_REFUSED
        if self._behaviour.administers(call.key):
            decided = rate_limits_api.answer(found, request.query)
        return self._aside(decided, request, call, at)

    def _aside(
        self, decided: Scripted, request: HttpRequest, call: ReceivedCall, at: float
    ) -> Plan:
        plan = self._plain(decided)
        seen = plan._replace(admitted=plan.status == 200)
        self.other_log.add(_arrival(request, call, seen, at, 0))
        return plan

    def _plain(self, answer: Scripted) -> Plan:
        nothing = ReceivedCall({}, "", 0, 0, "", False, "", None)
        with self._lock:
            scene = self._scene_locked(nothing, self._clock.monotonic(), 0.0, 0, False)
        # Only messages are in flight.
        return plan_for(answer, scene)._replace(admitted=False)


def _is_at_the_edge(fault: Scripted | None) -> bool:
    """A 500, a 529, or a connection reset before any byte: nothing was done, nothing is charged."""
    if isinstance(fault, Reset):
        return fault.after_bytes == 0
    return isinstance(fault, Reply) and fault.status >= 500


def _arrival(
    request: HttpRequest, call: ReceivedCall, plan: Plan, at: float, in_flight: int
) -> Arrival:
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
        request.path,
    )


def _of_counting(limits: SimulatedLimits) -> SimulatedLimits:
    return SimulatedLimits(rpm=limits.count_rpm, burst=limits.count_burst)


def _must_be_known(answer: object) -> None:
    if plan_for.dispatch(type(answer)) is plan_for.dispatch(object):
        raise TypeError(f"{answer!r} is no scripted answer; see testing/faults.py")

"""The decisions of the fake server: outage, script, key, spend, concurrency, quotas and faults.

Everything is thread-safe; connections call it from the server's thread, and tests change it from
theirs. No sockets here: :mod:`connection` has them. The order of the checks matters to clients: a
request that is refused for its key, or fails in front of the quotas (500, 529, reset), uses none of
them, and a quota that is used up hides the other faults.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Optional, Union

from claude_throttle.core.domain.models import FAST
from claude_throttle.simulation.quotas import ANSWER, ModelQuotas, SimulatedLimits
from claude_throttle.testing import rate_limits_api, replies
from claude_throttle.testing.arrivals import MESSAGES, Arrival, ArrivalLog
from claude_throttle.testing.behaviour import Behaviour
from claude_throttle.testing.computed import Computed
from claude_throttle.testing.fake_batches import PATH as BATCHES
from claude_throttle.testing.fake_batches import FakeBatches
from claude_throttle.testing.faults import (
    FaultSampler,
    Ok,
    Reply,
    Reset,
    Scripted,
    SpendCap,
    refuses,
)
from claude_throttle.testing.http_reader import HttpRequest
from claude_throttle.testing.plans import Head, ResponseContext, ResponsePlan, plan_for
from claude_throttle.testing.received_call import SECRET_HEADERS, ReceivedCall, read_call
from claude_throttle.testing.refusals import KEY_REFUSED

#: The path that counts the tokens of a prompt.
COUNT = "/v1/messages/count_tokens"


class Service:
    """The part of the server without sockets. Thread-safe.

    One lock guards all state, so that a decision and its entry in the log are one step: entries are
    in the order of the decisions, and ``in_flight`` in them is exact.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._clock = behaviour.clock
        self.log = ArrivalLog(behaviour.log_limit)
        #: Requests to other endpoints than messages.
        self.other_log = ArrivalLog(behaviour.log_limit)
        self.batches = FakeBatches(behaviour)
        # Guards all below. Not held while the user's functions are called.
        self._lock = threading.Lock()
        self._limits = behaviour.limits
        self._quotas: dict[str, ModelQuotas] = {}
        self._counting = ModelQuotas(_of_counting(self._limits), self._clock.monotonic())
        self._script: deque[Union[Scripted, Computed]] = deque()
        #: The last function whose turn has come: it answers what has no script of its own.
        self._function: Optional[Computed] = None
        self._outage: Optional[Scripted] = None
        seed = behaviour.seed
        self._faults = FaultSampler(behaviour.fault_rates, seed, behaviour.overload_retry_after)
        self._ids = random.Random(f"ids {seed}")
        self._lengths = random.Random(f"lengths {seed}")
        self._in_flight = 0
        self._admitted = 0

    def script(self, *answers: Union[Scripted, Computed]) -> None:
        """Append *answers* to the script for the next arrivals."""
        for answer in answers:
            if not isinstance(answer, Computed):
                _require_scripted(answer)
        with self._lock:
            self._script.extend(answers)

    def outage(self, reply: Scripted | None) -> None:
        """Answer every message with *reply*; ``None`` ends that."""
        if reply is not None:
            _require_scripted(reply)
        with self._lock:
            self._outage = reply

    def faults(self, rates: Mapping[str, float]) -> None:
        """Replace the probabilities of faults."""
        with self._lock:
            self._faults.set_rates(rates)

    def change_limits(self, **changes: float | None) -> SimulatedLimits:
        """Change the named limits of every bucket; return all limits in force.

        Raises TypeError for an unknown name, from ``dataclasses.replace``.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._limits = replace(self._limits, **changes)  # type: ignore[arg-type]
            for bucket, quotas in self._quotas.items():
                quotas.reshape(self._behaviour.limits_of(bucket, self._limits), now)
            self._counting.reshape(_of_counting(self._limits), now)
            return self._limits

    def others_taken(self) -> int:
        """Admitted requests of the other client, over all buckets, up to now.

        Its requests are not sent: they are computed when a bucket is used, and here.
        """
        with self._lock:
            now = self._clock.monotonic()
            for quotas in self._quotas.values():
                quotas.catch_up(now)
            return sum(quotas.others_taken for quotas in self._quotas.values())

    def answer(self, request: HttpRequest) -> ResponsePlan:
        """Decide the response to *request*, and log it."""
        at = self._clock.monotonic()
        endpoint = (request.method, request.path)
        if endpoint == ("POST", MESSAGES):
            return self._message(request, at)
        if endpoint == ("POST", COUNT):
            return self._count(request, at)
        if endpoint == ("GET", rate_limits_api.PATH):
            return self._rate_limits(request, at)
        if request.path.startswith(BATCHES):
            return self._plain(self.batches.answer(request, at))
        return self._plain(Reply(404, {"x-should-retry": "false"}, message="Not found"))

    def late_head(self, model: str, head: Head) -> bytes:
        """Encode *head* with the rate-limit headers of the moment its response is sent."""
        with self._lock:
            wall = self._clock.wall()
            limits = self._limit_headers_locked(model, self._clock.monotonic(), wall)
        headers = {**head.headers, "date": replies.http_date(wall), **limits}
        return replies.encode_head(head.status, headers)

    def produced(self, model: str, output_tokens: float) -> None:
        """Charge *output_tokens*, which were produced just now."""
        with self._lock:
            self._quotas_locked(model).charge_output(output_tokens, self._clock.monotonic())

    def ended(self, plan: ResponsePlan) -> None:
        """The response was sent, or its connection was closed."""
        if plan.admitted:
            with self._lock:
                self._in_flight -= 1

    def broken(self) -> ResponsePlan:
        """The response if a function of the user raised."""
        message = "a function given to FakeClaude raised; the log has its traceback"
        return self._plain(Reply(500, message=message))

    def _message(self, request: HttpRequest, at: float) -> ResponsePlan:
        call = read_call(request, self._behaviour.characters_per_token, True)
        latency, output_tokens = self._drawn(call)
        with self._lock:
            decided, charged = self._decide_locked(call, at)
        if isinstance(decided, Computed):
            decided, charged = self._computed(decided, call, charged, at)
        # Only the server's thread decides, so the log has the order of the decisions.
        with self._lock:
            context = self._context_locked(call, at, latency, output_tokens, charged)
            plan = plan_for(decided, context)
            self._in_flight += plan.admitted
            self._admitted += plan.admitted
            self.log.append(_arrival(request, call, plan, at, self._in_flight))
        return plan

    def _drawn(self, call: ReceivedCall) -> tuple[float, int]:
        """Seconds and output tokens of a response. Calls the user's functions, so no lock is held.

        Nothing is drawn for an invalid request: a function of the user may rely on the body's
        fields.
        """
        if call.problem is not None:
            return 0.0, 0
        latency, tokens = self._behaviour.latency, self._behaviour.output_tokens
        seconds = latency(self._lengths, call.body) if callable(latency) else latency
        count = tokens(self._lengths, call.body) if callable(tokens) else tokens
        return max(0.0, seconds), max(0, int(count))

    def _computed(
        self, computed: Computed, call: ReceivedCall, charged: bool, now: float
    ) -> tuple[Scripted, bool]:
        """The answer of a function, called without the lock. A refusal uses no quota."""
        answer = computed.scripted_for(call.body)
        if refuses(answer):
            return answer, False
        with self._lock:
            self._quotas_locked(call.limited_as).admit(call.input_tokens, now)
        return answer, charged

    def _decide_locked(
        self, call: ReceivedCall, now: float
    ) -> tuple[Union[Scripted, Computed], bool]:
        """The answer to the call, and whether its output is charged. Requires _lock."""
        # Drawn for each call, needed or not: an outage must not change the later draws of a seed.
        fault = self._faults.draw()
        if self._outage is not None:
            return self._outage, False
        scripted = self._script[0] if self._script else self._function
        if scripted is not None:
            fault = None
            if refuses(scripted):
                self._script.popleft()
                return scripted, False
        # A function relies on the fields of a valid request; other scripts ask the quotas alone.
        take = not isinstance(scripted, Computed)
        problem = self._problem(call) if scripted is None or not take else None
        refusal = problem or self._refusal_locked(call, fault, now, take)
        if refusal is not None:
            return refusal, False  # a scripted answer waits for the next request
        if self._script:
            self._script.popleft()
            self._function = scripted if isinstance(scripted, Computed) else self._function
        return scripted or fault or Ok(), self._limits.otpm is not None or call.is_fast

    def _refusal_locked(
        self, call: ReceivedCall, fault: Scripted | None, now: float, take: bool
    ) -> Scripted | None:
        """Why a valid call is refused, by the first check that it fails; None if it is admitted.

        With *take* it has used the quotas then. Requires _lock.
        """
        behaviour, cap = self._behaviour, self._behaviour.spend_cap_after
        if _precedes_quotas(fault):
            return fault  # such a request does not reach the quotas
        if cap is not None and self._admitted >= cap:
            return SpendCap()
        most = self._limits.max_concurrency
        if most is not None and self._in_flight >= most:
            return replies.too_many_connections(
                behaviour.concurrency_retry_after, behaviour.concurrency_should_retry
            )
        is_fast = call.is_fast and behaviour.fast is not None
        refusal = (behaviour.refuses_fast() if is_fast else None) or self._quotas_locked(
            call.limited_as
        ).admit(call.input_tokens, now, take)
        if refusal is None:
            return None
        return replies.refusal_reply(refusal, behaviour.organization_id, call.model, is_fast)

    def _problem(self, call: ReceivedCall) -> Scripted | None:
        if call.problem is not None or self._behaviour.is_valid_key(call.key):
            return call.problem
        return KEY_REFUSED

    def _quotas_locked(self, model: str) -> ModelQuotas:
        """The quotas of the bucket of *model*, created full when it is first used.

        Requires _lock.
        """
        bucket = self._behaviour.bucket_of(model)
        if bucket not in self._quotas:
            limits = self._behaviour.limits_of(bucket, self._limits)
            self._quotas[bucket] = ModelQuotas(limits, self._clock.monotonic())
        return self._quotas[bucket]

    def _context_locked(
        self, call: ReceivedCall, now: float, latency: float, output_tokens: int, charged: bool
    ) -> ResponseContext:
        """Put together the data that a response is made of; draws its two ids. Requires _lock."""
        request_id, message_id = self._id_locked("req"), self._id_locked("msg")
        wall = self._clock.wall()
        edge = {"date": replies.http_date(wall), "server": "cloudflare"}
        headers = {**edge, "content-type": "application/json", "request-id": request_id}
        headers["anthropic-organization-id"] = self._behaviour.organization_id
        headers.update(self._limit_headers_locked(call.limited_as, now, wall))
        late = self._behaviour.headers_at == ANSWER
        return ResponseContext(
            call, request_id, message_id, headers, edge, latency, output_tokens, charged, late
        )

    def _limit_headers_locked(self, model: str, now: float, wall: float) -> dict[str, str]:
        """The rate-limit headers. Requires _lock."""
        if not model:
            return {}
        fast = self._behaviour.fast
        if fast is not None and model.endswith(FAST):
            own = replies.rate_limit_headers(
                self._quotas_locked(model).standings(now), wall, "anthropic-fast"
            )
            plain = self._limit_headers_locked(model[: -len(FAST)], now, wall)
            return {**plain, **own, **replies.no_fast_headers(fast)}
        hidden = self._behaviour.hidden_limits
        told = [one for one in self._quotas_locked(model).standings(now) if one.name not in hidden]
        headers = replies.rate_limit_headers(told, wall)
        return replies.spelled(headers, self._behaviour.limit_headers)

    def _id_locked(self, prefix: str) -> str:
        """An id that looks like the API's, drawn from the seed: runs can be compared.

        Requires _lock.
        """
        return f"{prefix}_01{self._ids.getrandbits(88):022x}"

    def _count(self, request: HttpRequest, at: float) -> ResponsePlan:
        call = read_call(request, self._behaviour.characters_per_token, False)
        decided = self._problem(call) or self._count_refusal(call, at)
        if decided is None:
            decided = Reply(200, body=replies.to_json({"input_tokens": call.input_tokens}))
        return self._log_other(decided, request, call, at)

    def _count_refusal(self, call: ReceivedCall, at: float) -> Reply | None:
        with self._lock:
            refusal = self._counting.admit(call.input_tokens, at)
        if refusal is None:
            return None
        return replies.refusal_reply(refusal, self._behaviour.organization_id, call.model)

    def _rate_limits(self, request: HttpRequest, at: float) -> ResponsePlan:
        call = read_call(request, self._behaviour.characters_per_token, False)
        with self._lock:
            shared = self._behaviour.shared_models
            found = rate_limits_api.entries(self._limits, shared, self._quotas)
        decided: Scripted = KEY_REFUSED
        if self._behaviour.is_admin_key(call.key):
            decided = rate_limits_api.answer(found, request.query)
        return self._log_other(decided, request, call, at)

    def _log_other(
        self, decided: Scripted, request: HttpRequest, call: ReceivedCall, at: float
    ) -> ResponsePlan:
        """Plan and log the response to a request that is not a message, in the other log.

        :attr:`arrivals` has only messages, so tests of the pace need not filter them.
        """
        plan = self._plain(decided)
        seen = plan._replace(admitted=plan.status == 200)
        self.other_log.append(_arrival(request, call, seen, at, 0))
        return plan

    def _plain(self, answer: Scripted) -> ResponsePlan:
        nothing = ReceivedCall({}, "", 0, 0, "", False, "", None)
        with self._lock:
            context = self._context_locked(nothing, self._clock.monotonic(), 0.0, 0, False)
        # Only messages are in flight.
        return plan_for(answer, context)._replace(admitted=False)


def _precedes_quotas(fault: Scripted | None) -> bool:
    """Whether *fault* is a 500, a 529 or an immediate reset, which use no quota."""
    if isinstance(fault, Reset):
        return fault.after_bytes == 0
    return isinstance(fault, Reply) and fault.status >= 500


def _arrival(
    request: HttpRequest, call: ReceivedCall, plan: ResponsePlan, at: float, in_flight: int
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
        request.query,
    )


def _of_counting(limits: SimulatedLimits) -> SimulatedLimits:
    return SimulatedLimits(rpm=limits.count_rpm, burst=limits.count_burst)


def _require_scripted(answer: object) -> None:
    """Raise TypeError now, in the thread that scripts, and not later in the server's thread."""
    if plan_for.dispatch(type(answer)) is plan_for.dispatch(object):
        raise TypeError(f"{answer!r} is not a scripted answer; see claude_throttle.testing.faults")

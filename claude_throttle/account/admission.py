"""Requests that others send: the official SDK, a session of the caller's, the caller's own code.

Each attempt is admitted like a call of ours, and what came of it is heard like one.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Callable, Optional

from claude_throttle.account.model_group import ModelGroup, RequestEstimate
from claude_throttle.account.suspensions import Suspensions
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.permit import AdmissionOptions, Permit, PermitTicket
from claude_throttle.core.domain.cost import NO_USAGE, Cost, Usage
from claude_throttle.core.domain.feedback import AccountRefusal, ResponseReport
from claude_throttle.core.estimation.input_tokens import estimate_input_tokens
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.core.threads.clock import Clock
from claude_throttle.errors import Closed
from claude_throttle.transport.endpoints import BATCHES_PATH, COUNT_PATH, MESSAGES_PATH
from claude_throttle.transport.foreign_verdicts import report_of, report_of_error
from claude_throttle.transport.verdicts import read_json, read_usage

logger = logging.getLogger("claude_throttle")


#: What has a quota of requests beside the models': the names of their lanes.
COUNTS = "count_tokens"
BATCHES = "batches"

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

#: Of what costs no tokens.
ONE_REQUEST = Cost(1.0, 0.0, 0.0)


class Admission:
    """Of one process. Thread-safe."""

    def __init__(
        self,
        model_group: Callable[[str], ModelGroup],
        open_permits: OpenPermits,
        numbers: itertools.count[int],
        access: Suspensions,
        proofs: Iterable[str],
        make_endpoint_lane: Callable[[str], Lane],
        clock: Clock,
    ) -> None:
        self.pid = os.getpid()
        self._model_group = model_group
        self._make_endpoint_lane = make_endpoint_lane
        # Guards the four below. Never held while calling out, but to make a lane.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        # Of what has a quota beside the models', by name.
        self._endpoint_lanes: dict[str, Lane] = {}
        self._at_end: list[Callable[[], None]] = []
        self._closed = self._held = False
        self._open_permits = open_permits
        self._numbers = numbers
        self._access = access
        # Keys and tokens of the throttler's own.
        self._proofs = frozenset(proofs)
        self._clock = clock

    def permit(self, model: str, cost: Cost, terms: AdmissionOptions) -> Permit:
        """Wait for the right to send one request; nobody may ever say how it ended."""
        return self._permit(self._model_group(model).lane, cost, terms, answers=False)

    def admit_request(
        self, method: str, path: str, read_body: Callable[[], Any], terms: AdmissionOptions
    ) -> Optional[AdmittedAttempt]:
        """Wait until a request may be sent; None if it is nothing that has a pace.

        Raises what submit() and call() raise of ours.
        """
        if BATCHES_PATH in path:
            return self.admit_endpoint(BATCHES, terms)
        if method.upper() != "POST":
            return None
        if path.endswith(MESSAGES_PATH):
            body = read_body()
            return self.admit(body, terms) if isinstance(body, dict) else None
        return self.admit_endpoint(COUNTS, terms) if path.endswith(COUNT_PATH) else None

    def admit(self, body: Mapping[str, Any], terms: AdmissionOptions) -> Optional[AdmittedAttempt]:
        """The same for a Messages request; None if it has no model."""
        estimate = _read(body)
        if estimate is None:
            return None  # the API will say what is wrong with it
        model_group = self._model_group(estimate.model)
        cost = model_group.fitting_cost(*estimate)
        return AdmittedAttempt(
            self._permit(model_group.lane, cost, terms, answers=True), model_group, estimate, self
        )

    def admit_endpoint(self, name: str, terms: AdmissionOptions) -> AdmittedAttempt:
        """The same for what has a quota of requests of its own, and takes no tokens of others'."""
        lane = self._endpoint_lane(name)
        return AdmittedAttempt(
            self._permit(lane, ONE_REQUEST, terms, answers=True), None, None, self
        )

    def _endpoint_lane(self, name: str) -> Lane:
        with self._lock:
            if self._closed:
                raise Closed("the throttler is closed; make a new one to go on")
            if name not in self._endpoint_lanes:
                lane = self._endpoint_lanes[name] = self._make_endpoint_lane(name)
                if self._held:
                    lane.pause()
            return self._endpoint_lanes[name]

    def at_end(self, tell: Callable[[], None]) -> None:
        """*tell* is called, with no lock held, when this is closed: perhaps at once."""
        with self._lock:
            self._at_end.append(tell)
            closed = self._closed
        if closed:
            tell()

    def hold(self, held: bool) -> None:
        """Stop or go on letting leave what has a quota of its own."""
        with self._lock:
            self._held = held
            lanes = list(self._endpoint_lanes.values())
        for lane in lanes:
            lane.pause() if held else lane.resume()

    def close(self) -> None:
        """Accept no more of that, and refuse what waits."""
        with self._lock:
            self._closed = True
            lanes, told = list(self._endpoint_lanes.values()), list(self._at_end)
        for lane in lanes:
            lane.close()
            lane.reject_all(Closed("the throttler was closed"))
        for tell in told:
            tell()

    def _permit(self, lane: Lane, cost: Cost, terms: AdmissionOptions, answers: bool) -> Permit:
        timeout, now = terms.timeout, self._clock.monotonic()
        seats = self._open_permits.mine_by_age
        # A probe makes sense only if its end is heard.
        probes = self._access.require(lane.name, probes=answers)
        turn = PermitTicket(
            answers,
            next(self._numbers),
            cost,
            terms.priority,
            terms.tenant,
            None if timeout is None else now + timeout,
            OpenPermits.last_of(seats),
        )
        permit = Permit(turn, lane, seats, self)
        if probes:
            lane.admit_probe(turn)
        permit.acquire()
        return permit

    def report(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]
    ) -> ResponseReport:
        """The same of a request that was *sent* with those headers: perhaps with another key."""
        report = self.read(status, headers, body)
        if report.feedback.account is None or self._is_our_proof(sent):
            return report
        return report._replace(feedback=report.feedback._replace(cause="", account=None))

    def _is_our_proof(self, sent: Mapping[str, str]) -> bool:
        """What another key is refused for need not be true of ours; without one, it is theirs."""
        if not self._proofs:
            return True
        found = {sent.get("x-api-key"), (sent.get("authorization") or "").partition(" ")[2]}
        return not found.isdisjoint(self._proofs)

    # -- what permits hear -----------------------------------------------------------------------

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> ResponseReport:
        """What an answer says to whoever keeps the pace."""
        return report_of(status, headers, body, self._clock.wall())

    def account_refused(self, lane: str, refusal: AccountRefusal) -> None:
        """Nothing is accepted from this account."""
        self._access.suspend_lane(lane, refusal, None)

    def answered(self, lane: str, left_at: float) -> None:
        """What left at that instant was accepted."""
        self._access.answered_in(lane, left_at, None)


class AdmittedAttempt:
    """One attempt of a request, from its permit to its end. Owned by whoever sends it.

    Whatever fails in here is logged and not raised: the answer was paid for.
    """

    __slots__ = ("_admission", "_estimate", "_model_group", "_permit")

    def __init__(
        self,
        permit: Permit,
        model_group: Optional[ModelGroup],
        estimate: Optional[RequestEstimate],
        admission: Admission,
    ) -> None:
        self._permit = permit
        self._model_group = model_group
        self._estimate = estimate
        self._admission = admission

    def head(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]
    ) -> None:
        """The answer has begun; *body* is a refusal's, *sent* the request's headers."""
        try:
            self._permit.hear(self._admission.report(status, headers, body, sent))
        except Exception:
            logger.exception("what an answer said was not understood; this is a bug")

    def answered(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes = b"",
        sent: Mapping[str, str] = NO_HEADERS,
        usage: Optional[Usage] = None,
    ) -> None:
        """The whole answer is there: the end of it. *usage*: if its *body* was read already."""
        try:
            if usage is None and status == 200:
                answer = read_json(body)
                usage = read_usage(answer) if isinstance(answer, dict) else None
            self._permit.hear(self._admission.report(status, headers, body, sent), usage)
            if usage is not None:
                self._learn(usage)
        except Exception:
            logger.exception("what an answer said was not understood; this is a bug")
        finally:
            self._permit.close()

    def failed(self, error: BaseException) -> None:
        """No answer came: the end of it."""
        try:
            if isinstance(error, Exception):  # else it was cut off by whoever waited
                self._permit.hear(report_of_error(error))
        finally:
            self._permit.close()

    def not_sent(self) -> None:
        """It took nothing: the end of it."""
        self._permit.book(NO_USAGE)
        self._permit.close()

    def end(self, usage: Optional[Usage], whole: bool) -> None:
        """A stream has ended, the *whole* of it or in the midst."""
        try:
            if usage is not None:
                self._permit.book(usage, ended=whole)
            if usage is not None and whole:
                self._learn(usage)
        finally:
            self._permit.close()

    def drop(self, usage: Optional[Usage]) -> None:
        """The same in the midst, without a lock: for the garbage collector."""
        self._permit.drop(usage)

    def _learn(self, usage: Usage) -> None:
        if self._model_group is not None and self._estimate is not None:
            self._model_group.learn(self._estimate, usage)


def _read(body: Mapping[str, Any]) -> Optional[RequestEstimate]:
    model, max_tokens = body.get("model"), body.get("max_tokens")
    if not isinstance(model, str) or not model:
        return None
    try:
        guess = estimate_input_tokens(body)
    except Exception:  # noqa: BLE001 - a shape we do not know is the API's to judge
        guess = 1.0
    return RequestEstimate(
        model, guess, max_tokens if type(max_tokens) is int and max_tokens > 0 else 1
    )

"""Admission without the wire: for requests that the SDK, a session or the caller's code sends.

Each attempt waits for its turn like a call, and its response counts like the response to a call.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Callable, Optional

from claude_throttle.account.model_groups import ModelGroup, RequestEstimate
from claude_throttle.account.suspensions import Suspensions
from claude_throttle.core.dispatch.accounting import MOST_PROBES
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.permit import (
    AdmissionOptions,
    Permit,
    PermitTicket,
    RepeatedPermitTicket,
)
from claude_throttle.core.domain.cost import NO_USAGE, Cost, RequestSize, Usage
from claude_throttle.core.domain.feedback import FAULT, Dispatch, Feedback, ResponseReport
from claude_throttle.core.domain.models import FAST_SPEED
from claude_throttle.core.estimation.estimator import estimate_input_tokens, has_cache_mark
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.error_watch import (
    errors_are_watched,
    note_error,
    take_back_error,
)
from claude_throttle.errors import THROTTLER_CLOSED, Closed, ThrottleError
from claude_throttle.transport.api_refusals import NO_CONNECTION, ApiRefusal, response_refusal
from claude_throttle.transport.endpoints import BATCHES_PATH, COUNT_PATH, MESSAGES_PATH
from claude_throttle.transport.foreign_outcomes import checked, outcome_of
from claude_throttle.transport.foreign_verdicts import report_of, report_of_error
from claude_throttle.transport.verdicts import read_json, read_usage

logger = logging.getLogger("claude_throttle")


#: The lanes of endpoints that have a quota of requests apart from the models' quotas.
COUNTS = "count_tokens"
BATCHES = "batches"

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

# Half of what NamedTuple's own constructor takes; two in each request.
_new = tuple.__new__

#: The cost of a request that uses no tokens.
ONE_REQUEST = Cost(1.0, 0.0, 0.0)


class Admission:
    """Admits the requests that other clients send with one account. Thread-safe."""

    def __init__(
        self,
        model_group: Callable[..., ModelGroup],
        open_permits: OpenPermits,
        numbers: itertools.count[int],
        suspensions: Suspensions,
        proofs: Iterable[str],
        make_endpoint_lane: Callable[[str], Lane],
        deferred_closer: DeferredCloser,
        clock: Clock,
        own_usage: Callable[[str, Usage], Usage],
        turned_away: Callable[[str, ThrottleError], None],
    ) -> None:
        """*own_usage*: what of a usage is a lane's own; it books the rest where it belongs."""
        self.pid = os.getpid()
        self._model_group = model_group
        self._make_endpoint_lane = make_endpoint_lane
        # Guards the four below. Never held while calling out, except to make a lane.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        # By name.
        self.endpoint_lanes: dict[str, Lane] = {}
        self._at_end: list[Callable[[], None]] = []
        self._closed = self._held = False
        # Requests of other clients are refused from now on; what was begun here goes on.
        self._drained = False
        self._open_permits = open_permits
        self._numbers = numbers
        self._suspensions = suspensions
        # The account's own keys and tokens.
        self._proofs = frozenset(proofs)
        self._deferred_closer = deferred_closer
        self._clock = clock
        self.own_usage = own_usage
        self._turned_away = turned_away
        # Emptied by the first permit that ends unsettled: list.pop() is atomic.
        self._unsaid = [True]

    def permit(self, model: str, cost: Cost, options: AdmissionOptions) -> Permit:
        """Wait for the right to send one request, whose outcome may never be reported."""
        try:
            return self._permit(self._model_group(model).lane, cost, options, answers=False)
        except ThrottleError as error:
            self._note_refusal(model, error)
            raise

    def admit_request(
        self, method: str, path: str, read_body: Callable[[], Any], options: AdmissionOptions
    ) -> Optional[AdmittedAttempt]:
        """Wait until a request may be sent; None if it has no quota.

        Raises our own exceptions, as submit() and call() do.
        """
        is_post, name = method.upper() == "POST", ""
        if BATCHES_PATH in path:
            name = BATCHES
        elif is_post and path.endswith(MESSAGES_PATH):
            body = read_body()
            return self.admit(body, options) if isinstance(body, dict) else None
        elif is_post and path.endswith(COUNT_PATH):
            name = COUNTS
        if not name:
            return None
        if self._drained:
            error = Closed(THROTTLER_CLOSED)
            self._note_refusal(name, error)
            raise error
        return self.admit_endpoint(name, options)

    def admit(
        self, body: Mapping[str, Any], options: AdmissionOptions
    ) -> Optional[AdmittedAttempt]:
        """Wait until a Messages request may be sent; None if it names no model."""
        estimate = _estimate_of(body)
        if estimate is None:
            return None  # the API will say what is wrong with it
        try:
            is_fast = body.get("speed") == FAST_SPEED
            model_group = self._model_group(estimate.model, is_fast)
            cost = model_group.fitting_cost(*estimate)
            permit = self._permit(model_group.lane, cost, options, answers=True)
        except ThrottleError as error:
            self._note_refusal(estimate.model, error)
            raise
        _model, tokens, most, marked, _counted = estimate
        permit.ticket.size = _new(RequestSize, (tokens, most, False, marked))
        return AdmittedAttempt(permit, model_group.lane, model_group, estimate, self)

    def admit_endpoint(self, name: str, options: AdmissionOptions) -> AdmittedAttempt:
        """Wait until a request to an endpoint with a quota of its own may be sent."""
        try:
            lane = self._endpoint_lane(name)
            permit = self._permit(lane, ONE_REQUEST, options, answers=True)
        except ThrottleError as error:
            self._note_refusal(name, error)
            raise
        return AdmittedAttempt(permit, lane, None, None, self)

    def _endpoint_lane(self, name: str) -> Lane:
        with self._lock:
            if self._closed:
                raise Closed(THROTTLER_CLOSED)
            if name not in self.endpoint_lanes:
                lane = self.endpoint_lanes[name] = self._make_endpoint_lane(name)
                if self._held:
                    lane.pause()
            return self.endpoint_lanes[name]

    def lanes(self) -> list[Lane]:
        """The lanes of the endpoints that were used so far."""
        return list(self.endpoint_lanes.values())

    def at_end(self, tell: Callable[[], None]) -> None:
        """Call *tell*, with no lock held, when this is closed; at once if it is closed already."""
        with self._lock:
            self._at_end.append(tell)
            closed = self._closed
        if closed:
            tell()

    def hold(self, held: bool) -> None:
        """Stop letting requests to those endpoints leave, or go on."""
        with self._lock:
            self._held = held
        for lane in self.lanes():
            lane.pause() if held else lane.resume()

    def refuse_new(self) -> None:
        """Accept no more requests of other clients; a batch that was begun here is asked for."""
        self._drained = True

    def close(self) -> None:
        """Accept no more requests to those endpoints, and reject those that wait."""
        with self._lock:
            self._closed = True
            told = list(self._at_end)
        for lane in self.lanes():
            lane.close()
            lane.reject_all(Closed("the throttler was closed"))
        for tell in told:
            tell()

    def _note_refusal(self, asked: str, error: ThrottleError) -> None:
        """A request for a model, or for an endpoint, was turned away."""
        note_error(error)
        self._turned_away(asked, error)

    def permit_again(self, lane: Lane, cost: Cost, refused: PermitTicket) -> Permit:
        """Wait for the right to send a refused request again, in the time that it has left.

        Raises as permit() does.
        """
        timeout = None
        if refused.deadline is not None:
            timeout = max(0.0, refused.deadline - self._clock.monotonic())
        options = AdmissionOptions(refused.priority, refused.tenant, timeout)
        return self._permit(lane, cost, options, answers=True, refused=refused)

    def _permit(
        self,
        lane: Lane,
        cost: Cost,
        options: AdmissionOptions,
        answers: bool,
        refused: Optional[PermitTicket] = None,
    ) -> Permit:
        timeout, now = options.timeout, self._clock.monotonic()
        slots = self._open_permits.mine()
        # A slice: another thread may close the last one between two looks.
        [parent_slot] = slots[-1:] or (None,)
        # A probe makes sense only if its outcome is reported.
        probes = self._suspensions.require(lane.name, probes=answers)
        ticket = (PermitTicket if refused is None else RepeatedPermitTicket)(
            answers,
            next(self._numbers) if refused is None else refused.number,
            cost,
            options.priority,
            options.tenant,
            None if timeout is None else now + timeout,
            parent_slot,
        )
        if timeout is not None:
            ticket.place_in = (lane.name, timeout)
        if refused is not None:
            ticket.tag, ticket.size = refused.tag, refused.size
        permit = Permit(ticket, lane, slots, self, self._deferred_closer)
        if probes:
            lane.admit_probe(ticket)
        permit.acquire()
        return permit

    def report(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]
    ) -> ResponseReport:
        """What the response to a request that was *sent* with those headers says to the pacer."""
        report = report_of(status, headers, body, self._clock.wall())
        if report.feedback.account is None or self._is_our_proof(sent):
            return report
        return report._replace(feedback=report.feedback._replace(cause="", account=None))

    def _is_our_proof(self, sent: Mapping[str, str]) -> bool:
        """Whether the request carried our key: a refusal of another key says nothing of ours."""
        if not self._proofs:
            return True
        found = {sent.get("x-api-key"), (sent.get("authorization") or "").partition(" ")[2]}
        return not found.isdisjoint(self._proofs)

    # -- for permits -----------------------------------------------------------------------------

    def read_outcome(
        self, response: Any, usage: Any, headers: Any, status: Any, body: Any
    ) -> tuple[Optional[ResponseReport], Optional[Usage]]:
        """What a permit was settled with says to the pacer. Raises TypeError."""
        if response is None and (usage, headers, status) != (None, None, None):
            response = ...
        told = outcome_of(response)
        usage, headers, status, body = checked(usage, headers, status, body)
        usage = told.usage if usage is None else usage
        headers = told.headers if headers is None else headers
        status = told.status if status is None else status
        if headers is None and status is None:
            return None if told.error is None else report_of_error(told.error), usage
        headers, status = headers or NO_HEADERS, 200 if status is None else status
        if told.sent is not None:
            return self.report(status, headers, body or told.body, told.sent), usage
        return report_of(status, headers, body or told.body, self._clock.wall()), usage

    def permit_unsettled(self) -> None:
        """Say once that a permit ended and nothing was learned; the recorder counts each."""
        with contextlib.suppress(IndexError):  # said already
            self._unsaid.pop()
            logger.warning(
                "a permit ended without settle(): its estimate stays booked, and nothing was "
                "learned. Write permit.settle(response) in its block, with the answer or the "
                "error. stats().permits_unsettled counts them"
            )

    def weigh_refusal(self, lane: str, feedback: Feedback, dispatch: Dispatch) -> Feedback:
        """The API refused the account itself: what the pacer has to take it for."""
        return self._suspensions.weigh(lane, feedback, dispatch)._replace(final=True)

    def request_accepted(self, lane: str, left_at: float) -> None:
        """The API accepted a request that left at that instant."""
        self._suspensions.answered_in(lane, left_at, None)


class AdmittedAttempt:
    """One attempt of a request, from its permit to its end. Owned by the thread that sends it.

    Errors in here are logged and not raised: the answer was paid for.
    """

    __slots__ = (
        "_admission",
        "_estimate",
        "_lane",
        "_model_group",
        "_noted",
        "_number",
        "_permit",
        "_report",
        "_resends",
        "again",
        "wire_time",
    )

    def __init__(
        self,
        permit: Permit,
        lane: Lane,
        model_group: Optional[ModelGroup],
        estimate: Optional[RequestEstimate],
        admission: Admission,
    ) -> None:
        self._permit = permit
        self._lane = lane
        self._model_group = model_group
        self._estimate = estimate
        self._admission = admission
        self._report: Optional[ResponseReport] = None
        self._noted = False
        # Attempts so far, and those of them that count as retries.
        self._number, self._resends = 1, 0
        #: Whether another attempt makes sense after its response; None leaves that to its sender.
        self.again: Optional[bool] = None
        #: Told of each read, by whoever reads the response.
        self.wire_time = permit.wire_time

    def arrived(self) -> None:
        """The response is there, or its head, and nothing was made of it yet."""
        if self.wire_time is not None:
            self.wire_time.end_read()

    def head(
        self, status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]
    ) -> None:
        """The response has begun; *body* is a refusal's, *sent* the request's headers."""
        try:
            self._noted = _note(status, headers, body, sent)
            report = self._admission.report(status, headers, body, sent)
            self._report = report = self._permit.settle_report(report)
            self.again = report.again
        except Exception:
            logger.exception("a response was not understood; this is a bug")

    def answered(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes = b"",
        sent: Mapping[str, str] = NO_HEADERS,
        usage: Optional[Usage] = None,
    ) -> None:
        """The whole response is there: close. *usage*: if its *body* was read already."""
        try:
            self._noted = _note(status, headers, body, sent)
            if usage is None and status == 200:
                answer = read_json(body)
                usage = read_usage(answer) if isinstance(answer, dict) else None
            usage = self._own(usage)
            report = self._admission.report(status, headers, body, sent)
            self._report = report = self._permit.settle_report(report, usage)
            if usage is not None:
                self._learn(usage)
            self.again = report.again
        except Exception:
            logger.exception("a response was not understood; this is a bug")
        finally:
            self._permit.close()

    def next_turn(self, max_retries: int) -> Optional[AdmittedAttempt]:
        """Wait until the request may be sent again; None if its refusal is the answer to it.

        A limit that only time mends has refused it, and it was sent again less than *max_retries*
        times. Whatever ends the wait, the API's own word is there to be shown.
        """
        report = self._report
        delay = None if report is None or not report.passes else report.delay
        if delay is None or report is None or not delay.may_follow(self._number):
            return None
        is_free = delay.free and self._number <= MOST_PROBES and max_retries > 0
        resends = self._resends if is_free else self._resends + 1
        wait_seconds = report.wait_seconds if delay.alone else delay.seconds
        deadline = self._permit.ticket.deadline
        in_time = deadline is None or self._lane.now() + wait_seconds < deadline
        if resends > max_retries or not in_time:
            return None
        try:
            if delay.alone:
                self._lane.rest(wait_seconds)
            following = self._following(resends)
        except ThrottleError:
            return None
        if self._noted:
            take_back_error()
        return following

    def _following(self, resends: int) -> AdmittedAttempt:
        cost, group = ONE_REQUEST, self._model_group
        if group is not None and self._estimate is not None:
            cost = group.fitting_cost(*self._estimate)
        permit = self._admission.permit_again(self._lane, cost, self._permit.ticket)
        made = AdmittedAttempt(permit, self._lane, group, self._estimate, self._admission)
        made._number, made._resends = self._number + 1, resends
        return made

    def failed(self, error: BaseException) -> None:
        """No response came: close."""
        try:
            if isinstance(error, Exception):  # otherwise the waiting thread cut it off
                report = report_of_error(error)
                if report.feedback.cause == FAULT:
                    note_error(ApiRefusal(NO_CONNECTION))
                self._permit.settle_report(report)
        finally:
            self._permit.close()

    def not_sent(self) -> None:
        """It was not sent and took nothing: close."""
        self._permit.settle_usage(NO_USAGE)
        self._permit.close()

    def body_ended(self, usage: Optional[Usage], whole: bool) -> None:
        """A streamed body ended, read to its end (*whole*) or not."""
        try:
            usage = self._own(usage)
            if usage is not None:
                self._permit.settle_usage(usage, ended=whole)
            if usage is not None and whole:
                self._learn(usage)
        finally:
            self._permit.close()

    def body_dropped(self, usage: Optional[Usage]) -> None:
        """A streamed body was dropped before its end. Takes no lock: the collector calls it."""
        self._permit.drop(usage)

    def _own(self, usage: Optional[Usage]) -> Optional[Usage]:
        group = self._model_group
        if usage is None or group is None or type(usage) is Usage:
            return usage
        return self._admission.own_usage(group.lane.name, usage)

    def _learn(self, usage: Usage) -> None:
        if self._model_group is not None and self._estimate is not None:
            self._model_group.learn(self._estimate, usage)


def _note(status: int, headers: Mapping[str, str], body: bytes, sent: Mapping[str, str]) -> bool:
    """Note a refusal for who watches errors: its sender makes the exception, if any is made.

    The official SDK counts in a header how often it has sent the request before. Returns whether
    there was one to note.
    """
    if not errors_are_watched():
        return False
    if sent.get("x-stainless-retry-count", "0") != "0":
        take_back_error()
    refusal = response_refusal(status, headers, body) if status >= 400 else None
    if refusal is not None:
        note_error(refusal)
    return refusal is not None


def _estimate_of(body: Mapping[str, Any]) -> Optional[RequestEstimate]:
    model, max_tokens = body.get("model"), body.get("max_tokens")
    if not isinstance(model, str) or not model:
        return None
    tokens, marked = 1.0, False
    try:
        tokens = estimate_input_tokens(body)
        marked = has_cache_mark(body)
    except Exception:  # noqa: BLE001, S110 - a shape we do not know is the API's to judge
        pass
    most = max_tokens if type(max_tokens) is int and max_tokens > 0 else 1
    return _new(RequestEstimate, (model, tokens, most, marked, False))

"""Everything that belongs to one API key: lanes, limits, suspensions, and the way to the API."""

from __future__ import annotations

import itertools
import logging
import math
import queue
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Protocol

from claude_throttle.account import refusal_messages
from claude_throttle.account.admission import BATCHES, Admission
from claude_throttle.account.endpoint_lanes import endpoint_lane
from claude_throttle.account.model_groups import ModelGroup, ModelGroups, SharedQuotas
from claude_throttle.account.suspensions import Suspensions
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call, Outcome, in_progress
from claude_throttle.core.dispatch.drain import wait_until_done
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.core.domain.cost import Cost, Usage
from claude_throttle.core.domain.events import Event, PausedByHand, ResumedByHand
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.error_watch import note_error
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed, ThrottleError
from claude_throttle.transport import sdk
from claude_throttle.transport.headers import brings_own_proof
from claude_throttle.transport.request import PreparedRequest
from claude_throttle.transport.transport import Transport

if TYPE_CHECKING:
    from claude_throttle.account.limits import Limits
    from claude_throttle.account.rate_limits_api import OrganizationLimits
    from claude_throttle.transport.http import HttpTransport

logger = logging.getLogger("claude_throttle")

#: Who holds everything back: pause() in this process, or pause(everywhere=True) in any.
HERE, EVERYWHERE = "here", "everywhere"

#: Seconds that stopped calls are given to end by themselves before they are ended from outside.
GRACE_SECONDS = 1.0


class ProcessResources(NamedTuple):
    """What all accounts of one process use together."""

    clock: Clock
    thread_pool: ThreadPool
    #: Tells the counters, the log and the listener of an event; the call it is about, if any.
    observe: Callable[[Event, Optional[Call]], None]
    #: Counts and logs a refusal at the door, by the model or endpoint that was asked for.
    turned_away: Callable[[str, ThrottleError], None]
    #: Seconds from send to answer, of the median call.
    median_latency: Callable[[], float]
    #: The permits that each thread holds open.
    open_permits: OpenPermits
    #: Closes what the garbage collector found open.
    deferred_closer: DeferredCloser
    #: Of calls and permits, from 1.
    numbers: itertools.count[int]


class AccountCoordinator(SharedQuotas, Protocol):
    """Keeps an account in step with other processes that use the same key."""

    def wants_slot(self) -> None:
        """A call waits for a slot. May be called with a lane's mutex held."""
        ...

    def too_many(self) -> None:
        """The API refused one more request in flight. Called with no lock held."""
        ...

    def publish_suspensions(self, notice: str) -> None:
        """Tell the other processes what is suspended."""
        ...

    def pause_all(self, paused: bool) -> None:
        """Pause all processes that share the account, or let them go on."""
        ...

    def look_soon(self) -> None:
        """Somebody looks: ask the store soon for what an idle process is not told."""
        ...

    def close(self) -> None:
        """Report what is left, and leave the store."""
        ...

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection. Takes no lock."""
        ...


class CallCounter(Protocol):
    """Has the API count a call's input tokens before the call is queued."""

    #: The lane of the counting endpoint.
    lane: Lane

    def start_count(self, lane: Lane, call: Call) -> None:
        """Count *call*, then place it in its own *lane*."""
        ...

    def close(self) -> None:
        """Count no more; calls that wait for their count are placed with their estimate."""
        ...


class Account:
    """One API key and everything that belongs to it. Thread-safe; belongs to one process.

    *transport* sends calls; *http*, if there is a network, asks for the organization's limits.
    *share* makes the coordinator where the key's quotas are shared with other processes.
    *max_connections*: the account's part of the connections that the process may have.
    """

    def __init__(
        self,
        settings: Settings,
        resources: ProcessResources,
        transport: Transport,
        *,
        http: Optional[HttpTransport] = None,
        counter: Optional[CallCounter] = None,
        share: Optional[Callable[[Account], AccountCoordinator]] = None,
        max_connections: float = math.inf,
    ) -> None:
        self._settings = settings
        self._resources = resources
        #: Who holds everything back now. Without a lock: see _follow_holds().
        self._holds: set[str] = set()
        self._is_ending = False
        self.transport = transport
        self._counter = counter
        self.limiter = ConcurrencyLimiter(
            settings.max_concurrency,
            probing=not settings.tells_rate,
            interactive_share=settings.interactive_share,
            max_connections=max_connections,
            wants_slot=self._wants_slot,
            too_many=self._too_many,
        )
        self.coordinator = None if share is None else share(self)
        self.suspensions = Suspensions(
            self.lanes,
            resources.observe,
            resources.clock,
            self._publish_suspensions,
            self._answered_at,
            lambda call: self.model_groups.has_answered(call),
        )
        self.model_groups = ModelGroups(
            settings,
            self.limiter,
            resources.thread_pool,
            resources.clock,
            self._send_call,
            resources.observe,
            self.suspensions.weigh_call,
            self.coordinator,
        )
        #: Admits what other clients send with this key.
        self.admission = Admission(
            self.model_group,
            resources.open_permits,
            resources.numbers,
            self.suspensions,
            filter(None, (settings.api_key, settings.auth_token)),
            self._endpoint_lane,
            resources.deferred_closer,
            resources.clock,
            self.model_groups.own_usage,
            resources.turned_away,
        )
        self._organization_limits = self._make_organization_limits(http)

    def _make_organization_limits(
        self, http: Optional[HttpTransport]
    ) -> Optional[OrganizationLimits]:
        if http is None or not self._settings.admin_key or self._settings.is_cloud:
            return None
        from claude_throttle.account.rate_limits_api import OrganizationLimits  # rarely needed

        return OrganizationLimits(
            self._settings, http, self.model_groups, self._resources.thread_pool
        )

    def _endpoint_lane(self, name: str) -> Lane:
        if self._counter is not None and self._counter.lane.name == name:
            return self._counter.lane
        resources, shared = self._resources, self.coordinator if name == BATCHES else None
        return endpoint_lane(
            name, self._settings, resources.thread_pool, resources.clock, shared=shared
        )

    # -- calls -----------------------------------------------------------------------------------

    def model_group(self, model: str, is_fast: bool = False) -> ModelGroup:
        """The group that *model*, or its fast mode, belongs to. Raises :class:`Closed`."""
        if self._organization_limits is not None:
            self._organization_limits.ask_once()
        return self.model_groups.of(model, is_fast)

    def lanes(self) -> list[Lane]:
        """The lanes of all models that were asked for so far."""
        return self.model_groups.lanes()

    def every_lane(self) -> list[Lane]:
        """Those, and the lanes of the endpoints that were used: whoever waits is in one of them."""
        return self.lanes() + self.admission.lanes()

    def shared_lanes(self) -> list[Lane]:
        """The lanes whose quotas are shared with other processes, if any are."""
        batches = self.admission.endpoint_lanes.get(BATCHES)
        return self.lanes() if batches is None else [*self.lanes(), batches]

    def _answered_at(self, lane: str) -> float:
        """The instant of the last answer in *lane*, or in any if it is ""; -inf without one."""
        found = [one.pacer.answered_at for one in self.every_lane() if lane in ("", one.name)]
        return max(found, default=-math.inf)

    def admit(self, request: PreparedRequest, _next: object = None) -> Future[Any]:
        """Queue a call for *request* in its lane: the last stage, so *_next* is not called.

        Raises what :meth:`Throttler.submit` raises.
        """
        try:
            group = self.model_group(request.model, request.is_fast)
            version = group.estimator.version
            cost = group.fitting_cost(
                request.model, request.estimated_input, request.max_tokens, request.cache_marked
            )
            cost = group.stretched(cost, request.max_tokens)
            call = self._make_call(request, group.lane, cost, version)
            if request.admitted_streams is not None:
                request.admitted_streams.append(call)
            headers = request.extra_headers
            own_key = headers is not None and brings_own_proof(headers)
            if own_key or self.suspensions.require(group.lane.name):
                group.lane.admit_probe(call)
            count = (
                None if self._counter is None else partial(self._counter.start_count, group.lane)
            )
            try:
                group.lane.put(call, request.block, count)
            except queue.Full:
                seconds, backlog = self.seconds_until_leave(group, cost), group.lane.backlog
                raise refusal_messages.no_place(call, backlog, seconds, request.block) from None
            return call.future
        except ThrottleError as error:
            self._turn_away(request, error)
            raise

    def _turn_away(self, request: PreparedRequest, error: ThrottleError) -> None:
        note_error(error)
        streams = request.admitted_streams
        # Not admitted after all: its caller need not end it, and no listener knows of it.
        if streams and not (streams[-1].takes_place or streams[-1].has_left):
            streams.pop()
        self._resources.turned_away(request.model, error)

    def _make_call(
        self, request: PreparedRequest, lane: Lane, cost: Cost, price_version: int
    ) -> Call:
        resources = self._resources
        kind = Call if request.admitted_streams is None else StreamCall
        return kind(
            number=next(resources.numbers),
            cost=cost,
            price_version=price_version,
            callbacks=lane.callbacks,
            body=request.body,
            model=request.model,
            max_tokens=request.max_tokens,
            estimated_input=request.estimated_input,
            cache_marked=request.cache_marked,
            submitted_at=resources.clock.monotonic(),
            priority=request.priority,
            tenant=request.tenant,
            timeout=request.timeout,
            parent_slot=resources.open_permits.last(),
            raw=request.raw,
            extra_headers=request.extra_headers,
            context=request.context,
            query=request.query,
        )

    def _send_call(self, call: Call) -> None:
        """Send a call that has left, and settle it. Runs in a sender thread."""
        calls = in_progress.mine()
        calls.append(call)
        try:
            outcome = self._outcome_of(call)
        except BaseException as error:  # noqa: BLE001 - whatever happens, its future is resolved
            outcome = Outcome(error=error)
        if isinstance(outcome.error, sdk.LateError):
            self._finish_after_import(call, outcome, outcome.error)
        else:
            call.finish(outcome)
        if call in calls:
            calls.remove(call)

    def _finish_after_import(self, call: Call, outcome: Outcome, late: sdk.LateError) -> None:
        """End it when its error can be made; hold no permit and no sender until then."""
        if call.attempt is not None:
            lane = self.model_groups.of_call(call).lane
            lane.accounting.release(call.attempt, keep_tokens=not outcome.refused)
            # Should its deadline pass meanwhile: what was refused is not billed.
            call.attempt.on_the_wire = not outcome.refused

        run = self._resources.thread_pool.run
        # Each in a sender of its own: a done-callback may wait for another call.
        sdk.after_import(lambda: run(lambda: call.finish(outcome._replace(error=late.build()))))

    def _outcome_of(self, call: Call) -> Outcome:
        if not call.raw:
            sdk.begin_import()
        call.future.set_running_or_notify_cancel()
        attempts = call.attempt
        if attempts is None or call.sent_at is None:  # the lane sets both as it leaves
            raise RuntimeError("a call was carried before it left")
        call.callbacks.announce(attempts)
        outcome = self.transport.send(call, attempts)
        usage = outcome.usage
        if usage is not None:
            if type(usage) is not Usage:
                usage = self.model_groups.own_usage(call.callbacks.lane, usage)
                outcome = outcome._replace(usage=usage)
            self.model_groups.learn(call, usage)
        if outcome.error is None:
            self.suspensions.answered(call, attempts.dispatch.at)
        return outcome

    def limits_snapshot(self) -> Limits:
        """What is known of each lane's limits; an endpoint's lane while anybody is in it."""
        from claude_throttle.account.limits import state_of  # only for those who look

        why = self.suspensions.suspension
        limits = self.model_groups.limits_snapshot(why)
        limits.paused_everywhere = EVERYWHERE in self._holds
        if self.coordinator is not None:
            self.coordinator.look_soon()
        for lane in self.admission.lanes():
            with lane.mutex:
                state = state_of(lane, lane.pacer, why(lane.name))
            if state.waiting or state.in_flight:
                limits[lane.name] = state
        return limits

    def seconds_until_leave(self, model_group: ModelGroup, cost: Cost) -> float:
        """Seconds that a call of that cost, queued now, would wait."""
        latency = self._resources.median_latency()
        return model_group.seconds_until_leave(cost, self.limiter, latency)

    # -- other processes -------------------------------------------------------------------------
    # The coordinator is made from what calls these, so each looks it up when it is called.

    def _wants_slot(self) -> None:
        if self.coordinator is not None:
            self.coordinator.wants_slot()

    def _too_many(self) -> None:
        if self.coordinator is not None:
            self.coordinator.too_many()

    def _publish_suspensions(self, notice: str) -> None:
        if self.coordinator is not None:
            self.coordinator.publish_suspensions(notice)

    def apply_suspensions(self, notice: str) -> None:
        """Another process says what is suspended."""
        self.suspensions.apply(notice)

    # -- steering --------------------------------------------------------------------------------

    def pause(self, paused: bool, everywhere: bool) -> None:
        """pause() or resume() was called, which ends suspensions, too; tell of what it changed."""
        if not paused:
            self.suspensions.restore()
        if everywhere and self.coordinator is not None:
            self.coordinator.pause_all(paused)
            if paused:
                return
        if not self.hold(paused):
            return
        kind = PausedByHand if paused else ResumedByHand
        self._resources.observe(kind(everywhere=False), None)
        if paused and self.coordinator is not None:
            logger.warning(
                "pause() holds this process only; those that share its store go on: "
                "pause(everywhere=True) holds them, too"
            )

    def hold(self, held: bool, by: str = HERE) -> bool:
        """Stop letting requests leave, or go on if nobody else holds them; whether that is new."""
        was = by in self._holds
        self._holds.add(by) if held else self._holds.discard(by)
        self._follow_holds()
        return was is not held

    def is_paused(self) -> bool:
        """Whether pause() was called in this process."""
        return HERE in self._holds

    def let_go(self) -> None:
        """End all pauses for this process, for good: it finishes what it has accepted."""
        self._is_ending = True
        self._follow_holds()

    # No lock, since a signal handler may call pause(): whoever changes something looks again when
    # it is done, so the last one to look has seen the last change.
    def _follow_holds(self) -> None:
        held: Optional[bool] = None
        while held is not (now := bool(self._holds) and not self._is_ending):
            held = now
            self.model_groups.pause(held)
            self.admission.hold(held)
            if self._counter is not None:
                self._counter.lane.pause() if held else self._counter.lane.resume()

    def reconfigure(self, settings: Settings) -> None:
        """Keep to other quotas and bounds from now on."""
        self._settings = settings
        self.model_groups.reconfigure(settings)
        self.limiter.interactive_share = settings.interactive_share
        self.limiter.set_told(settings.max_concurrency, settings.tells_rate)

    # -- the end ---------------------------------------------------------------------------------

    def wait_until_done(self, timeout: Optional[float]) -> int:
        """Wait until no call is left, *timeout* seconds at most; return how many are."""
        now = self._resources.clock.monotonic
        return wait_until_done(self.lanes(), now, timeout, refusal_messages.closed)

    def refuse_new(self) -> None:
        """Accept no more calls; those that were accepted go on."""
        self.model_groups.close()
        self.admission.refuse_new()

    def cancel_waiting(self) -> None:
        """Cancel the calls that have not been sent."""
        for lane in self.lanes():
            lane.cancel_waiting(Closed("the throttler was closed"))

    def close(self) -> None:
        """End everything that is left, and free what the account holds."""
        self.admission.close()
        if self._counter is not None:
            self._counter.close()
        self._end_the_rest()
        if self.coordinator is not None:
            self.coordinator.close()

    def _end_the_rest(self) -> None:
        for lane in self.lanes():
            # Permits that wait, too: they are no calls, so no drain waited for them.
            lane.reject_all(Closed("the throttler was closed before this call could leave"))
            lane.stop_all(refusal_messages.closed)
        if self.wait_until_done(GRACE_SECONDS):
            # A sender may be stuck where nothing reaches it, in a name lookup; its caller is not.
            for call in self._unsettled():
                if call not in in_progress.mine():
                    call.reject(refusal_messages.closed(call))

    def _unsettled(self) -> Iterable[Call]:
        return (call for lane in self.lanes() for call in lane.unsettled())

    def abandon(self) -> None:
        """In a forked child: end our copies of the parent's futures. Takes no lock."""
        for call in self._unsettled():
            call.abandon(refusal_messages.forked(call))
        self.transport.abandon()
        if self.coordinator is not None:
            self.coordinator.abandon()

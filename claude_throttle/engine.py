"""What a throttler owns in one process: lanes, senders, the wire, the counters.

Made on the first use in each process and never inherited: after a fork, locks may be held by
threads that are not there, and a shared socket can hand one process another's answer.
"""

from __future__ import annotations

import itertools
import os
import queue
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

from claude_throttle.account import refusal_messages as refusals
from claude_throttle.account.admission import Admission
from claude_throttle.account.model_group import ModelGroup
from claude_throttle.account.model_groups import ModelGroups
from claude_throttle.account.suspensions import Suspensions
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.drain import wait_until_done
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.settlement import Outcome, in_progress, mark_in_progress, settle
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.estimation.input_tokens import estimate_input_tokens
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed, ConfigurationError
from claude_throttle.metrics.event_bus import EventBus, Listener
from claude_throttle.metrics.recorder import Recorder, Stats
from claude_throttle.transport import sdk
from claude_throttle.transport.headers import brings_own_proof
from claude_throttle.transport.http import HttpTransport
from claude_throttle.transport.request import PreparedRequest, require_options, serialise
from claude_throttle.transport.transport import Transport

if TYPE_CHECKING:
    from claude_throttle.account.admission import Admission
    from claude_throttle.account.limits import Limits
    from claude_throttle.account.rate_limits_api import OrganizationLimits
    from claude_throttle.account.suspensions import Suspensions
    from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
    from claude_throttle.features.batches.client import BatchClient
    from claude_throttle.features.sharing.coordinator import Coordinator
    from claude_throttle.features.streaming.message_stream import MessageStream
    from claude_throttle.features.token_counting.counter import TokenCounter
    from claude_throttle.metrics.history import HistoryInterval

AnyCall = TypeVar("AnyCall", bound=Call)

#: Seconds that stopped calls are given to end by themselves before they are ended from outside.
GRACE_SECONDS = 1.0


class Engine:
    """All the mutable state of a throttler. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        listener: Optional[Listener],
        transport: Optional[Transport] = None,
    ) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self.limiter = ConcurrencyLimiter(
            settings.max_concurrency,
            probing=not settings.tells_rate,
            interactive_share=settings.interactive_share,
        )
        self.thread_pool = ThreadPool()
        self.deferred_closer = DeferredCloser(self.thread_pool)
        self._clock = clock
        self._recorder = Recorder()
        self._event_bus = EventBus(self._recorder, listener, clock)
        self.observe = self._event_bus.observe
        self._open_permits = OpenPermits()
        self._numbers = itertools.count(1)
        http: Optional[HttpTransport] = None  # in testing mode nothing can reach the network
        if transport is None:
            transport = http = HttpTransport(settings.wire, clock)
        self._wire = transport
        self._access = Suspensions(self.lanes, self.observe, clock)
        thread_pool, observe = self.thread_pool, self.observe
        self._model_groups = ModelGroups(
            settings, self.limiter, thread_pool, clock, self.carry, observe, self._access.suspend
        )
        latency = self._recorder.median_latency
        self._counter = _make_counter(settings, http, thread_pool, clock)
        beside = partial(_endpoint_lane, self._counter, settings, thread_pool, clock)
        #: The way in for what others send.
        self.admission = Admission(
            self.model_group,
            self._open_permits,
            self._numbers,
            self._access,
            filter(None, (settings.api_key, settings.auth_token)),
            beside,
            clock,
        )
        self.batch_client = _batch_client_factory(
            settings, http, thread_pool, self.admission, clock
        )
        self._organization = _make_organization_limits(
            settings, http, self._model_groups, thread_pool
        )
        self.coordinator = _make_coordinator_if_shared(
            settings, self.limiter, self._model_groups, self._access, latency, clock
        )

    # -- in --------------------------------------------------------------------------------------

    def accept(
        self,
        kind: type[AnyCall],
        params: Mapping[str, Any],
        *,
        block: bool,
        extra_headers: Optional[Mapping[str, str]],
        **place: Any,
    ) -> AnyCall:
        """Check, serialise, estimate, queue a call of that kind.

        *place*: priority, tenant, timeout, raw.
        """
        require_options(place["priority"], place["tenant"], extra_headers)
        request = serialise(params, kind.streams)
        model_group = self.model_group(request.model)
        guess = estimate_input_tokens(params)
        cost = model_group.fitting_cost(request.model, guess, request.max_tokens)
        call = kind(
            number=next(self._numbers),
            cost=cost,
            home=model_group.lane,
            body=request.body,
            model=request.model,
            max_tokens=request.max_tokens,
            estimated_input=guess,
            submitted_at=self._clock.monotonic(),
            parent_slot=self._open_permits.slot_of_this_thread(),
            extra_headers=None if extra_headers is None else dict(extra_headers),
            context=self._event_bus.context(),
            **place,
        )
        if brings_own_proof(extra_headers) or self._access.require(model_group.lane.name):
            model_group.lane.admit_probe(call)
        self._queue(call, model_group, block)
        return call

    def _queue(self, call: Call, model_group: ModelGroup, block: bool) -> None:
        try:
            first = None if self._counter is None else self._counter.begin
            model_group.lane.put(call, block, first)
        except queue.Full:
            seconds = self.seconds_until_leave(model_group, call.cost)
            raise refusals.no_place(call, seconds, block) from None

    def stream(self, params: Mapping[str, Any], **options: Any) -> MessageStream:
        """Queue one call, carry it in this thread, return with its first event."""
        from claude_throttle.features.streaming.message_stream import (
            open_stream,  # only for who streams
        )
        from claude_throttle.features.streaming.open_stream import StreamContext

        desk = StreamContext(
            self._model_groups, self._access, self._open_permits, self.deferred_closer
        )
        # No partial: Ctrl-C may come as C code returns, and the call would be nobody's.
        return open_stream(desk, self._wire, lambda kind: self.accept(kind, params, **options))

    def model_group(self, model: str) -> ModelGroup:
        """What belongs to a model. Raises Closed."""
        if self._organization is not None:
            self._organization.ask_once()
        return self._model_groups.of(model)

    def lanes(self) -> list[Lane]:
        """Those there are."""
        return self._model_groups.lanes()

    # -- on the way ------------------------------------------------------------------------------

    def carry(self, call: Call) -> None:
        """Take a call that left to its end. Runs in a sender thread."""
        try:
            with mark_in_progress(call):
                outcome = self._send(call)
        except BaseException as error:  # noqa: BLE001 - whatever happens, its future is resolved
            outcome = Outcome(error=error)
        settle(call, outcome)

    def _send(self, call: Call) -> Outcome:
        if not call.raw:
            sdk.begin_import()
        call.future.set_running_or_notify_cancel()
        attempts = call.attempts
        if attempts is None or call.sent_at is None:  # the lane sets both as it leaves
            raise RuntimeError("a call was carried before it left")
        attempts.announce()
        outcome = self._wire.send(call, attempts)
        if outcome.usage is not None:
            self._model_groups.of_call(call).learn(call, outcome.usage)
        if outcome.error is None:
            self._access.answered(call, attempts.dispatch.at)
        return outcome

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A picture of now."""
        lanes = self.lanes()
        return self._recorder.snapshot(
            waiting=sum(lane.backlog.calls for lane in lanes),
            in_flight=sum(lane.in_flight() for lane in lanes),
            now=self._clock.monotonic(),
        )

    def limits(self) -> Limits:
        """What is known of each lane."""
        return self._model_groups.limits(self._access.suspension)

    def history(self) -> tuple[HistoryInterval, ...]:
        """The last ten minutes."""
        return self._recorder.history(self._clock.monotonic())

    def estimate_wait(self, params: Mapping[str, Any]) -> float:
        """Seconds a call put now would wait before it leaves."""
        return self.seconds_until_leave(*self.priced(params))

    def priced(self, params: Mapping[str, Any]) -> tuple[ModelGroup, Cost]:
        """Where a call belongs, and what it will cost."""
        request: PreparedRequest = serialise(params)
        model_group = self.model_group(request.model)
        guess = estimate_input_tokens(params)
        return model_group, model_group.estimator.cost(request.model, guess, request.max_tokens)

    def seconds_until_leave(self, model_group: ModelGroup, cost: Cost) -> float:
        """How long a call of that cost, put now, would wait."""
        return model_group.seconds_until_leave(cost, self.limiter, self._recorder.median_latency())

    # -- steering --------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Stop or go on letting calls leave; going on ends suspensions, too."""
        if not paused:
            self._access.restore()
        self._hold(paused)

    def _hold(self, held: bool) -> None:
        self._model_groups.pause(held)
        self.admission.hold(held)
        if self._counter is not None:
            self._counter.lane.pause() if held else self._counter.lane.resume()

    def reconfigure(self, settings: Settings) -> None:
        """Keep other quotas and bounds from now on."""
        self.settings = settings
        self._model_groups.reconfigure(settings)
        self.limiter.interactive_share = settings.interactive_share
        self.limiter.set_told(settings.max_concurrency, settings.tells_rate)

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float]) -> int:
        """Accept no more, finish everything; return how many calls are left after *timeout* s."""
        self._model_groups.close()
        self._hold(False)
        return self._wait_until_done(timeout)

    def _wait_until_done(self, timeout: Optional[float]) -> int:
        return wait_until_done(self.lanes(), self._clock.monotonic, timeout, refusals.closed)

    def close(self, timeout: Optional[float], cancel_pending: bool) -> None:
        """Drain, then end what is left."""
        self._model_groups.close()
        if cancel_pending:
            for lane in self.lanes():
                lane.cancel_waiting(Closed("the throttler was closed"))
        self.drain(timeout)
        self.admission.close()
        if self._counter is not None:
            self._counter.close()
        self._end_the_rest()
        if self.coordinator is not None:
            self.coordinator.close()
        self.deferred_closer.stop()
        self.thread_pool.stop()
        self._wire.close()

    def _end_the_rest(self) -> None:
        for lane in self.lanes():
            # Also who waits for a permit: they are no calls, and nobody drained them.
            lane.end_all(Closed("the throttler was closed before this call could leave"))
            lane.stop_all(refusals.closed)
        if self._wait_until_done(GRACE_SECONDS):
            # A sender may be stuck where nothing reaches it, looking up a name; its caller is not.
            for lane in self.lanes():
                for call in lane.unsettled():
                    if call not in in_progress.calls:
                        settle(call, Outcome(error=refusals.closed(call)))

    def finish(self) -> None:
        """Wait until nothing is left to do; go on accepting. Ends a pause."""
        self._hold(False)
        self._wait_until_done(None)

    def abandon(self) -> None:
        """In a forked child: end our copies of the parent's futures. Takes no lock."""
        for lane in self.lanes():
            for call in lane.unsettled():
                call.abandon(refusals.forked(call))
        self._wire.abandon()
        if self.coordinator is not None:
            self.coordinator.store.ledger.abandon()


# -- parts that most programs need none of: loaded on use, or all would pay for their import -------


def _make_counter(
    settings: Settings, wire: Optional[HttpTransport], thread_pool: ThreadPool, clock: Clock
) -> Optional[TokenCounter]:
    """Who counts tokens before a call leaves, if the API is to do it."""
    if wire is None or settings.count_tokens != "api":
        return None
    from claude_throttle.features.token_counting.counter import TokenCounter

    return TokenCounter(settings, wire, thread_pool, clock)


def _endpoint_lane(
    counter: Optional[TokenCounter],
    settings: Settings,
    thread_pool: ThreadPool,
    clock: Clock,
    name: str,
) -> Lane:
    """The lane of what has a quota beside the models'; the counter's own, if that is meant."""
    if counter is not None and counter.lane.name == name:
        return counter.lane
    from claude_throttle.account.endpoint_lanes import endpoint_lane

    return endpoint_lane(name, settings, thread_pool, clock)


def _make_organization_limits(
    settings: Settings,
    wire: Optional[HttpTransport],
    model_groups: ModelGroups,
    thread_pool: ThreadPool,
) -> Optional[OrganizationLimits]:
    """Who asks for the organization's limits, if there is a key for that."""
    if wire is None or not settings.admin_key:
        return None
    from claude_throttle.account.rate_limits_api import OrganizationLimits

    return OrganizationLimits(settings, wire, model_groups, thread_pool)


def _make_coordinator_if_shared(
    settings: Settings,
    limiter: ConcurrencyLimiter,
    model_groups: ModelGroups,
    access: Suspensions,
    median_latency: Callable[[], float],
    clock: Clock,
) -> Optional[Coordinator]:
    """Who keeps this process in step with those it shares its quotas with, if any."""
    if settings.shared is None:
        return None
    from claude_throttle.features.sharing.open_store import make_coordinator

    return make_coordinator(settings, limiter, model_groups, access, median_latency, clock)


def _batch_client_factory(
    settings: Settings,
    wire: Optional[HttpTransport],
    thread_pool: ThreadPool,
    admission: Admission,
    clock: Clock,
) -> Callable[[], BatchClient]:
    """Makes who asks about batches, on its first call; two threads at once may get two."""
    return lru_cache(1)(partial(_make_batch_client, settings, wire, thread_pool, admission, clock))


def _make_batch_client(
    settings: Settings,
    wire: Optional[HttpTransport],
    thread_pool: ThreadPool,
    admission: Admission,
    clock: Clock,
) -> BatchClient:
    from claude_throttle.features.batches.client import BatchClient

    if wire is None:
        raise ConfigurationError("testing mode answers no batches; FakeClaude does")
    return BatchClient(settings, wire, thread_pool, admission, clock)

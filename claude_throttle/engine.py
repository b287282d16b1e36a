"""Builds everything that a throttler has in one process; the only file that knows all of it.

An engine is made on the first use in each process and never inherited: after a fork, locks may be
held by threads that do not exist in the child, and a shared socket can hand one process another's
answer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, Optional

from claude_throttle.account.account import Account, AccountCoordinator, ProcessResources
from claude_throttle.account.model_groups import ModelGroup
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.queueing.reentrant_slot import OpenPermits
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.deferred_close import DeferredCloser
from claude_throttle.core.threads.descriptors import half_of_file_limit
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import ConfigurationError
from claude_throttle.metrics.event_bus import EventBus, Listener
from claude_throttle.metrics.recorder import Recorder, Stats
from claude_throttle.transport.http import HttpTransport
from claude_throttle.transport.request import PreparedRequest, prepare, prepare_unsent
from claude_throttle.transport.transport import Transport

if TYPE_CHECKING:
    from claude_throttle.account.limits import Limits
    from claude_throttle.features.batches.client import BatchClient
    from claude_throttle.features.streaming.message_stream import MessageStream
    from claude_throttle.features.token_counting.counter import TokenCounter
    from claude_throttle.metrics.history import HistoryInterval

#: What is left of the way of a call.
NextStage = Callable[[PreparedRequest], "Future[Any]"]

#: One decision on the way of a call. It answers the request, or passes it (or another one) to the
#: next stage, or both, and returns the future that the caller gets. It runs in the caller's thread,
#: so it never waits, and it holds no lock while it calls the next stage.
Stage = Callable[[PreparedRequest, NextStage], "Future[Any]"]


class Engine:
    """All the mutable state of a throttler in one process. Thread-safe.

    *transport* takes the place of the network: testing mode gives one that answers by itself.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        listener: Optional[Listener],
        transport: Optional[Transport] = None,
    ) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self._clock = clock
        self.thread_pool = ThreadPool()
        self.deferred_closer = DeferredCloser(self.thread_pool)
        self._recorder = Recorder()
        self._event_bus = EventBus(self._recorder, [listener] if listener else [], clock)
        self._resources = ProcessResources(
            clock,
            self.thread_pool,
            self._event_bus.observe,
            self._event_bus.turned_away,
            self._recorder.median_latency,
            OpenPermits(),
            self.deferred_closer,
            itertools.count(1),
        )
        #: None in testing mode, where nothing can reach the network.
        self._http: Optional[HttpTransport] = None
        if transport is None:
            transport = self._http = HttpTransport(settings.wire, clock)
        self.account = self._make_account(transport)
        self._first_stage = _chain(self.stages())
        #: Makes the client for Message Batches on its first call; two threads at once may get two.
        self.batch_client = lru_cache(1)(self._make_batch_client)

    # -- parts that few programs need: imported on use, or all programs would pay for them ---------

    def _make_account(self, transport: Transport) -> Account:
        return Account(
            self.settings,
            self._resources,
            transport,
            http=self._http,
            counter=self._make_counter(),
            share=None if self.settings.shared is None else self._make_coordinator,
            max_connections=self.settings.max_connections or half_of_file_limit(),
        )

    def _make_counter(self) -> Optional[TokenCounter]:
        if self._http is None or self.settings.count_tokens != "api":
            return None
        from claude_throttle.features.token_counting.counter import TokenCounter

        return TokenCounter(self.settings, self._http, self.thread_pool, self._clock)

    def _make_coordinator(self, account: Account) -> AccountCoordinator:
        from claude_throttle.features.sharing.open_store import make_coordinator

        return make_coordinator(self.settings, self._resources, account)

    def _make_batch_client(self) -> BatchClient:
        from claude_throttle.features.batches.client import BatchClient

        if self._http is None:
            raise ConfigurationError("testing mode answers no batches; FakeClaude does")
        return BatchClient(
            self.settings,
            self._http,
            self.thread_pool,
            self.account.admission,
            self._clock,
            self._recorder,
        )

    # -- calls -----------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """What decides whether, when and by which account a call is sent, in this order."""
        return [
            self.account.admit,
        ]

    def submit(self, params: Mapping[str, Any], *options: Any) -> Future[Any]:
        """Pass one call through all stages; *options* are prepare()'s, from ``raw`` on."""
        return self._first_stage(prepare(params, self._event_bus.context(), None, *options))

    def stream(self, params: Mapping[str, Any], *options: Any) -> MessageStream[Any, Any]:
        """Pass one call through all stages, send it in this thread, return with its first event."""
        from claude_throttle.features.streaming.message_stream import open_stream, replay
        from claude_throttle.features.streaming.open_stream import StreamContext

        account, admitted = self.account, list[StreamCall]()
        context = StreamContext(
            account.model_groups,
            account.suspensions,
            self._resources.open_permits,
            self.deferred_closer,
        )
        request = prepare(params, self._event_bus.context(), admitted, *options)
        try:
            future = self._first_stage(request)
            for call in admitted:
                if call.future is future:
                    return open_stream(context, account.transport, call)
            return replay(future, request)
        except BaseException:  # Ctrl-C, too: no other thread would end them
            for call in admitted:
                call.future.give_up()
            raise

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """The counters as they are now."""
        lanes = self.account.every_lane()
        return self._recorder.snapshot(
            waiting=sum(lane.waiting() for lane in lanes),
            in_flight=sum(lane.in_flight() for lane in lanes),
            backing_off=sum(lane.backing_off() for lane in lanes),
            now=self._clock.monotonic(),
        )

    def limits(self) -> Limits:
        """What is known of each lane's limits."""
        return self.account.limits_snapshot()

    def history(self) -> tuple[HistoryInterval, ...]:
        """The counters of the last ten minutes."""
        return self._recorder.history(self._clock.monotonic())

    def estimate_wait(self, options: Mapping[str, Any]) -> float:
        """Seconds that such a call, queued now, would wait before it leaves."""
        return self.account.seconds_until_leave(*self.priced(options))

    def priced(self, options: Mapping[str, Any]) -> tuple[ModelGroup, Cost]:
        """The group a call belongs to, and what the call will cost."""
        request = prepare_unsent(options)
        model_group = self.account.model_group(request.model, request.is_fast)
        cost = model_group.estimator.cost(
            request.model, request.estimated_input, request.max_tokens, request.cache_marked
        )
        return model_group, cost

    # -- steering --------------------------------------------------------------------------------

    def reconfigure(self, settings: Settings) -> None:
        """Keep to other quotas and bounds from now on."""
        self.settings = settings
        self.account.reconfigure(settings)

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float]) -> int:
        """Accept no more, finish everything; return how many calls are left after *timeout* s."""
        self.account.refuse_new()
        self.account.let_go()
        return self.account.wait_until_done(timeout)

    def close(self, timeout: Optional[float], cancel_pending: bool) -> None:
        """Drain for *timeout* seconds, then end what is left. Idempotent."""
        self.account.refuse_new()
        if cancel_pending:
            self.account.cancel_waiting()
        self.drain(timeout)
        self.account.close()
        self.thread_pool.stop()
        self.account.transport.close()

    def finish(self) -> None:
        """Wait until nothing is left to do; go on accepting. Ends a pause."""
        self.account.let_go()
        self.account.wait_until_done(None)

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's. Takes no lock."""
        self.account.abandon()


def _chain(stages: Sequence[Stage]) -> NextStage:
    """The whole way of a call: each stage, given the rest of the way."""
    way: NextStage = _no_stage_left
    for stage in reversed(stages):
        way = _passing(stage, way)
    return way


def _passing(stage: Stage, next_stage: NextStage) -> NextStage:
    # No partial: Ctrl-C may come as C code returns, and the future would be lost.
    return lambda request: stage(request, next_stage)


def _no_stage_left(_request: PreparedRequest) -> Future[Any]:
    raise RuntimeError("the last stage admits a call, and passes nothing on")

"""What a throttler owns in one process: lanes, senders, the wire, the counters.

Made on the first use in each process and never inherited: after a fork, locks may be held by
threads that are not there, and a shared socket can hand one process another's answer.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import os
import queue
import threading
from collections.abc import Mapping
from typing import Any, Callable, Optional

from claude_throttle import refusals
from claude_throttle.errors import Closed
from claude_throttle.flow.call import Call, CallFuture
from claude_throttle.flow.clock import Clock
from claude_throttle.flow.cost import Cost
from claude_throttle.flow.events import CallSent, Event
from claude_throttle.flow.lane import Lane
from claude_throttle.flow.permit import Permit
from claude_throttle.flow.seat import OpenPermits
from claude_throttle.flow.senders import Senders
from claude_throttle.flow.settlement import Outcome, busy, busy_with, settle
from claude_throttle.metrics.stats import Recorder, Stats
from claude_throttle.pacing.concurrency import Concurrency
from claude_throttle.pacing.estimate import guess_input_tokens
from claude_throttle.pacing.pacer import Pacer
from claude_throttle.room import Room
from claude_throttle.settings import Settings
from claude_throttle.transport import sdk
from claude_throttle.transport.http import Wire, WireSettings
from claude_throttle.transport.request import Request, require_options, serialise
from claude_throttle.transport.retry import RetryRules

logger = logging.getLogger("claude_throttle")

Listener = Callable[[Event], None]

#: Seconds that stopped calls are given to end by themselves before they are ended from outside.
GRACE_SECONDS = 1.0


class Process:
    """All the mutable state of a throttler. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock, listener: Optional[Listener]) -> None:
        self.pid = os.getpid()
        self.settings = settings
        self.permits = Concurrency(settings.max_concurrency)
        self.senders = Senders()
        self._clock = clock
        self._listener = listener
        self._recorder = Recorder()
        self._open_permits = OpenPermits()
        self._numbers = itertools.count(1)
        self._wire = Wire(_wire_settings(settings), clock)
        # Guards _rooms and _closed: no lane is made after the close. Never held while calling out.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._rooms: dict[str, Room] = {}
        self._closed = False
        self._paused = False

    # -- in --------------------------------------------------------------------------------------

    def submit(
        self,
        params: Mapping[str, Any],
        *,
        priority: int,
        timeout: Optional[float],
        raw: bool,
        block: bool,
        extra_headers: Optional[Mapping[str, str]],
    ) -> CallFuture:
        """Check, serialise, estimate, queue."""
        require_options(priority, extra_headers)
        request = serialise(params)
        room = self.room(request.model)
        guess = guess_input_tokens(params)
        cost = room.fitting_cost(guess, request.max_tokens)
        call = Call(
            number=next(self._numbers),
            cost=cost,
            home=room.lane,
            body=request.body,
            model=request.model,
            max_tokens=request.max_tokens,
            guessed_input=guess,
            submitted_at=self._clock.monotonic(),
            priority=priority,
            timeout=timeout,
            rides=self._open_permits.seat_of_this_thread(),
            raw=raw,
            extra_headers=None if extra_headers is None else dict(extra_headers),
            context=contextvars.copy_context() if self._listener is not None else None,
        )
        self._queue(call, room, block)
        return call.future

    def _queue(self, call: Call, room: Room, block: bool) -> None:
        try:
            room.lane.put(call, block, call.timeout)
        except queue.Full:
            seconds = self._seconds_until_leave(room, call.cost)
            raise refusals.no_place(call, seconds, block) from None

    def permit(self, model: str, cost: Cost, *, priority: int, timeout: Optional[float]) -> Permit:
        """Wait for the right to send one request."""
        now = self._clock.monotonic()
        permit = Permit(
            self.room(model).lane,
            self._open_permits,
            number=next(self._numbers),
            cost=cost,
            priority=priority,
            deadline=None if timeout is None else now + timeout,
            rides=self._open_permits.seat_of_this_thread(),
        )
        permit.acquire()
        return permit

    def room(self, model: str) -> Room:
        """The lane of a model, made when it is first needed."""
        room = self._rooms.get(model)
        if room is None or self._closed:
            with self._lock:
                if self._closed:
                    raise Closed("the throttler is closed; make a new one to go on")
                room = self._rooms.get(model) or self._make_room(model)
                self._rooms[model] = room
        return room

    def _make_room(self, model: str) -> Room:
        pacer = Pacer(self.settings.quotas, self.settings.burst)
        lane = Lane(
            model,
            pacer=pacer,
            permits=self.permits,
            senders=self.senders,
            carry=self.carry,
            observe=self.observe,
            max_queue=self.settings.max_queue,
            clock=self._clock,
        )
        if self._paused:
            lane.pause()
        return Room(lane, pacer)

    def lanes(self) -> list[Lane]:
        """Those there are."""
        return [room.lane for room in list(self._rooms.values())]

    # -- on the way ------------------------------------------------------------------------------

    def carry(self, call: Call) -> None:
        """Take a call that left to its end. Runs in a sender thread."""
        try:
            with busy_with(call):
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
        waited = call.sent_at - call.submitted_at
        self.observe(CallSent(call.number, call.model, attempts.number, waited), call)
        outcome = self._wire.send(call, attempts)
        if outcome.usage is not None:
            self._rooms[call.model].learn(call, outcome.usage)
        return outcome

    def observe(self, event: Event, call: Call) -> None:
        """Count an event, and tell the listener in the submitter's context."""
        self._recorder.record(event, self._clock.monotonic())
        listener = self._listener
        if listener is None or call.context is None:
            return
        try:
            # A copy: a context can be entered only once at a time.
            call.context.copy().run(listener, event)
        except Exception:
            logger.exception("the event listener raised")

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A picture of now."""
        lanes = self.lanes()
        return self._recorder.snapshot(
            waiting=sum(lane.backlog.calls for lane in lanes),
            in_flight=sum(lane.in_flight() for lane in lanes),
            now=self._clock.monotonic(),
        )

    def estimate_wait(self, params: Mapping[str, Any]) -> float:
        """Seconds a call put now would wait before it leaves."""
        request: Request = serialise(params)
        room = self.room(request.model)
        cost = room.estimator.cost(guess_input_tokens(params), request.max_tokens)
        return self._seconds_until_leave(room, cost)

    def _seconds_until_leave(self, room: Room, cost: Cost) -> float:
        return room.seconds_until_leave(cost, self.permits, self._recorder.median_latency())

    # -- steering --------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Stop or go on letting calls leave."""
        with self._lock:
            if paused and self._closed:
                return  # nobody would end it, and a drain would never end
            self._paused = paused
        for lane in self.lanes():
            lane.pause() if paused else lane.resume()

    def reconfigure(self, settings: Settings) -> None:
        """Keep other quotas and bounds from now on."""
        with self._lock:
            self.settings = settings
            rooms = list(self._rooms.values())
        for room in rooms:
            room.reconfigure(settings)
        self.permits.set_limit(settings.max_concurrency)

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: Optional[float]) -> int:
        """Accept no more, finish everything; return how many calls are left after *timeout* s."""
        self._refuse_more()
        self.pause(False)
        return self._wait_until_done(timeout)

    def _refuse_more(self) -> None:
        with self._lock:
            self._closed = True
        for lane in self.lanes():
            lane.close()

    def _wait_until_done(self, timeout: Optional[float]) -> int:
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        return sum(lane.wait_until_done(give_up_at) for lane in self.lanes())

    def close(self, timeout: Optional[float], cancel_pending: bool) -> None:
        """Drain, then end what is left."""
        self._refuse_more()
        if cancel_pending:
            for lane in self.lanes():
                lane.cancel_waiting(Closed("the throttler was closed"))
        self.drain(timeout)
        self._end_the_rest()
        self.senders.stop()
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
                    if call not in busy.calls:
                        settle(call, Outcome(error=refusals.closed(call)))

    def finish(self) -> None:
        """Wait until nothing is left to do; go on accepting. Ends a pause."""
        self.pause(False)
        self._wait_until_done(None)

    def abandon(self) -> None:
        """In a forked child: end our copies of the parent's futures. Takes no lock."""
        for lane in self.lanes():
            for call in lane.unsettled():
                call.future.abandon(refusals.forked(call))
        self._wire.abandon()


def _wire_settings(settings: Settings) -> WireSettings:
    rules = RetryRules(settings.max_retries, settings.retry_read_timeouts, settings.retry_resets)
    return WireSettings(
        settings.base_url, settings.headers, rules, settings.proxies, settings.ca_bundle
    )

"""The coordinator: keeps one process in step with the others that use the same account.

All exchanges of a throttler with its store go through it. Workers reserve through it, in their own
threads. A thread of its own reports to the store what became of the reservations, and sends
heartbeats; when the store has failed, the thread finds out when it can be reached again.

The trap: a store can be slow or gone at any time, and no call may fail by that. So no lock is held
during an exchange, each exchange ends within ``store_timeout``, and every error of a store, bugs
included, means the same: the store is lost, and each process goes on by itself.

Methods that wait are generators of steps (``reserving``, ``exchanging``, ``working``), so that
``simulation`` can run them in virtual time; ``run_blocking`` runs them for real.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import Any, Callable, NamedTuple, Optional, cast

from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import (
    Event,
    PausedByHand,
    ResumedByHand,
    StoreLost,
    StoreReturned,
)
from claude_throttle.core.threads.blocking import Blocking, Wait, run_blocking
from claude_throttle.core.threads.clock import Clock, Condition
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.concurrency_share import ConcurrencyShare, member_name
from claude_throttle.features.sharing.shared_pacer import STALE_SECONDS, SharedPacer
from claude_throttle.features.sharing.shared_pause import (
    MOST_TRIES,
    NO_LANE,
    SharedPause,
    change_request,
)
from claude_throttle.features.sharing.stores.contract import (
    ExchangeRequest,
    ExchangeResponse,
    Store,
    StoreFailed,
)

logger = logging.getLogger("claude_throttle")

#: Seconds between heartbeats while any call waits or is in flight. The gap starts at the first
#: value, so that a new process soon has its share, and doubles up to the second; or up to the third
#: times the number of members, if that is longer, since the store reads all members each time.
FIRST_BEAT_SECONDS = 0.1
BEAT_SECONDS = 1.0
BEAT_SECONDS_A_MEMBER = 0.01

#: Seconds for which reports are collected, so within which the store knows what calls really cost.
REPORT_SECONDS = 0.05

#: Seconds between two tries to reach a lost store.
PROBE_SECONDS = 0.5

#: Seconds without anything to do after which the thread ends; the next call starts another one.
IDLE_SECONDS = 60.0


class SharedAccount(NamedTuple):
    """An account in a store, and what the settings say about using it."""

    store: Store
    #: A salted hash of the key: a store may be read by people who must not have that.
    name: str
    #: Seconds for one exchange, connecting included.
    timeout_seconds: float
    #: What to do while the store cannot be reached: "share", "stop" or "full".
    on_failure: str


class Coordinator:
    """The link of one account in one process to the store. Thread-safe; raises no error of a store.

    Lock order: a lane's mutex may be held when the coordinator's lock is taken, never the other way
    round. A forked child calls abandon() on its copy, and makes its own.

    *observe* is called with events, *apply_suspensions* with what other processes say of the
    account's suspension; both in a thread of the pool. *hold* is called, with no lock held, when
    pause(everywhere=True) begins or ends. *clock_offset* is shared with *concurrency*.
    """

    def __init__(
        self,
        shared: SharedAccount,
        concurrency: ConcurrencyShare,
        lanes: Callable[[], list[Lane]],
        observe: Callable[[Event, Optional[Call]], None],
        apply_suspensions: Callable[[str], None],
        thread_pool: ThreadPool,
        clock: Clock,
        clock_offset: ClockOffset,
        hold: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self.shared = shared
        #: Whether the store cannot be reached. Read without a lock: an old value costs one try.
        self.store_lost = False
        #: Processes that shared the store when it was last reached, this one included.
        self.members = 1
        self.on_failure = shared.on_failure
        self._concurrency = concurrency
        self._lanes = lanes
        self._observe = observe
        self._suspensions = SuspensionBroadcast(
            lambda notice: thread_pool.run(partial(apply_suspensions, notice))
        )
        self._hold = hold
        #: The pause of all processes that share the account.
        self.pause = SharedPause()
        self._thread_pool = thread_pool
        self._clock = clock
        self._clock_offset = clock_offset
        self._pid = os.getpid()
        self.member = member_name()
        # Guards what follows, and the thread waits on it. Never held during an exchange or while
        # calling out; a lane's mutex may be held when it is taken, never the other way round.
        self._changed = Condition(threading.RLock())
        self._thread: Optional[threading.Thread] = None
        #: Whether there is something to report. Read without the lock first, since notify_pending()
        #: is called for every call that is settled.
        self._is_pending = False
        #: Whether the thread waits for a heartbeat, and must be woken if a call wants a slot.
        self._is_patient = False
        #: Whether somebody has asked for news since the last heartbeat.
        self._is_looked_at = False
        self._closed = False
        self._beat_at = self._idle_at = -1.0
        self._beat_gap = FIRST_BEAT_SECONDS / 2.0

    @property
    def state(self) -> str:
        """The store's address and whether it can be reached, as one line for people to read."""
        how = f" cannot be reached; {self.on_failure}" if self.store_lost else ""
        return f"{self.shared.store.name}{how}, one of {self.members}"

    # -- from the account ------------------------------------------------------------------------

    def make_pacer(self, *quotas: Any, **options: Any) -> SharedPacer:
        """A pacer that reserves in the store; its arguments are those of :class:`Pacer`."""
        return SharedPacer(*quotas, store=self, **options)

    def notify_pending(self) -> None:
        """Report to the store soon. May be called with a lane's mutex held."""
        if not self._is_pending:
            with self._changed:
                self._is_pending = True
                self._changed.notify()

    def wants_slot(self) -> None:
        """A call waits for a slot. May be called with a lane's mutex held."""
        if self._is_patient:
            with self._changed:
                self._is_patient = False
                self._changed.notify()

    def too_many(self) -> None:
        """The server refused one more request in flight. Called with no lock held."""
        self._concurrency.too_many()

    def publish_suspensions(self, notice: str) -> None:
        """Tell the other processes why the account is suspended; "" ends the suspension there."""
        self._suspensions.publish(notice)
        self.notify_pending()

    def pause_all(self, paused: bool) -> None:
        """Pause all processes of the account, or let them go on; returns when the store has it.

        If the store cannot be reached, this process alone, until it can. Called with no lock held.
        """
        was = self.pause.in_force
        self.pause.want(paused)
        self._follow_pause()
        for _ in range(MOST_TRIES):
            if self.store_lost or self.pause.wanted is None:
                break
            request = change_request(self.member, self.not_after())
            self.exchange(NO_LANE, self.pause.add_to(request, self._store_now()))
        if was is not self.pause.in_force:
            self._announce(_pause_event(self.pause.in_force))
        self.notify_pending()
        self.ensure_thread()

    def look_soon(self) -> None:
        """Somebody looks at this process: ask soon for what an idle one is not told.

        Starts no thread in a process that has never used the store.
        """
        if self._clock_offset.ahead is not None and self._is_out_of_touch:
            self._is_looked_at = True
            self.notify_pending()
            self.ensure_thread()

    def abandon(self) -> None:
        """Make the parent's connections unusable in a forked child. Takes no lock."""
        self.shared.store.abandon()

    # -- exchanges with the store ----------------------------------------------------------------

    def reserve(self, lane: Lane, costs: list[Cost]) -> None:
        """Reserve for *costs*, and report what the pacer of *lane* has pending.

        Takes as long as the store's timeout at most. Called with no lock held.
        """
        run_blocking(self.reserving(lane, costs))

    def reserving(self, lane: Lane, costs: list[Cost]) -> Blocking[None]:
        """The steps of reserve()."""
        pacer = _pacer_of(lane)
        if self._clock_offset.ahead is None or self._is_out_of_touch:
            yield from self._beat()  # first, to know how many share the store, and of a pause
        with lane.mutex:
            if pacer.is_exchanging or self.store_lost:
                return
            now = self._clock.monotonic()
            request = pacer.make_request(self.member, self.not_after(), costs, now)
            pacer.is_exchanging = True
        response: Optional[ExchangeResponse] = None
        events: list[Event] = []
        try:
            response = yield from self.exchanging(lane.name, request)
        finally:
            # In one step: a request made in between would report the same once more.
            with lane.mutex:
                pacer.is_exchanging = False
                lane.backlog.not_empty.notify()
                now = self._clock.monotonic()
                if response is None:
                    pacer.restore(request, now, in_doubt=True)
                else:
                    answered_at = self._clock_offset.to_local(response.now)
                    events = pacer.apply(request, response, answered_at, now)
        for event in events:
            self._announce(event)

    def exchange(self, lane: str, request: ExchangeRequest) -> Optional[ExchangeResponse]:
        """Run one transaction; None if the store did not answer. Called with no lock held."""
        return run_blocking(self.exchanging(lane, request))

    def exchanging(
        self, lane: str, request: ExchangeRequest
    ) -> Blocking[Optional[ExchangeResponse]]:
        """The steps of exchange()."""
        store, account = self.shared.store, self.shared.name
        notice, sent_at = self._suspensions.mark_sent(), self._clock.monotonic()
        request = request._replace(notice=notice)
        try:
            response: ExchangeResponse = yield partial(store.transact, account, lane, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, no call may fail by it
            self._suspensions.restore(notice)
            self._lose_store(error)
            return None
        self._clock_offset.observe(response.now, sent_at, self._clock.monotonic())
        if not response.done:
            self._suspensions.restore(notice)
            return response
        if request.claim is not None:
            self.members = response.members
            self._concurrency.apply_grant(request, response)
        self._suspensions.apply_suspensions(response.notice)
        if lane == NO_LANE and self.pause.adopt_response(request, response):
            self._follow_pause()
            self._announce(_pause_event(self.pause.in_force))
        return response

    # No lock: whoever changes something looks again when it is done, so the last one to look has
    # seen the last change.
    def _follow_pause(self) -> None:
        held: Optional[bool] = None
        while held is not (now := self.pause.in_force):
            held = now
            self._hold(held)

    def not_after(self) -> float:
        """The store's time at which a request made now times out.

        A store that answers later must do nothing: the process has given up by then, and would not
        know of its reservations.
        """
        return self._clock_offset.to_store(self._clock.monotonic() + self.shared.timeout_seconds)

    def _store_now(self) -> float:
        """The store's time; some instant of the past before the first exchange."""
        ahead = self._clock_offset.ahead
        return 1.0 if ahead is None else self._clock_offset.to_store(self._clock.monotonic())

    @property
    def _is_out_of_touch(self) -> bool:
        """Whether this process was idle, so that no heartbeat has told it of a pause for long."""
        return self._beat_at + STALE_SECONDS < self._clock.monotonic()

    # -- the thread ------------------------------------------------------------------------------

    def ensure_thread(self) -> None:
        """Start the thread unless it runs. Called with no lane's mutex held."""
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is not None or self._closed:
                return
            thread = self._thread = threading.Thread(
                target=self._work, name="claude-throttle-clerk", daemon=True
            )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending: the workers still reserve
            with self._changed:
                self._thread = None

    def _work(self) -> None:
        run_blocking(self.working())

    def working(self) -> Blocking[None]:
        """The steps of the thread; ends after IDLE_SECONDS without anything to do."""
        self._idle_at = self._clock.monotonic() + IDLE_SECONDS
        while (yield from self._wait_for_work()):
            try:
                yield from self._probe_store() if self.store_lost else self._report()
            except Exception:
                # A dead thread would let the lease of this process end while its calls run.
                logger.exception("the coordinator met a bug; the store is taken for lost")
                self.store_lost = True

    def _wait_for_work(self) -> Blocking[bool]:
        """Wait until something is to be done; False if the thread has to end."""
        with self._changed:
            now = self._clock.monotonic()
            if self._closed or now >= self._idle_at:
                self._thread = None
                return False
            if self.store_lost:
                yield Wait(self._clock, self._changed, PROBE_SECONDS)
            elif not self._is_pending:
                self._is_patient = not self._concurrency.wants_change
                seconds = self._concurrency.patience(min(self._beat_gap, STALE_SECONDS))
                yield Wait(self._clock, self._changed, seconds)
                self._is_patient = False
            if self._is_pending and not self.store_lost:
                yield Wait(self._clock, self._changed, REPORT_SECONDS)  # more may come
            # Greenlets survive a fork: the copy in the child must not use the store.
            return not self._closed and self._pid == os.getpid()

    def _report(self) -> Blocking[None]:
        """Report what is pending, and, if it is time, send a heartbeat."""
        with self._changed:
            self._is_pending = False
        for lane in self._lanes():
            if self._closed:
                return
            pacer = _pacer_of(lane)
            if pacer.has_pending or pacer.is_stale(self._clock.monotonic()):
                yield from self.reserving(lane, [])
        now = self._clock.monotonic()
        # While nothing may leave, heartbeats bring the news of the end.
        is_stopped = self.pause.in_force or bool(self._suspensions.in_force)
        is_busy = self._concurrency.is_busy or is_stopped
        if is_busy:
            self._idle_at = now + IDLE_SECONDS
        is_time = now >= self._beat_at and (is_busy or self._concurrency.held > 0)
        if self._closed:
            return
        has_news = self.pause.wanted is not None or self._is_looked_at
        wants_change = self._concurrency.wants_change or self._suspensions.has_pending
        if is_time or wants_change or has_news:
            yield from self._beat()

    def _beat(self) -> Blocking[bool]:
        """Send a heartbeat, which claims slots; False if the store did not answer."""
        longest = max(BEAT_SECONDS, BEAT_SECONDS_A_MEMBER * self.members)
        self._beat_gap = min(2.0 * self._beat_gap, longest, self._concurrency.lease_seconds / 3.0)
        self._beat_at = self._clock.monotonic() + self._beat_gap
        self._is_looked_at = False
        request = self._concurrency.make_request(self.member, self.not_after())
        request = self.pause.add_to(request, self._store_now())
        response = yield from self.exchanging(NO_LANE, request)
        if response is None or not response.done:
            self._concurrency.lose_store(self.members)
        return response is not None

    # -- when the store fails --------------------------------------------------------------------

    def _lose_store(self, error: Exception) -> None:
        if not isinstance(error, StoreFailed):
            logger.error("a bug in the store; it is taken for lost", exc_info=error)
            error = StoreFailed(f"{type(error).__name__}, a bug in claude_throttle")
        with self._changed:
            is_new, self.store_lost = not (self.store_lost or self._closed), True
            self._changed.notify()
        if not is_new:
            return
        self._concurrency.lose_store(self.members)
        for lane in self._lanes():
            with lane.mutex:
                _pacer_of(lane).lose_store()
                lane.backlog.not_empty.notify()
        self._announce(StoreLost(self.shared.store.name, str(error), self.members))

    # The order matters: the heartbeat first, so that the members are counted and slots granted;
    # then the flag, so that workers reserve again; then the lanes, which pause until all others
    # have noticed.
    def _probe_store(self) -> Blocking[None]:
        """Find out whether a lost store can be reached again, and join the others if it can."""
        self._idle_at = self._clock.monotonic() + IDLE_SECONDS
        sent_at = self._clock.monotonic()
        try:
            # A question that does nothing, if a frozen server answers it later.
            store_now: float = yield self.shared.store.read_clock
        except Exception:  # noqa: BLE001 - as above
            return
        self._clock_offset.observe(store_now, sent_at, self._clock.monotonic())
        # A store that was restarted empty knows of nobody who was there before.
        members = self.members
        if not (yield from self._beat()):
            return
        members = max(members, self.members)
        with self._changed:
            self.store_lost = False
        for lane in self._lanes():
            with lane.mutex:
                _pacer_of(lane).rejoin(members, self._clock.monotonic(), PROBE_SECONDS)
                lane.backlog.not_empty.notify()
        self._announce(StoreReturned(self.shared.store.name, self.members))

    def _announce(self, event: Event) -> None:
        # In a thread of the pool: a slow listener must hold up neither a worker nor heartbeats.
        self._thread_pool.run(partial(self._observe, event, None))

    def close(self) -> None:
        """Report what is left, leave the account, and close the store."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            # Its exchange under way would arrive after the farewell, and keep our slots.
            thread.join(2.0 * self.shared.timeout_seconds)
        if not self.store_lost and self._clock_offset.ahead is not None:
            # Twice: what the first one tells of a quota's instant may still have to be reported.
            for lane in 2 * self._lanes():
                if _pacer_of(lane).has_pending:
                    self.reserve(lane, [])
            farewell = self._concurrency.make_farewell(self.member, self.not_after())
            self.exchange(NO_LANE, farewell)
        self.shared.store.close()


def _pause_event(paused: bool) -> Event:
    return PausedByHand(everywhere=True) if paused else ResumedByHand(everywhere=True)


def _pacer_of(lane: Lane) -> SharedPacer:
    """The pacer of a lane of a shared account, which :meth:`Coordinator.make_pacer` made."""
    return cast("SharedPacer", lane.pacer)


class SuspensionBroadcast:
    """Carries the account's suspension from one process to the others, with their exchanges.

    What this process has published and not sent yet wins over what the store says: the store's is
    older. Thread-safe. *on_change* is called, with no lock held, when another process has changed
    it.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        # Guards both. Held for an assignment; never while calling out.
        self._lock = threading.RLock()
        #: What has to be reported; None for nothing.
        self._pending: Optional[str] = None
        #: The suspension as the store has it; "" if the account is not suspended.
        self.in_force = ""

    @property
    def has_pending(self) -> bool:
        """Whether there is something to report."""
        return self._pending is not None

    def publish(self, notice: str) -> None:
        """Report soon why the account is suspended; "" = it is not any more."""
        with self._lock:
            self._pending = self.in_force = notice

    def mark_sent(self) -> Optional[str]:
        """Take what has to be reported, for a request; None for nothing."""
        with self._lock:
            notice, self._pending = self._pending, None
        return notice

    def restore(self, notice: Optional[str]) -> None:
        """Report *notice* later: its request failed. Something newer may be pending by now."""
        with self._lock:
            if self._pending is None:
                self._pending = notice

    def apply_suspensions(self, notice: str) -> None:
        """Adopt what the store says, unless something newer is to be reported from here."""
        with self._lock:
            is_new = self._pending is None and notice != self.in_force
            if is_new:
                self.in_force = notice
        if is_new:
            self._on_change(notice)

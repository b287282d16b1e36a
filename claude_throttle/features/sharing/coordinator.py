"""Keeps one process in step with the ledger it shares with others.

The workers ask it for slots, in their own threads. A thread of its own tells the ledger what became
of them, and that this process is still there; after a failure it finds out when the ledger is back.
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
from claude_throttle.core.domain.events import Event, StoreLost, StoreReturned
from claude_throttle.core.threads.blocking import Blocking, Wait, run_blocking
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.condition import Condition
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.features.sharing.clock_offset import ClockOffset
from claude_throttle.features.sharing.concurrency_share import ConcurrencyShare, member_name
from claude_throttle.features.sharing.shared_pacer import STALE_SECONDS, SharedPacer
from claude_throttle.features.sharing.stores.contract import (
    ExchangeRequest,
    ExchangeResponse,
    Store,
    StoreFailed,
)
from claude_throttle.features.sharing.suspension_broadcast import SuspensionBroadcast

logger = logging.getLogger("claude_throttle")

#: Seconds between signs of life while anything waits or is out: the first few, all others, and of
#: many members, for each of them; the ledger reads them all each time.
FIRST_BEAT_SECONDS = 0.1
BEAT_SECONDS = 1.0
BEAT_SECONDS_A_MEMBER = 0.01

#: Seconds within which the ledger hears what calls really cost.
NEWS_SECONDS = 0.05

#: Seconds between looks for a silent ledger.
LOOK_SECONDS = 0.5

#: Seconds without anything to do after which the thread ends.
IDLE_SECONDS = 60.0

#: The lane under which a process says that it is there; it has no quotas.
NO_LANE = ""


class ReservingStore(NamedTuple):
    """A store, the account in it, and what to do without it."""

    ledger: Store
    #: A salted hash of the key.
    account: str
    timeout_seconds: float
    #: "share", "stop", "full".
    on_failure: str


class Coordinator:
    """One per process. Thread-safe."""

    def __init__(
        self,
        store: ReservingStore,
        seats: ConcurrencyShare,
        lanes: Callable[[], list[Lane]],
        observe: Callable[[Event, Optional[Call]], None],
        notice: Callable[[str], None],
        thread_pool: ThreadPool,
        clock: Clock,
        time: ClockOffset,
    ) -> None:
        self.store = store
        #: The ledger cannot be reached.
        self.alone = False
        #: Processes that shared it when it was last heard of, this one included.
        self.members = 1
        self.on_failure = store.on_failure
        self._seats = seats
        self._lanes = lanes
        self._observe = observe
        self._notices = SuspensionBroadcast(lambda word: thread_pool.run(partial(notice, word)))
        self._thread_pool = thread_pool
        self._clock = clock
        self._pid = os.getpid()
        self.member = member_name()
        # Guards what follows, and the thread waits on it. Never held while asking or calling out;
        # a lane's mutex may be held when it is taken, never the other way round.
        self._changed = Condition(threading.RLock())
        self._thread: Optional[threading.Thread] = None
        #: Patient: the thread waits as if nobody waited for a place.
        self._has_news = self._closed = self._is_patient = False
        self._time = time
        self._beat_at = self._idle_at = -1.0
        self._beat_gap = FIRST_BEAT_SECONDS / 2.0

    @property
    def state(self) -> str:
        """Which store is in force, for people to read."""
        how = f" cannot be reached; {self.on_failure}" if self.alone else ""
        return f"{self.store.ledger.name}{how}, one of {self.members}"

    # -- from the lanes --------------------------------------------------------------------------

    def has_pending(self) -> None:
        """Something is to be told, soon. A lane's mutex may be held."""
        if not self._has_news:
            with self._changed:
                self._has_news = True
                self._changed.notify()

    def hurry(self) -> None:
        """Somebody waits for a place in flight. A lane's mutex may be held."""
        if self._is_patient:
            with self._changed:
                self._is_patient = False
                self._changed.notify()

    def too_many(self) -> None:
        """The server refused one more request in flight. Called with no lock held."""
        self._seats.too_many()

    def make_pacer(self, *quotas: Any, **options: Any) -> SharedPacer:
        """A pacer for a new lane, which reserves in the store. As :class:`Pacer`."""
        return SharedPacer(*quotas, coordinator=self, **options)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection to the store. Takes no lock."""
        self.store.ledger.abandon()

    def tell_notice(self, notice: str) -> None:
        """The account is suspended, and why; "" = it is not any more."""
        self._notices.tell(notice)
        self.has_pending()

    # -- asking ----------------------------------------------------------------------------------

    def reserve(self, lane: Lane, costs: list[Cost]) -> None:
        """Reserve for the pacer of *lane*, and report to the store what it has pending.

        Holds no mutex while it asks; may take as long as the store's timeout.
        """
        run_blocking(self.reserving(lane, costs))

    def reserving(self, lane: Lane, costs: list[Cost]) -> Blocking[None]:
        """The steps of reserve()."""
        pacer = _pacer_of(lane)
        if self._time.ahead is None:
            yield from self._be_there()  # first, to know how many share it
        with lane.mutex:
            if pacer.asking or self.alone:
                return
            order = pacer.order(self.member, self.not_after(), costs, self._clock.monotonic())
            pacer.asking = True
        reply: Optional[ExchangeResponse] = None
        events: list[Event] = []
        try:
            reply = yield from self.exchanging(lane.name, order)
        finally:
            # In one step: an order made in between would tell the same once more.
            with lane.mutex:
                pacer.asking = False
                lane.backlog.not_empty.notify()
                if reply is None:
                    pacer.untold(order, self._clock.monotonic(), in_doubt=True)
                else:
                    said_at = self._time.instant(reply.now)
                    events = pacer.apply(order, reply, said_at, self._clock.monotonic())
        for event in events:
            self._announce(event)

    def exchange(self, lane: str, order: ExchangeRequest) -> Optional[ExchangeResponse]:
        """Ask; None if the ledger did not answer. Holds no lock."""
        return run_blocking(self.exchanging(lane, order))

    def exchanging(self, lane: str, order: ExchangeRequest) -> Blocking[Optional[ExchangeResponse]]:
        """The steps of exchange()."""
        notice, asked_at = self._notices.take(), self._clock.monotonic()
        try:
            reply: ExchangeResponse = yield partial(
                self.store.ledger.exchange, self.store.account, lane, order._replace(notice=notice)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, no call may fail by it
            self._notices.untold(notice)
            self._lose(error)
            return None
        self._time.hear(reply.now, asked_at, self._clock.monotonic())
        if not reply.done:
            self._notices.untold(notice)
            return reply
        if order.seat is not None:
            self.members = reply.members
            self._seats.apply(order, reply)
        self._notices.apply(reply.notice)
        return reply

    def not_after(self) -> float:
        """The ledger's time at which we give up waiting for what is asked now."""
        return self._time.at(self._clock.monotonic() + self.store.timeout_seconds)

    # -- its own thread --------------------------------------------------------------------------

    def ensure(self) -> None:
        """See to it that the thread runs. Holds no lock of a lane."""
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
        """The steps of its thread; ends when there was nothing to do for long."""
        self._idle_at = self._clock.monotonic() + IDLE_SECONDS
        while (yield from self._wait_for_a_reason()):
            try:
                yield from self._look() if self.alone else self._tell()
            except Exception:
                logger.exception("the clerk met a bug; the store is taken for lost")
                self.alone = True

    def _wait_for_a_reason(self) -> Blocking[bool]:
        """False if there was none for long."""
        with self._changed:
            now = self._clock.monotonic()
            if self._closed or now >= self._idle_at:
                self._thread = None
                return False
            if self.alone:
                yield Wait(self._clock, self._changed, LOOK_SECONDS)
            elif not self._has_news:
                self._is_patient = not self._seats.wants_slot
                seconds = self._seats.patience(min(self._beat_gap, STALE_SECONDS))
                yield Wait(self._clock, self._changed, seconds)
                self._is_patient = False
            if self._has_news and not self.alone:
                yield Wait(self._clock, self._changed, NEWS_SECONDS)  # more may come
            # Greenlets survive a fork: the copy in the child must ask nobody.
            return not self._closed and self._pid == os.getpid()

    def _tell(self) -> Blocking[None]:
        """Tell the ledger what is new, and, if it is time, that we are there."""
        with self._changed:
            self._has_news = False
        for lane in self._lanes():
            if self._closed:
                return
            pacer = _pacer_of(lane)
            if pacer.has_pending or pacer.is_stale(self._clock.monotonic()):
                yield from self.reserving(lane, [])
        now = self._clock.monotonic()
        # While the account is suspended, to hear of its end.
        busy = self._seats.busy or bool(self._notices.in_force)
        if busy:
            self._idle_at = now + IDLE_SECONDS
        is_time = now >= self._beat_at and (busy or self._seats.held > 0)
        if self._closed:
            return
        if is_time or self._seats.wants_slot or self._notices.is_news:
            yield from self._be_there()

    def _be_there(self) -> Blocking[bool]:
        longest = max(BEAT_SECONDS, BEAT_SECONDS_A_MEMBER * self.members)
        self._beat_gap = min(2.0 * self._beat_gap, longest, self._seats.lease_seconds / 3.0)
        self._beat_at = self._clock.monotonic() + self._beat_gap
        order = self._seats.order(self.member, self.not_after())
        reply = yield from self.exchanging(NO_LANE, order)
        if reply is None or not reply.done:
            self._seats.alone(self.members)
        return reply is not None

    # -- when the store fails --------------------------------------------------------------------

    def _lose(self, error: Exception) -> None:
        if not isinstance(error, StoreFailed):
            logger.error("a bug in the ledger; it is taken for lost", exc_info=error)
            error = StoreFailed(f"{type(error).__name__}, a bug in claude_throttle")
        with self._changed:
            lost, self.alone = not (self.alone or self._closed), True
            self._changed.notify()
        if not lost:
            return
        self._seats.alone(self.members)
        for lane in self._lanes():
            with lane.mutex:
                _pacer_of(lane).lose()
                lane.backlog.not_empty.notify()
        self._announce(StoreLost(self.store.ledger.name, str(error), self.members))

    def _look(self) -> Blocking[None]:
        """Find out whether it is back."""
        self._idle_at = self._clock.monotonic() + IDLE_SECONDS
        asked_at = self._clock.monotonic()
        try:
            # Nothing that a sleeping server could do later.
            said: float = yield self.store.ledger.now
        except Exception:  # noqa: BLE001 - as above
            return
        self._time.hear(said, asked_at, self._clock.monotonic())
        if not (yield from self._be_there()):
            return
        with self._changed:
            self.alone = False
        for lane in self._lanes():
            with lane.mutex:
                _pacer_of(lane).rejoin(self._clock.monotonic(), LOOK_SECONDS)
                lane.backlog.not_empty.notify()
        self._announce(StoreReturned(self.store.ledger.name, self.members))

    def _announce(self, event: Event) -> None:
        # Listeners may take their time: neither a worker nor this thread waits for them.
        self._thread_pool.run(partial(self._observe, event, None))

    def close(self) -> None:
        """Tell what is left, say good-bye, and let go of the store."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            # What it asks just now would come after the good-bye, and keep our places.
            thread.join(2.0 * self.store.timeout_seconds)
        if not self.alone and self._time.ahead is not None:
            for lane in self._lanes():
                if _pacer_of(lane).has_pending:
                    self.reserve(lane, [])
            order = ExchangeRequest(self.member, self.not_after(), (), seat=self._seats.none())
            self.exchange(NO_LANE, order)
        self.store.ledger.close()


def _pacer_of(lane: Lane) -> SharedPacer:
    """As it was made by :meth:`Coordinator.make_pacer`."""
    return cast("SharedPacer", lane.pacer)

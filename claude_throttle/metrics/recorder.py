"""Counters of a throttler's events, and an immutable snapshot of them.

Recording happens in the path of every call, reading rarely. So an event is only appended to a
queue, and counted later, in a batch, by the thread that fills it or asks for the numbers.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from claude_throttle.core.domain.cost import NO_USAGE, Usage
from claude_throttle.core.domain.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    Event,
    IterationBooked,
    PermitClosed,
    PermitGranted,
    RetryScheduled,
)
from claude_throttle.metrics import history
from claude_throttle.metrics.histogram import NO_QUANTILES, Histogram, Quantiles

#: Seconds over which the rate is measured: quotas are per minute, and so is the figure.
RATE_WINDOW_SECONDS = 60

#: Events that are counted together, in a tenth of a millisecond. One by one, each by a thread that
#: has just waited, they take several times as long.
BATCH_SIZE = 32


class Stats(NamedTuple):
    """The counters of one throttler in this process, at one moment. ``print()`` it for a report."""

    #: Calls accepted by submit().
    submitted: int = 0
    #: Calls, retries and permits that wait for their turn now.
    waiting: int = 0
    #: Requests in flight now, those of other clients under a permit included.
    in_flight: int = 0
    #: Requests sent: every attempt of a call, and requests under a permit.
    sent: int = 0
    #: Requests of other clients under a permit: the official SDK, a session, ``permit()``.
    permits: int = 0
    #: Requests under a permit that were answered, and that were refused or lost, as far as known.
    permits_answered: int = 0
    permits_refused: int = 0
    #: Calls answered.
    succeeded: int = 0
    #: Calls that raised an exception, by the name of its class.
    failed: Mapping[str, int] = MappingProxyType({})
    #: Attempts that were refused or lost, and retried.
    retried: int = 0
    #: Answers with status 429.
    rate_limited: int = 0
    #: Answers with status 529.
    overloaded: int = 0
    #: Model tokens, as the API's ``usage`` counts them.
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    #: Seconds from submit() to the first attempt.
    queue_wait_seconds: Quantiles = NO_QUANTILES
    #: Seconds from the first attempt to the last byte of the answer, including waits for retries.
    #: What a stream's reader does meanwhile does not count, as far as the bytes were there before.
    latency_seconds: Quantiles = NO_QUANTILES
    #: Requests of the last minute; of a shorter time since the first call, scaled to a minute.
    requests_per_minute: float = 0.0
    #: Seconds since the first call.
    elapsed_seconds: float = 0.0
    #: Calls and permits that were refused at the door (never queued or granted, nothing was sent),
    #: by the name of the exception's class. None of them is in *submitted*, *permits* or *failed*.
    turned_away: Mapping[str, int] = MappingProxyType({})
    #: Calls that were refused, and wait out the delay before they queue again.
    backing_off: int = 0
    #: Message Batches that were created, and the requests in them. These are no calls: nothing
    #: above counts them.
    batches_created: int = 0
    batch_requests: int = 0
    #: Requests about batches that were sent, every attempt: creations, looks, results ...
    batch_sends: int = 0
    #: Results of batches that were fetched, by kind: "succeeded", "errored" ...
    batch_results: Mapping[str, int] = MappingProxyType({})
    #: Model tokens of these results.
    batch_input_tokens: int = 0
    batch_output_tokens: int = 0
    #: Requests under a permit of whose outcome nothing was told: ``permit()`` without ``settle()``,
    #: or cut off.
    permits_unsettled: int = 0

    @property
    def failed_total(self) -> int:
        """Calls that raised an exception, without cancelled ones."""
        return sum(n for name, n in self.failed.items() if name != "CancelledError")

    @property
    def success_rate(self) -> float:
        """The share of finished calls that were answered; 1.0 while none has finished."""
        ended = self.succeeded + self.failed_total
        return self.succeeded / ended if ended else 1.0

    def __str__(self) -> str:
        return "\n".join(_report(self))


def _report(stats: Stats) -> list[str]:
    failures, away = _by_name(stats.failed) or "none", _by_name(stats.turned_away)
    wait, latency = stats.queue_wait_seconds, stats.latency_seconds
    backing_off = f"{stats.backing_off:,} backing off, " if stats.backing_off else ""
    cache = stats.cache_creation_input_tokens, stats.cache_read_input_tokens
    ended = stats.succeeded + stats.failed_total
    rate = f" ({stats.success_rate:.1%})" if ended else ""
    return [
        f"calls     {stats.submitted:,} submitted, {stats.waiting:,} waiting, {backing_off}"
        f"{stats.in_flight:,} in flight, {stats.succeeded:,} succeeded{rate}",
        f"failed    {failures}",
        *([f"turned away  {away}"] if away else []),
        f"requests  {stats.sent:,} sent, {stats.retried:,} retried, {_permits(stats)}"
        f"{stats.rate_limited:,} x 429, {stats.overloaded:,} x 529, "
        f"{stats.requests_per_minute:,.1f} a minute",
        f"tokens    {stats.input_tokens:,} in, {stats.output_tokens:,} out, "
        f"{cache[0]:,} written to cache, {cache[1]:,} read from it",
        f"queue     {_durations(wait)}",
        f"latency   {_durations(latency)}",
        *_batches(stats),
    ]


def _batches(stats: Stats) -> list[str]:
    if not stats.batch_sends:
        return []
    kinds = "".join(f", {n:,} {kind}" for kind, n in sorted(stats.batch_results.items()))
    return [
        f"batches   {stats.batches_created:,} created, {stats.batch_requests:,} "
        f"request{'s' * (stats.batch_requests != 1)}{kinds}; "
        f"{stats.batch_input_tokens:,} tokens in, {stats.batch_output_tokens:,} out; "
        f"{stats.batch_sends:,} sent"
    ]


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items()))


def _permits(stats: Stats) -> str:
    if not stats.permits:
        return ""
    unsettled = f", {stats.permits_unsettled:,} unsettled" if stats.permits_unsettled else ""
    return f"{stats.permits:,} under permits ({stats.permits_refused:,} refused){unsettled}, "


def _durations(quantiles: Quantiles) -> str:
    return " ".join(
        f"{name} {getattr(quantiles, name):.3f} s" for name in ("p50", "p90", "p99", "max")
    )


class Recorder:
    """Counts events. Thread-safe.

    The lock is a leaf: nothing is called out while it is held, so :meth:`record` may be called with
    any other lock held. Numbers are of this process; after a fork the child's recorder is a new
    one.
    """

    def __init__(self) -> None:
        #: Events that are not counted yet. append() is atomic, so recording takes no lock.
        self._uncounted: deque[tuple[Event, float]] = deque()
        # Guards everything below, and is held for counting only. Reentrant: a signal handler may
        # ask for stats while the same thread holds it.
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._away: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._batch_results: Counter[str] = Counter()
        self._usage = NO_USAGE
        self._queue_wait = Histogram()
        self._latency = Histogram()
        self._departures: deque[tuple[int, int]] = deque()
        self._history = history.RingBuffer()
        self._started_at: float | None = None
        self._count: dict[type, Callable[[Any, float], None]] = {
            CallQueued: self._queued,
            CallSent: self._sent,
            RetryScheduled: self._retried,
            CallSucceeded: self._succeeded,
            CallFailed: self._failed_call,
            PermitGranted: self._granted,
            PermitClosed: self._closed,
            IterationBooked: self._booked,
        }

    def record(self, event: Event, now: float) -> None:
        """Count one event that happened at *now*, at once or with the next batch."""
        self._uncounted.append((event, now))
        if len(self._uncounted) >= BATCH_SIZE:
            with self._lock:
                self._count_all_locked()

    def turned_away(self, error: str, now: float) -> None:
        """Count one that was refused at the door, by the name of its exception's class."""
        with self._lock:
            self._away[error] += 1
            self._history.record_refusal(error, now)

    def count_batches(self, **more: int) -> None:
        """Add to the counts of Message Batches, by the names of the fields of :class:`Stats`."""
        with self._lock:
            self._counts.update(more)

    def count_batch_results(self, kinds: Mapping[str, int], usage: Usage) -> None:
        """Add results of a batch that were fetched, and what they took."""
        with self._lock:
            self._batch_results.update(kinds)
            self._counts["batch_input_tokens"] += usage.input_tokens
            self._counts["batch_output_tokens"] += usage.output_tokens

    def _count_all_locked(self) -> None:
        """Count everything that is waiting, in the order of arrival. Requires _lock.

        An event of a type without a counter, such as a pause, only goes to the log and to
        listeners.
        """
        while True:
            try:
                event, now = self._uncounted.popleft()
            except IndexError:  # possible in between, too: a signal handler may have counted them
                return
            count = self._count.get(type(event))
            if count is not None:
                count(event, now)

    def _queued(self, _event: CallQueued, now: float) -> None:
        self._counts["submitted"] += 1
        if self._started_at is None:
            self._started_at = now

    def _sent(self, event: CallSent, now: float) -> None:
        self._counts["sent"] += 1
        self._history.record(history.SENT, now)
        if event.attempt == 1:
            self._queue_wait.observe(event.waited_seconds)
        self._count_departure(now)

    def _count_departure(self, now: float) -> None:
        """Count one request that left, by whole seconds: at most one entry for each second."""
        second = int(now)
        if self._departures and self._departures[-1][0] == second:
            self._departures[-1] = (second, self._departures[-1][1] + 1)
        else:
            self._departures.append((second, 1))
            self._drop_old_departures(now)

    def _drop_old_departures(self, now: float) -> None:
        while self._departures and self._departures[0][0] < now - RATE_WINDOW_SECONDS:
            self._departures.popleft()

    def _retried(self, event: RetryScheduled, now: float) -> None:
        self._counts["retried"] += 1
        self._refused(event.status, now)

    def _refused(self, status: int | None, now: float) -> None:
        self._statuses[status or 0] += 1
        if status == 429:
            self._history.record(history.RATE_LIMITED, now)
        elif status == 529:
            self._history.record(history.OVERLOADED, now)

    def _succeeded(self, event: CallSucceeded, now: float) -> None:
        self._counts["succeeded"] += 1
        self._history.record(history.SUCCEEDED, now)
        self._latency.observe(event.latency_seconds)
        self._usage = self._usage.plus(event.usage)

    def _failed_call(self, event: CallFailed, now: float) -> None:
        """A call ended without an answer.

        Cancelled ones are counted, but are no failures in the history.
        """
        self._failed[event.error] += 1
        self._refused(event.status, now)
        if event.error != "CancelledError":
            self._history.record(history.FAILED, now)

    def _granted(self, event: PermitGranted, now: float) -> None:
        self._counts["sent"] += 1
        self._counts["permits"] += 1
        self._history.record(history.SENT, now)
        self._queue_wait.observe(event.waited_seconds)
        if self._started_at is None:
            self._started_at = now
        self._count_departure(now)

    def _closed(self, event: PermitClosed, now: float) -> None:
        """A permit was closed.

        Without a status nothing is known of its request, and no outcome is counted.
        """
        if event.refused:
            self._counts["permits_refused"] += 1
            self._refused(event.status, now)
        elif event.status is not None:
            self._counts["permits_answered"] += 1
            self._latency.observe(event.seconds)
            self._history.record(history.SUCCEEDED, now)
        elif event.usage is None:
            self._counts["permits_unsettled"] += 1
        if event.usage is not None:
            self._usage = self._usage.plus(event.usage)

    def _booked(self, event: IterationBooked, _now: float) -> None:
        self._usage = self._usage.plus(event.usage)

    def snapshot(self, *, waiting: int, in_flight: int, now: float, backing_off: int = 0) -> Stats:
        """The counters at *now*.

        *waiting*, *in_flight* and *backing_off* are present states, which no event adds up to.
        """
        with self._lock:
            self._count_all_locked()
            self._drop_old_departures(now)
            elapsed = 0.0 if self._started_at is None else now - self._started_at
            return Stats(
                submitted=self._counts["submitted"],
                waiting=waiting,
                in_flight=in_flight,
                sent=self._counts["sent"],
                permits=self._counts["permits"],
                permits_answered=self._counts["permits_answered"],
                permits_refused=self._counts["permits_refused"],
                succeeded=self._counts["succeeded"],
                failed=MappingProxyType(dict(self._failed)),
                retried=self._counts["retried"],
                rate_limited=self._statuses[429],
                overloaded=self._statuses[529],
                **self._usage._asdict(),
                queue_wait_seconds=self._queue_wait.quantiles(),
                latency_seconds=self._latency.quantiles(),
                requests_per_minute=self._per_minute(elapsed),
                elapsed_seconds=elapsed,
                turned_away=MappingProxyType(dict(self._away)),
                backing_off=backing_off,
                batches_created=self._counts["batches_created"],
                batch_requests=self._counts["batch_requests"],
                batch_sends=self._counts["batch_sends"],
                batch_results=MappingProxyType(dict(self._batch_results)),
                batch_input_tokens=self._counts["batch_input_tokens"],
                batch_output_tokens=self._counts["batch_output_tokens"],
                permits_unsettled=self._counts["permits_unsettled"],
            )

    def history(self, now: float) -> tuple[history.HistoryInterval, ...]:
        """The last ten minutes, oldest first; empty before the first event."""
        with self._lock:
            self._count_all_locked()
            return self._history.intervals(now)

    def median_latency(self) -> float:
        """The median of seconds from first attempt to answer; 0 before the first answer."""
        with self._lock:
            self._count_all_locked()
            return self._latency.quantiles().p50

    def _per_minute(self, elapsed: float) -> float:
        """Requests a minute; within the first minute what left so far, scaled up."""
        departed = sum(n for _, n in self._departures)
        # Within the first second the rate would be far too high.
        return departed * 60.0 / min(max(elapsed, 1.0), RATE_WINDOW_SECONDS)

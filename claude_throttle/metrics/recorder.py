"""Counters fed by events, and a frozen picture of them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from claude_throttle.core.domain.cost import NO_USAGE
from claude_throttle.core.domain.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    Event,
    PermitClosed,
    PermitGranted,
    RetryScheduled,
)
from claude_throttle.metrics import history as recent
from claude_throttle.metrics.histogram import NO_QUANTILES, Histogram, Quantiles

#: Seconds over which the rate is taken.
RATE_WINDOW_SECONDS = 60

#: Events counted at once, a tenth of a millisecond's work: one by one, each woken after a wait,
#: they take several times as long.
COUNTED_TOGETHER = 32


class Stats(NamedTuple):
    """A picture of one throttler in this process. ``print()`` it for a report."""

    #: Calls accepted by submit().
    submitted: int = 0
    #: Calls in the queue now.
    waiting: int = 0
    #: Requests on the wire now.
    in_flight: int = 0
    #: Requests that left, every attempt counted, and those of others.
    sent: int = 0
    #: Of those, the ones that others sent: the official SDK, a session, whoever had a permit().
    permits: int = 0
    #: Of those, the ones that were answered, and those that were refused or lost, as far as anybody
    #: said.
    permits_answered: int = 0
    permits_refused: int = 0
    #: Calls answered.
    succeeded: int = 0
    #: Calls that ended in an exception, by the name of its class.
    failed: Mapping[str, int] = MappingProxyType({})
    #: Attempts that were refused or lost and tried again.
    retried: int = 0
    #: Answers with status 429.
    rate_limited: int = 0
    #: Answers with status 529.
    overloaded: int = 0
    #: Model tokens, as ``usage`` counts them.
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    #: From submit() to the first send.
    queue_wait_seconds: Quantiles = NO_QUANTILES
    #: From the first send to the answer, waits for retries included.
    latency_seconds: Quantiles = NO_QUANTILES
    #: Requests that left within the last minute, or since the start if that is shorter ago,
    #: scaled to a minute.
    requests_per_minute: float = 0.0
    #: Since the first call.
    elapsed_seconds: float = 0.0

    @property
    def failed_total(self) -> int:
        """Calls that ended in an exception; cancelled ones are not among them."""
        return sum(n for name, n in self.failed.items() if name != "CancelledError")

    @property
    def success_rate(self) -> float:
        """Share of the ended calls that were answered; 1.0 while none has ended."""
        ended = self.succeeded + self.failed_total
        return self.succeeded / ended if ended else 1.0

    def __str__(self) -> str:
        return "\n".join(_report(self))


def _report(stats: Stats) -> list[str]:
    failures = ", ".join(f"{n} {name}" for name, n in sorted(stats.failed.items())) or "none"
    wait, latency = stats.queue_wait_seconds, stats.latency_seconds
    cache = stats.cache_creation_input_tokens, stats.cache_read_input_tokens
    return [
        f"calls     {stats.submitted:,} submitted, {stats.waiting:,} waiting, "
        f"{stats.in_flight:,} in flight, {stats.succeeded:,} succeeded ({stats.success_rate:.1%})",
        f"failed    {failures}",
        f"requests  {stats.sent:,} sent, {stats.retried:,} retried, {_of_others(stats)}"
        f"{stats.rate_limited:,} x 429, {stats.overloaded:,} x 529, "
        f"{stats.requests_per_minute:,.1f} a minute",
        f"tokens    {stats.input_tokens:,} in, {stats.output_tokens:,} out, "
        f"{cache[0]:,} written to cache, {cache[1]:,} read from it",
        f"queue     {_line(wait)}",
        f"latency   {_line(latency)}",
    ]


def _of_others(stats: Stats) -> str:
    if not stats.permits:
        return ""
    return f"{stats.permits:,} by others ({stats.permits_refused:,} refused), "


def _line(quantiles: Quantiles) -> str:
    return " ".join(
        f"{name} {getattr(quantiles, name):.3f} s" for name in ("p50", "p90", "p99", "max")
    )


class Recorder:
    """Counts events. Thread-safe."""

    def __init__(self) -> None:
        #: What happened and is not counted yet. Its append is atomic, so no call waits for a lock.
        self._uncounted: deque[tuple[Event, float]] = deque()
        # Guards everything below. Held for counting only.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._usage = NO_USAGE
        self._queue_wait = Histogram()
        self._latency = Histogram()
        self._departures: deque[tuple[int, int]] = deque()
        self._recent = recent.RingBuffer()
        self._started_at: float | None = None
        self._count: dict[type, Callable[[Any, float], None]] = {
            CallQueued: self._queued,
            CallSent: self._sent,
            RetryScheduled: self._retried,
            CallSucceeded: self._succeeded,
            CallFailed: self._failed_call,
            PermitGranted: self._granted,
            PermitClosed: self._closed,
        }

    def record(self, event: Event, now: float) -> None:
        """Count one event that happened at *now*."""
        self._uncounted.append((event, now))
        if len(self._uncounted) >= COUNTED_TOGETHER:
            with self._lock:
                self._count_all_locked()

    def _count_all_locked(self) -> None:
        while True:
            try:
                event, now = self._uncounted.popleft()
            except IndexError:  # also where a signal handler asked for stats meanwhile
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
        self._recent.add(recent.SENT, now)
        if event.attempt == 1:
            self._queue_wait.add(event.waited_seconds)
        self._departed(now)

    def _departed(self, now: float) -> None:
        second = int(now)
        if self._departures and self._departures[-1][0] == second:
            self._departures[-1] = (second, self._departures[-1][1] + 1)
        else:
            self._departures.append((second, 1))
            self._forget_departures(now)

    def _forget_departures(self, now: float) -> None:
        while self._departures and self._departures[0][0] < now - RATE_WINDOW_SECONDS:
            self._departures.popleft()

    def _retried(self, event: RetryScheduled, now: float) -> None:
        self._counts["retried"] += 1
        self._refused(event.status, now)

    def _refused(self, status: int | None, now: float) -> None:
        self._statuses[status or 0] += 1
        if status == 429:
            self._recent.add(recent.RATE_LIMITED, now)
        elif status == 529:
            self._recent.add(recent.OVERLOADED, now)

    def _succeeded(self, event: CallSucceeded, now: float) -> None:
        self._counts["succeeded"] += 1
        self._recent.add(recent.SUCCEEDED, now)
        self._latency.add(event.latency_seconds)
        self._usage = self._usage.plus(event.usage)

    def _failed_call(self, event: CallFailed, now: float) -> None:
        self._failed[event.error] += 1
        self._refused(event.status, now)
        if event.error != "CancelledError":
            self._recent.add(recent.FAILED, now)

    def _granted(self, event: PermitGranted, now: float) -> None:
        self._counts["sent"] += 1
        self._counts["permits"] += 1
        self._recent.add(recent.SENT, now)
        self._queue_wait.add(event.waited_seconds)
        if self._started_at is None:
            self._started_at = now
        self._departed(now)

    def _closed(self, event: PermitClosed, now: float) -> None:
        if event.refused:
            self._counts["permits_refused"] += 1
            self._refused(event.status, now)
        elif event.status is not None:
            self._counts["permits_answered"] += 1
            self._latency.add(event.seconds)
            self._recent.add(recent.SUCCEEDED, now)
        if event.usage is not None:
            self._usage = self._usage.plus(event.usage)

    def snapshot(self, *, waiting: int, in_flight: int, now: float) -> Stats:
        """The picture at *now*."""
        with self._lock:
            self._count_all_locked()
            self._forget_departures(now)
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
            )

    def history(self, now: float) -> tuple[recent.HistoryInterval, ...]:
        """The last ten minutes; none if nothing ever happened."""
        with self._lock:
            self._count_all_locked()
            return self._recent.intervals(now)

    def median_latency(self) -> float:
        """Seconds from first send to answer; 0 while nothing was answered."""
        with self._lock:
            self._count_all_locked()
            return self._latency.quantiles().p50

    def _per_minute(self, elapsed: float) -> float:
        departed = sum(n for _, n in self._departures)
        # Within the first second a rate would be a wild guess upwards.
        return departed * 60.0 / min(max(elapsed, 1.0), RATE_WINDOW_SECONDS)

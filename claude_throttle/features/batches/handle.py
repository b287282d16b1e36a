"""What a caller has of batches that were sent: progress, and in the end results."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

from claude_throttle.config.validation import require_timeout
from claude_throttle.errors import BrokenAnswer, CircuitOpen, DeadlineExceeded, Forked
from claude_throttle.features.batches.client import BatchClient
from claude_throttle.features.batches.result import BatchProgress, BatchResult, result_of
from claude_throttle.features.batches.results_file import ResultsFile, bring
from claude_throttle.features.batches.wire_format import State

logger = logging.getLogger("claude_throttle")

#: Seconds between looks: the first, the longest, how they grow, and how far each strays from it.
FIRST_LOOK_SECONDS = 5.0
LONGEST_LOOK_SECONDS = 60.0
GROWTH = 1.5
JITTER = 0.1

#: Seconds that progress() and done() give the API to answer.
GLANCE_SECONDS = 10.0

#: Seconds of looks that all fail, after which the failure is raised.
GIVE_UP_SECONDS = 3600.0


class CreatedBatch(NamedTuple):
    """A batch that was created."""

    id: str
    #: In the caller's order; None if nobody told.
    custom_ids: Optional[Sequence[str]]


class BatchHandle:
    """Batches on their way; like a future, but nothing happens unless somebody asks.

    Whoever waits asks the API how they stand: after 5 s, then ever less often, once a minute in
    the end, and never more often, however many threads wait or look. No thread of ours works on
    it meanwhile, so it may be dropped, and a process may end: :meth:`Batches.resume` with its
    :attr:`ids` goes on, in any process, for 29 days.

    Thread-safe. In a forked child its methods raise :class:`Forked`. Waits are ended by their
    *timeout* (:class:`DeadlineExceeded`; the batches go on, wait again), by ``close()`` of the
    throttler (:class:`Closed`) and by Ctrl-C. What the API refuses raises the SDK's exceptions.
    """

    def __init__(
        self,
        desk: BatchClient,
        sent: Sequence[CreatedBatch],
        states: Sequence[State],
        order: Optional[Sequence[str]],
        raw: bool,
        poll_seconds: Optional[float],
    ) -> None:
        self._desk = desk
        self._sent = tuple(sent)
        self._order = order
        self._raw = raw
        self._every = None if poll_seconds is None else require_timeout(poll_seconds)
        self._pause = self._every or FIRST_LOOK_SECONDS
        # All below is guarded by the desk's `changed`, or belongs to whoever is asking.
        self._states = {state.id: state for state in states}
        self._spools: dict[str, ResultsFile] = {}
        #: Somebody asks the API just now.
        self._asking = False
        now = desk.clock.monotonic()
        # Batches that were sent before may have ended long ago.
        self._look_at = now + self._next_pause() if states else now
        self._failing_since: Optional[float] = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The batches' ids, to be stored."""
        return tuple(sent.id for sent in self._sent)

    @property
    def custom_ids(self) -> Optional[tuple[str, ...]]:
        """The requests' names in the caller's order; None if they are not known."""
        if self._order is not None:
            return tuple(self._order)
        known = [sent.custom_ids for sent in self._sent]
        return None if None in known else tuple(name for names in known for name in names or ())

    # -- looking ---------------------------------------------------------------------------------

    def progress(self) -> BatchProgress:
        """How they stand. Asks the API if it is time for that, else tells what it said last.

        Gives up asking after ten seconds, and raises what result() would.
        """
        self._glance()
        with self._desk.changed:
            states = list(self._states.values())
        return BatchProgress(
            *(sum(state.counts[name] for state in states) for name in BatchProgress._fields)
        )

    def done(self) -> bool:
        """Whether all have ended, as far as is known; asks as progress() does."""
        self._glance()
        with self._desk.changed:
            return not self._pending_locked()

    # -- results ---------------------------------------------------------------------------------

    def result(self, timeout: Optional[float] = None) -> list[BatchResult]:
        """Wait, *timeout* seconds at most, and return all results; a list of errors and messages.

        In the caller's order. For more than fit in memory: results().
        """
        return list(self.results(timeout))

    def results(self, timeout: Optional[float] = None) -> Iterator[BatchResult]:
        """The same, as an iterator: in memory one by one.

        Until the handle is dropped they are in a temporary file, which has no name.
        """
        self._require_here()
        deadline = self._desk.deadline(timeout)
        self._wait_until_ended(deadline)
        spools = self._collect(deadline)
        if self._order is not None:
            return (self._result(name, spools) for name in self._order)
        # Each name in its own batch: two that were sent apart may use the same.
        return (
            self._result(name, [spool])
            for sent, spool in zip(self._sent, spools)
            for name in (spool if sent.custom_ids is None else sent.custom_ids)
        )

    def _result(self, name: str, spools: Sequence[ResultsFile]) -> BatchResult:
        self._require_here()  # a child shares the file's place with its parent
        found = (spool.get(name) for spool in spools)
        line = next((line for line in found if line is not None), None)
        return result_of(name, line, self._raw, self._desk.url)

    def cancel(self) -> None:
        """Ask the API to end them; what was begun may still succeed. The results tell."""
        self._require_here()
        with self._desk.changed:
            pending = self._pending_locked()
        refusals = [error for error in map(self._cancel, pending) if error is not None]
        if refusals:
            raise refusals[0]

    def _cancel(self, batch_id: str) -> Optional[Exception]:
        try:
            state = self._desk.cancel(batch_id, None)
        except Exception as error:  # noqa: BLE001 - raised when the others have been tried
            return error
        with self._desk.changed:
            self._states[batch_id] = state
            self._look_at = min(self._look_at, self._desk.clock.monotonic() + self._pause)
            self._desk.changed.notify_all()
        return None

    def __repr__(self) -> str:
        with contextlib.suppress(RuntimeError):
            pending = len([s for s in list(self._states.values()) if not s.ended])
            return f"<BatchHandle {', '.join(self.ids)}: {pending} not known to have ended>"
        return f"<BatchHandle {', '.join(self.ids)}>"

    def __reduce__(self) -> Any:
        raise TypeError("store the ids of a BatchHandle; throttler.batches.resume(ids) goes on")

    # -- inside ----------------------------------------------------------------------------------

    def _require_here(self) -> None:
        if self._desk.pid != os.getpid():
            raise Forked(
                "this handle belongs to the parent process; batches.resume(handle.ids) gets the "
                "results here, too"
            )

    def _pending_locked(self) -> list[str]:
        """Requires the desk's ``changed``."""
        states = self._states
        return [name for name in self.ids if name not in states or not states[name].ended]

    def _wait_until_ended(self, deadline: Optional[float]) -> None:
        while True:
            try:
                self._look_if_due(deadline)
            except DeadlineExceeded:
                self._wait_for_others(deadline)
            with self._desk.changed:
                if not self._pending_locked():
                    return
                left = self._look_at - self._desk.clock.monotonic()
                if self._asking or left > 0:
                    self._desk.wait_locked(None if self._asking else left, deadline)

    def _wait_for_others(self, deadline: Optional[float]) -> None:
        """The API cannot be asked in time, being paused, say; somebody else may have asked."""
        with self._desk.changed:
            while self._pending_locked():
                self._desk.wait_locked(None, deadline)

    def _glance(self) -> None:
        self._require_here()
        with contextlib.suppress(DeadlineExceeded):
            self._look_if_due(self._desk.clock.monotonic() + GLANCE_SECONDS)

    def _look_if_due(self, deadline: Optional[float]) -> None:
        desk, mine = self._desk, False
        states: list[State] = []
        ended_from_here = True
        try:
            with desk.changed:
                pending = self._pending_locked()
                if not pending or self._asking or desk.clock.monotonic() < self._look_at:
                    return
                mine = self._asking = True
            states = self._ask(pending, deadline)
            ended_from_here = False
        except Exception as error:
            ended_from_here = isinstance(error, DeadlineExceeded)
            if not _passes(error) or self._has_failed_long():
                raise
            logger.info("batches: a look failed (%s); there will be others", type(error).__name__)
        finally:
            if mine:
                self._learn(states, ended_from_here)

    def _has_failed_long(self) -> bool:
        now = self._desk.clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        return now - self._failing_since > GIVE_UP_SECONDS

    def _ask(self, pending: list[str], deadline: Optional[float]) -> list[State]:
        found: dict[str, State] = {}
        if len(pending) > 1:  # one request for all, if they are among the newest
            listed = {state.id: state for state in self._desk.recent(deadline)}
            found = {name: listed[name] for name in pending if name in listed}
        for name in pending:
            if name not in found:
                found[name] = self._desk.state(name, deadline)._replace(id=name)
        return list(found.values())

    def _learn(self, states: list[State], at_once: bool) -> None:
        """A look is over; if *at_once*, whoever comes next may look again."""
        self._asking = False  # first, and without the lock: Ctrl-C may come any time
        with self._desk.changed:
            now = self._desk.clock.monotonic()
            if states:
                self._failing_since = None
            self._states.update((state.id, state) for state in states)
            if not at_once:
                self._look_at = now + self._next_pause()
            self._desk.changed.notify_all()

    def _next_pause(self) -> float:
        pause = self._pause
        if self._every is None:
            self._pause = min(LONGEST_LOOK_SECONDS, pause * GROWTH)
        return pause * random.uniform(1.0 - JITTER, 1.0 + JITTER)

    def _collect(self, deadline: Optional[float]) -> list[ResultsFile]:
        """The results of all, brought once, by one thread."""
        desk, mine = self._desk, False
        try:
            with desk.changed:
                while self._asking:
                    desk.wait_locked(None, deadline)
                missing = [sent for sent in self._sent if sent.id not in self._spools]
                mine = self._asking = True
            for sent in missing:
                self._spools[sent.id] = self._fetch(sent, deadline)
        finally:
            if mine:
                self._asking = False
                with desk.changed:
                    desk.changed.notify_all()
        return [self._spools[sent.id] for sent in self._sent]

    def _fetch(self, sent: CreatedBatch, deadline: Optional[float]) -> ResultsFile:
        names = sent.custom_ids if sent.custom_ids is not None else self._order
        results = partial(self._desk.results, sent.id, deadline=deadline)
        return bring(results, names, sum(self._states[sent.id].counts.values()))


def _passes(error: Exception) -> bool:
    """Whether the next look may do better."""
    if isinstance(error, (BrokenAnswer, CircuitOpen)):
        return True
    status = getattr(error, "status_code", None)
    if status is None:
        return type(error).__name__ in ("APIConnectionError", "APITimeoutError")
    return status >= 500 or status in (408, 409, 429)

"""``BatchHandle``: the progress of batches that were created, and in the end their results.

A handle starts no thread: the API keeps the batches for 29 days, so a process may end and another
one go on by their ids. Of the threads that wait for one handle, one polls and all others wait for
it on the client's condition. The trap: the thread that polls may be interrupted at any time, by
Ctrl-C too, so whatever happens it must say that it polls no more, or all others wait without end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

from claude_throttle.config.validation import require_timeout
from claude_throttle.errors import BrokenAnswer, CircuitOpen, DeadlineExceeded, Forked
from claude_throttle.features.batches.client import BatchClient
from claude_throttle.features.batches.result import BatchProgress, BatchResult, result_of
from claude_throttle.features.batches.results_file import ResultsFile, fetch_results
from claude_throttle.features.batches.wire_format import State
from claude_throttle.transport.verdicts import is_not_found

logger = logging.getLogger("claude_throttle")

#: Seconds between polls: the first and the longest pause. Each is longer than the one before by
#: GROWTH, and up to JITTER of it shorter or longer, so that processes do not poll all at once.
FIRST_POLL_SECONDS = 5.0
LONGEST_POLL_SECONDS = 60.0
GROWTH = 1.5
JITTER = 0.1

#: Seconds that progress() and done() wait for the API, at most.
BRIEFLY_SECONDS = 10.0

#: Seconds after its creation for which a batch that the API does not know may just be too new. An
#: older one is gone: deleted, or of another workspace.
NEW_SECONDS = 60.0

#: Seconds for which every poll must have failed before the failure is raised. Batches take hours:
#: an outage of some minutes must not end the wait for them.
GIVE_UP_SECONDS = 3600.0


class CreatedBatch(NamedTuple):
    """A batch that was created, and the names of its requests as far as they are known."""

    id: str
    #: The names in the caller's order; None after resume() without them.
    custom_ids: Optional[Sequence[str]]


class BatchHandle:
    """Batches that the API works on; like a future, but nothing happens unless a thread asks.

        >>> handle = throttler.batches.submit(requests)
        >>> for result in handle.results():
        ...     print(result.custom_id, result.kind)

    The thread that waits polls the API: after 5 s, then less and less often, in the end once a
    minute, however many threads wait. No other thread works on it meanwhile, so the handle may be
    dropped, and the process may end: :meth:`Batches.resume` with its :attr:`ids` continues, in any
    process, for 29 days.

    Thread-safe. In a forked child its methods raise :class:`Forked`. Waits are ended by their
    *timeout* (:class:`DeadlineExceeded`; the batches go on, wait again), by ``close()`` of the
    throttler (:class:`Closed`) and by Ctrl-C. What the API refuses raises the SDK's exceptions.
    """

    def __init__(
        self,
        client: BatchClient,
        created: Sequence[CreatedBatch],
        states: Sequence[State],
        order: Optional[Sequence[str]],
        raw: bool,
        poll_seconds: Optional[float],
    ) -> None:
        self._client = client
        self._created = tuple(created)
        self._order = order
        self._raw = raw
        self._every = None if poll_seconds is None else require_timeout(poll_seconds)
        self._pause = self._every or FIRST_POLL_SECONDS
        # All below is guarded by the client's `changed`, or belongs to the thread that asks.
        self._states = {state.id: state for state in states}
        self._files: dict[str, ResultsFile] = {}
        #: Whether a thread is asking the API: then the others wait for it.
        self._asking = False
        now = client.clock.monotonic()
        # Batches that were sent before may have ended long ago.
        self._poll_at = now + self._next_pause() if states else now
        self._failing_since: Optional[float] = None
        self._new_until = now + NEW_SECONDS if states else now
        #: Batches that are gone, with the API's refusal.
        self._gone: dict[str, Exception] = {}

    @property
    def gone(self) -> tuple[str, ...]:
        """The ids of batches that the API knows no more: deleted, or of another workspace.

        Their requests may be billed. Their results are "missing", with the API's error; where the
        names are not known (:meth:`Batches.resume` without ``custom_ids``) they are left out.
        """
        return tuple(self._gone)

    @property
    def ids(self) -> tuple[str, ...]:
        """The batches' ids. Store them: with them, any process can get the results."""
        return tuple(batch.id for batch in self._created)

    @property
    def custom_ids(self) -> Optional[tuple[str, ...]]:
        """The requests' names in the caller's order; None if they are not known."""
        if self._order is not None:
            return tuple(self._order)
        known = [batch.custom_ids for batch in self._created]
        return None if None in known else tuple(name for names in known for name in names or ())

    # -- looking ---------------------------------------------------------------------------------

    def progress(self) -> BatchProgress:
        """How many requests are in which state. Asks the API if a poll is due.

            >>> handle.progress().succeeded
            0

        Waits for the API ten seconds at most; then, and between polls, it returns what is known.
        Thread-safe. Raises what result() raises.
        """
        self._poll_briefly()
        with self._client.changed:
            states = list(self._states.values())
        return BatchProgress(
            *(sum(state.counts[name] for state in states) for name in BatchProgress._fields)
        )

    def done(self) -> bool:
        """Whether all batches have ended, as far as is known; asks as progress() does."""
        self._poll_briefly()
        with self._client.changed:
            return not self._pending_locked()

    # -- results ---------------------------------------------------------------------------------

    def result(self, timeout: Optional[float] = None) -> list[BatchResult]:
        """Wait, *timeout* seconds at most, and return all results, in the caller's order.

            >>> [result.message for result in handle.result(timeout=3600)]

        If they do not fit in memory, use results(). Thread-safe; the class tells what it raises.
        """
        return list(self.results(timeout))

    def results(self, timeout: Optional[float] = None) -> Iterator[BatchResult]:
        """Wait, *timeout* seconds at most, and iterate over the results, in the caller's order.

            >>> for result in handle.results():
            ...     print(result.custom_id, result.error or result.message)

        Only one result is in memory at a time; until the handle is dropped, all are in a temporary
        file without a name. Thread-safe; one iterator belongs to one thread.
        """
        self._require_here()
        deadline = self._client.deadline(timeout)
        self._wait_until_ended(deadline)
        files = self._collect(deadline)
        self._require_found()
        if self._order is not None:
            return (self._result(name, files, self.gone) for name in self._order)
        # Each name in its own batch: two that were sent apart may use the same.
        return (
            self._result(name, [file], [batch.id])
            for batch, file in zip(self._created, files)
            for name in (file if batch.custom_ids is None else batch.custom_ids)
        )

    def _result(
        self, name: str, files: Sequence[ResultsFile], batches: Iterable[str]
    ) -> BatchResult:
        self._require_here()  # a child shares the file's place with its parent
        found = (file.message_at(name) for file in files)
        line = next((line for line in found if line is not None), None)
        refusals = (self._gone[batch_id] for batch_id in batches if batch_id in self._gone)
        return result_of(name, line, self._raw, self._client.url, next(refusals, None))

    def cancel(self) -> None:
        """Ask the API to end the batches; requests that it has begun may still succeed.

            >>> handle.cancel()

        Thread-safe. Raises what result() raises, after all were asked for.
        """
        self._require_here()
        with self._client.changed:
            pending = self._pending_locked()
        refusals = [error for error in map(self._cancel, pending) if error is not None]
        if refusals:
            raise refusals[0]

    def _cancel(self, batch_id: str) -> Optional[Exception]:
        try:
            state = self._client.cancel(batch_id, None)
        except Exception as error:  # noqa: BLE001 - raised when the others have been tried
            return error
        with self._client.changed:
            self._states[batch_id] = state
            self._poll_at = min(self._poll_at, self._client.clock.monotonic() + self._pause)
            self._client.changed.notify_all()
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
        if self._client.pid != os.getpid():
            raise Forked(
                "this handle belongs to the parent process; batches.resume(handle.ids) gets the "
                "results here, too"
            )

    def _require_found(self) -> None:
        """Raise the API's refusal if all batches are gone: there is nothing else to tell."""
        if len(self._gone) == len(set(self.ids)):
            raise self._gone[self.ids[0]]

    def _pending_locked(self) -> list[str]:
        """The ids of batches not known to have ended. The caller must hold ``changed``."""
        ended = {name for name, state in self._states.items() if state.ended} | self._gone.keys()
        return [name for name in self.ids if name not in ended]

    # Polls and waits in turns. A DeadlineExceeded of the poll itself is not the end: another thread
    # may have polled with success, and only wait_locked() knows whether time is really up.
    def _wait_until_ended(self, deadline: Optional[float]) -> None:
        while True:
            try:
                self._poll_if_due(deadline)
            except DeadlineExceeded:
                self._wait_for_others(deadline)
            with self._client.changed:
                if not self._pending_locked():
                    return
                left = self._poll_at - self._client.clock.monotonic()
                if self._asking or left > 0:
                    self._client.wait_locked(None if self._asking else left, deadline)

    def _wait_for_others(self, deadline: Optional[float]) -> None:
        """The API cannot be asked before *deadline*; another thread may have asked it."""
        with self._client.changed:
            while self._pending_locked():
                self._client.wait_locked(None, deadline)

    def _poll_briefly(self) -> None:
        self._require_here()
        with contextlib.suppress(DeadlineExceeded):
            self._poll_if_due(self._client.clock.monotonic() + BRIEFLY_SECONDS)
        self._require_found()

    # At most one thread at a time asks the API. `mine` is assigned before the flag, so that Ctrl-C
    # between the two cannot leave the flag set.
    def _poll_if_due(self, deadline: Optional[float]) -> None:
        client, mine = self._client, False
        states: list[State] = []
        ended_from_here = True
        try:
            with client.changed:
                pending = self._pending_locked()
                if not pending or self._asking or client.clock.monotonic() < self._poll_at:
                    return
                mine = self._asking = True
            states = self._ask(pending, deadline)
            ended_from_here = False
        except Exception as error:
            ended_from_here = isinstance(error, DeadlineExceeded)
            if not _is_temporary(error) or self._has_failed_long():
                raise
            logger.info("batches: a poll failed (%s); others follow", type(error).__name__)
        finally:
            if mine:
                self._learn(states, ended_from_here)

    def _has_failed_long(self) -> bool:
        now = self._client.clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        return now - self._failing_since > GIVE_UP_SECONDS

    def _ask(self, pending: list[str], deadline: Optional[float]) -> list[State]:
        found: dict[str, State] = {}
        if len(pending) > 1:  # one request for all, if they are among the newest
            listed = {state.id: state for state in self._client.recent(deadline)}
            found = {name: listed[name] for name in pending if name in listed}
        for name in pending:
            if name not in found and (state := self._look(name, deadline)) is not None:
                found[name] = state
        return list(found.values())

    def _look(self, name: str, deadline: Optional[float]) -> Optional[State]:
        """The state of one batch; None if the API does not know it (yet), which stops no other."""
        try:
            return self._client.status_of(name, deadline)._replace(id=name)
        except Exception as error:
            if not _is_unknown(error):
                raise
            self._note_unknown(name, error)
        return None

    def _note_unknown(self, name: str, error: Exception) -> None:
        """The API does not know a batch: it is gone, unless it is new."""
        if self._client.clock.monotonic() < self._new_until:
            return
        logger.warning("batch %s is gone: deleted, or of another workspace", name)
        with self._client.changed:
            self._gone[name] = error
            self._states.pop(name, None)

    def _learn(self, states: list[State], at_once: bool) -> None:
        """Note the *states* that a poll brought; if *at_once*, the next thread may poll now."""
        self._asking = False  # first, and without the lock: Ctrl-C may come any time
        with self._client.changed:
            now = self._client.clock.monotonic()
            if states:
                self._failing_since = None
            self._states.update((state.id, state) for state in states)
            if not at_once:
                self._poll_at = now + self._next_pause()
            self._client.changed.notify_all()

    def _next_pause(self) -> float:
        pause = self._pause
        if self._every is None:
            self._pause = min(LONGEST_POLL_SECONDS, pause * GROWTH)
        return pause * random.uniform(1.0 - JITTER, 1.0 + JITTER)

    def _collect(self, deadline: Optional[float]) -> list[ResultsFile]:
        """The results of all batches, fetched once, by one thread."""
        client, mine = self._client, False
        try:
            with client.changed:
                while self._asking:
                    client.wait_locked(None, deadline)
                missing = [batch for batch in self._created if batch.id not in self._files]
                mine = self._asking = True
            for batch in missing:
                self._files[batch.id] = self._fetched(batch, deadline)
        finally:
            if mine:
                self._asking = False
                with client.changed:
                    client.changed.notify_all()
        return [self._files[batch.id] for batch in self._created]

    def _fetched(self, batch: CreatedBatch, deadline: Optional[float]) -> ResultsFile:
        """The results of one batch, asked for until they are there; none if it is gone."""
        while batch.id not in self._gone:
            try:
                file = self._fetch(batch, deadline)
                self._client.recorder.count_batch_results(file.kinds, file.usage)
                return file
            except Exception as error:
                if not _is_unknown(error):
                    raise
                self._note_unknown(batch.id, error)
            if batch.id not in self._gone:
                self._client.wait_seconds(self._next_pause(), deadline)
        return ResultsFile(None)

    def _fetch(self, batch: CreatedBatch, deadline: Optional[float]) -> ResultsFile:
        names = batch.custom_ids if batch.custom_ids is not None else self._order
        results = partial(self._client.results, batch.id, deadline=deadline)
        return fetch_results(results, names, sum(self._states[batch.id].counts.values()))


def _is_unknown(error: Exception) -> bool:
    """Whether the API itself says that there is no such batch, or no such results."""
    return getattr(error, "status_code", None) == 404 and is_not_found(getattr(error, "body", None))


def _is_temporary(error: Exception) -> bool:
    """Whether the next poll may succeed."""
    if isinstance(error, (BrokenAnswer, CircuitOpen)):
        return True
    status = getattr(error, "status_code", None)
    if status is None:
        return type(error).__name__ in ("APIConnectionError", "APITimeoutError")
    return status >= 500 or status in (408, 409, 429)

"""A run at work as Message Batches: lines in, batches through the API, results out.

All in the main thread: reading, sending, waiting and writing come one after the other, and Ctrl-C
ends any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Optional

import claude_throttle
from claude_throttle.cli import outcomes
from claude_throttle.cli.batch_journal import Journal, JournalEntry, digest_of
from claude_throttle.cli.exits import CannotStart
from claude_throttle.cli.job import JobStopped, Tally
from claude_throttle.cli.line_errors import LineErrors
from claude_throttle.cli.lines import Line, Problem
from claude_throttle.cli.progress import Snapshot
from claude_throttle.cli.results import Results

#: Seconds that this machine's clock and the API's may be apart. A clock that is set to another
#: zone's time must not make a batch that was paid for look older than its creation.
CLOCK_SLACK_SECONDS = 86_400.0

#: Batches that are looked through for one that a killed run may have made.
MOST_RECENT = 10_000


class BatchJob:
    """One run over one input."""

    def __init__(
        self,
        throttler: claude_throttle.Throttler,
        results: Results,
        journal: Journal,
        total: Optional[int] = None,
        poll_seconds: Optional[float] = None,
    ) -> None:
        self.tally = Tally()
        self.throttler = throttler
        self.results = results
        self._journal = journal
        self._total = total
        self._poll_seconds = poll_seconds
        self._complaints = LineErrors(print)
        self._say: Callable[[str], None] = print
        # Requests in batches that have not ended.
        self._out = 0
        # Answered in batches of an earlier run, and counted as they came.
        self._came: set[str] = set()

    def __enter__(self) -> BatchJob:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing runs beside it."""

    def snapshot(self) -> Snapshot:
        """How far it is; from any thread."""
        words = f"{self._out:,} in batches" if self._out else "reading"
        return Snapshot(self.tally.finished, self._total, words)

    def closing_words(self) -> str:
        """Nothing that the counts do not tell."""
        return ""

    def work(self, lines: Generator[Line, None, None], say: Callable[[str], None]) -> None:
        """Collect what earlier runs sent, send what is missing, wait; raises what stopped it."""
        self._say = say
        self._complaints = LineErrors(say)
        try:
            self._find_lost_ones()
            self._collect_earlier()
            self._send(lines)
        except claude_throttle.ConfigurationError as error:
            raise CannotStart(str(error)) from None
        except claude_throttle.AccountSuspended as error:
            raise JobStopped(outcomes.suspended(error)) from None
        except claude_throttle.ThrottleError as error:
            raise JobStopped(str(error)) from None
        except Exception as error:
            # The SDK's, known by its looks: importing it for a name takes half a second.
            if not type(error).__module__.startswith("anthropic"):
                raise
            raise JobStopped(self._refusal(error)) from None

    def _refusal(self, error: Exception) -> str:
        text = outcomes.words(outcomes.errored(error))
        if _is_gone(error):
            text += f"; to send its requests again, remove {self._journal.path}"
        return text

    # -- what earlier runs left ------------------------------------------------------------------

    def _find_lost_ones(self) -> None:
        """Batches that were about to be made when a run ended: were they?"""
        for attempt in list(self._journal.noted.unsure):
            found = self._find(attempt)
            if found is None:
                self._journal.never_created(attempt.digest)
            else:
                self._journal.created(found, attempt.digest)

    def _find(self, attempt: JournalEntry) -> Optional[str]:
        """The id of a batch of just these requests."""
        for state in self.throttler.batches.recent(MOST_RECENT):
            if state.id in self._journal.noted.known_ids or not _may_be(state, attempt):
                continue
            if not state.ended:
                self._say(f"batch {state.id} may be one whose id a killed run never heard; waiting")
            # Only results tell what is in a batch.
            handle = self._resume([state.id])
            names = [result.custom_id for result in handle.results()]
            if digest_of(names) == attempt.digest:
                return state.id
            total = handle.progress().total
            if len(names) < total:
                raise JobStopped(
                    f"batch {state.id} may be one whose id an earlier run never heard, but only "
                    f"{len(names)} of its {total} results can be read; run it again later"
                )
        return None

    def _collect_earlier(self) -> None:
        ids = list(self._journal.noted.open_ids)
        if not ids:
            return
        self._say(f"waiting for {_several(ids)} of an earlier run: {', '.join(ids)}")
        try:
            self._collect(ids)
        except Exception as error:
            if not _is_gone(error):
                raise
            for batch_id in ids:  # what the others brought is paid for
                self._collect_unless_gone(batch_id)
            raise

    def _collect(self, ids: Sequence[str]) -> None:
        for result in self._results_of(self._resume(ids)):
            self._keep(result)
            if result.error is None:
                self.tally.succeeded += 1
                self._came.add(result.custom_id)
            # Else its line is sent again, and counted then.

    def _collect_unless_gone(self, batch_id: str) -> None:
        try:
            self._collect([batch_id])
        except Exception as error:
            if not _is_gone(error):
                raise

    def _resume(self, ids: Sequence[str]) -> claude_throttle.BatchHandle:
        return self.throttler.batches.resume(ids, raw=True, poll_seconds=self._poll_seconds)

    # -- what is missing -------------------------------------------------------------------------

    def _send(self, lines: Iterator[Line]) -> None:
        requests = self._requests(lines)
        first = next(requests, None)
        if first is None:
            return
        handle = self.throttler.batches.submit(
            _all_of(first, requests),
            raw=True,
            poll_seconds=self._poll_seconds,
            on_create=self._noting,
        )
        several = f"{self._out:,} request{'s' * (self._out != 1)}"
        self._say(f"{several} in {_several(handle.ids)}, noted in {self._journal.path}")
        for result in self._results_of(handle):
            self._count(result, self._keep(result))

    def _requests(self, lines: Iterator[Line]) -> Iterator[tuple[str, dict[str, Any]]]:
        for line in lines:
            if line.custom_id in self.results.recorded.succeeded:
                self.tally.skipped += line.custom_id not in self._came
            elif isinstance(line, Problem):
                self._refuse(line, "InvalidLine", line.reason)
            else:
                request = (line.custom_id, line.params)
                try:
                    self.throttler.batches.check(request)
                except claude_throttle.InvalidCall as error:
                    self._refuse(line, type(error).__name__, str(error))
                else:
                    yield request
        self._complaints.sum_up()

    def _refuse(self, line: Line, kind: str, reason: str) -> None:
        self.tally.unusable += 1
        mended_at_once = isinstance(line, Problem) and line.mended_at_once
        self._complaints.add(line.number, reason, mended_at_once)
        # The next run finds the same fault in the same line: once in the output is enough.
        if line.custom_id not in self.results.recorded.errored:
            result = outcomes.refused(kind, f"line {line.number}: {reason}")
            self.results.append(line.custom_id, result)

    def _noting(self, batch_id: Optional[str], custom_ids: Sequence[str]) -> None:
        if batch_id is None:
            self._journal.creating(custom_ids, claude_throttle.SYSTEM_CLOCK.wall())
        else:
            self._journal.created(batch_id, digest_of(custom_ids))
            self._out += len(custom_ids)

    # -- what came of it -------------------------------------------------------------------------

    def _results_of(
        self, handle: claude_throttle.BatchHandle
    ) -> Iterator[claude_throttle.BatchResult]:
        """Wait, tell the results, note that they are in the output."""
        whole = True
        for result in handle.results():
            whole = whole and result.kind != "missing"
            # A kill may have come when some of them were in it.
            if result.custom_id not in self.results.recorded.succeeded:
                yield result
        for batch_id in handle.ids if whole else ():  # else the next run asks once more
            self._journal.collected(batch_id)
        self._out = 0

    def _keep(self, result: claude_throttle.BatchResult) -> outcomes.Result:
        if result.error is not None or result.message is None:
            outcome = outcomes.errored(result.error or ValueError("no message"))
        else:
            outcome = outcomes.succeeded(result.message)
            # Its line need not be sent any more.
            self.results.recorded.succeeded.add(result.custom_id)
        self.results.append(result.custom_id, outcome)
        return outcome

    def _count(self, result: claude_throttle.BatchResult, outcome: outcomes.Result) -> None:
        if result.error is None:
            self.tally.succeeded += 1
        else:
            self.tally.add_failure(outcome)


def _all_of(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _is_gone(error: Exception) -> bool:
    """Deleted, or another workspace's."""
    return getattr(error, "status_code", None) == 404


def _several(ids: Sequence[str]) -> str:
    return "a batch" if len(ids) == 1 else f"{len(ids):,} batches"


def _may_be(state: claude_throttle.BatchState, attempt: JournalEntry) -> bool:
    # An API that counts nothing before the end says 0.
    if state.progress.total not in (0, attempt.count):
        return False
    try:
        created = datetime.fromisoformat(state.created_at[:19]).replace(tzinfo=timezone.utc)
    except ValueError:
        return True
    return created.timestamp() >= attempt.at - CLOCK_SLACK_SECONDS

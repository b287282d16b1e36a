"""One ``run --batch``: lines are sent as Message Batches, and their results are written.

Everything happens in the main thread, one step after another, so Ctrl-C can end any of them.
:mod:`job` is its counterpart for single calls, with the same interface for :mod:`run`. The trap is
a batch that was created while its id was lost, by a kill or a broken connection: to send its lines
again would be paid for twice. So the journal (:mod:`batch_journal`) is written before each
creation, and the next run looks for that batch at the API before it sends anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Optional

import claude_throttle
from claude_throttle.cli import CannotStart, outcomes
from claude_throttle.cli.batch_journal import (
    Journal,
    JournalEntry,
    digest_of,
    name_at_api,
    own_name,
)
from claude_throttle.cli.job import JobStopped, Tally, is_answered
from claude_throttle.cli.lines import Line, LineErrors, Problem
from claude_throttle.cli.lost_batch import Candidate, whose
from claude_throttle.cli.progress import Snapshot
from claude_throttle.cli.results import Results

#: Seconds by which this machine's clock and the API's may differ. Even a clock in the wrong time
#: zone must not make a batch that is paid for look older than its creation.
CLOCK_SLACK_SECONDS = 86_400.0

#: Batches that are searched for one that a killed run may have created.
SEARCHED_BATCHES = 10_000


class BatchJob:
    """One run over one input. Owned by one thread; :meth:`progress` may be called from any.

    Use it as a context manager, like :class:`claude_throttle.cli.job.Job`.
    """

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
        self._line_errors = LineErrors(print)
        self._say: Callable[[str], None] = print
        # Requests in batches that have not ended.
        self._in_batches = 0
        # Answers from batches of an earlier run that this run has counted.
        self._counted: set[str] = set()
        # Of the requests in the batches whose results are read, by their names at the API.
        self._digests: dict[str, str] = {}

    def __enter__(self) -> BatchJob:
        """Nothing to begin: the main thread does all the work."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Do nothing: no other thread has to be ended."""

    def progress(self) -> Snapshot:
        """The progress so far."""
        words = f"{self._in_batches:,} in batches" if self._in_batches else "reading"
        return Snapshot(self.tally.finished, self._total, words)

    def closing_words(self) -> str:
        """No more than the counts: batches have no totals of their own."""
        return ""

    def work(self, lines: Generator[Line, None, None], say: Callable[[str], None]) -> None:
        """Collect the batches of earlier runs, send what is missing, and wait for the results.

        Raises :class:`JobStopped` or :class:`CannotStart` with the reason if it cannot go on.
        """
        self._say = say
        self._line_errors = LineErrors(say)
        try:
            self._find_unrecorded()
            self._collect_earlier()
            self._send(lines)
        except claude_throttle.ConfigurationError as error:
            raise CannotStart(str(error)) from None
        except claude_throttle.AccountSuspended as error:
            raise JobStopped(outcomes.suspended(error)) from None
        except claude_throttle.ThrottleError as error:
            raise JobStopped(str(error)) from None
        except Exception as error:
            # An error of the SDK is known by its module: importing the SDK takes half a second.
            if not type(error).__module__.startswith("anthropic"):
                raise
            raise JobStopped(outcomes.words(outcomes.errored(error))) from None

    # -- batches of earlier runs -----------------------------------------------------------------

    def _find_unrecorded(self) -> None:
        """Find out which batches were created that a run was about to create when it ended.

        Each such attempt is then recorded as created or as never created, so that the search is
        made once.
        """
        for attempt in list(self._journal.contents.unsure):
            found = self._find(attempt)
            if found is None:
                self._journal.never_created(attempt.digest)
            else:
                self._journal.created(found, attempt.digest)

    def _find(self, attempt: JournalEntry) -> Optional[str]:
        """The id of the batch that has exactly the requests of *attempt*, if there is one.

        The API can list batches, not search them. So recent ones are compared by number of requests
        and time of creation, and then by the ``custom_id``s in their results. Results exist only
        when a batch has ended: this may wait.
        """
        same: list[Candidate] = []
        for state in self.throttler.batches.recent(SEARCHED_BATCHES):
            if state.id in self._journal.contents.known_ids or not _may_be(state, attempt):
                continue
            if same and not state.ended:  # a person decides, and need not wait for it
                same.append(Candidate(state))
                continue
            models = self._answers_of(state, attempt)
            if models is not None and attempt.is_recognisable:
                return state.id
            if models is not None:
                same.append(Candidate(state._replace(ended=True), models))
        if same:
            raise JobStopped(whose(attempt, same, self._journal.path))
        return None

    def _answers_of(
        self, state: claude_throttle.BatchState, attempt: JournalEntry
    ) -> Optional[frozenset[str]]:
        """The models that answered a batch with the names of *attempt*; None if it has others."""
        if not state.ended:
            self._say(f"batch {state.id} may be one that a killed run did not record; waiting")
        # Only its results show which requests are in a batch.
        handle = self._resume([state.id])
        answers = {result.custom_id: result.message for result in handle.results()}
        if digest_of(answers) == attempt.digest:
            models = {str(message.get("model")) for message in answers.values() if message}
            return frozenset(outcomes.words(outcomes.refused("", model)) for model in models)
        total = handle.progress().total
        if len(answers) < total:
            raise JobStopped(
                f"batch {state.id} may be one that an earlier run did not record, but only "
                f"{len(answers)} of its {total} results can be read; run it again later"
            )
        return None

    def _collect_earlier(self) -> None:
        """Wait for the batches of earlier runs before anything is sent: they may answer its lines.

        If one of them is gone, or cannot be read whole, the others are collected first, and then
        the run ends: nobody knows which lines are in it, and they may be paid for.
        """
        ids = list(self._journal.contents.open_ids)
        if not ids:
            return
        self._say(f"waiting for {_several(ids)} of an earlier run: {', '.join(ids)}")
        gone = [batch_id for batch_id in ids if self._collect(batch_id)]
        unread = self._journal.contents.open_ids
        if gone:
            raise JobStopped(
                f"{', '.join(gone)}: not at the API any more (deleted, or of another workspace); "
                "its requests may be paid for, so nothing more is sent; see examples/guides/"
                "command_line.md, “A batch that is gone”"
            )
        if unread:
            raise JobStopped(
                f"{', '.join(unread)}: not all results can be read; they may be paid for, so "
                "nothing more is sent; run the same command later"
            )

    def _collect(self, batch_id: str) -> bool:
        """Write the results of a batch; True if it is gone."""
        self._digests = self._journal.contents.digests.get(batch_id, {})
        handle = self._resume([batch_id])
        try:
            for result in self._results_of(handle):
                self._keep(result)
                if result.error is None:
                    self.tally.succeeded += 1
                    self._counted.add(own_name(result.custom_id, self._digests))
                # Otherwise its line is sent again, and counted then.
        except Exception:
            if not handle.gone:
                raise
        return bool(handle.gone)

    def _resume(self, ids: Sequence[str]) -> claude_throttle.BatchHandle:
        return self.throttler.batches.resume(ids, raw=True, poll_seconds=self._poll_seconds)

    # -- new batches -----------------------------------------------------------------------------

    def _send(self, lines: Iterator[Line]) -> None:
        """Submit all remaining lines, report the batches, and write the results as batches end.

        Without a single request no batch is created; the API would refuse an empty one.
        """
        self._digests = {}
        requests = self._requests(lines)
        first = next(requests, None)
        if first is None:
            return
        handle = self.throttler.batches.submit(
            itertools.chain([first], requests),
            raw=True,
            poll_seconds=self._poll_seconds,
            on_create=self._record_batch,
        )
        several = f"{self._in_batches:,} request{'s' * (self._in_batches != 1)}"
        self._say(f"{several} in {_several(handle.ids)}, recorded in {self._journal.path}")
        for result in self._results_of(handle):
            self._count(result, self._keep(result))

    def _requests(self, lines: Iterator[Line]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The requests that have to be sent; everything else is counted or reported on the way.

        Each is checked by itself first: the API would refuse a whole batch for one bad
        ``custom_id``.
        """
        for line in lines:
            if is_answered(line, self.results, self._line_errors):
                self.tally.skipped += line.custom_id not in self._counted
            elif isinstance(line, Problem):
                self._refuse(line, "InvalidLine", line.reason)
            else:
                is_named = not line.custom_id.startswith(f"line-{line.number}-")
                name = line.custom_id if is_named else name_at_api(line.custom_id, line.digest)
                request = (name, line.params)
                try:
                    self.throttler.batches.check(request)
                except claude_throttle.InvalidCall as error:
                    self._refuse(line, type(error).__name__, str(error))
                else:
                    self._digests[name] = line.digest
                    yield request
        self._line_errors.sum_up()

    def _refuse(self, line: Line, kind: str, reason: str) -> None:
        self.tally.unusable += 1
        fixed_by_option = isinstance(line, Problem) and line.fixed_by_option
        self._line_errors.report(line.number, reason, fixed_by_option)
        # Each run finds the same fault in the same line; one entry in the output is enough.
        if line.custom_id not in self.results.recorded.errored:
            result = outcomes.refused(kind, f"line {line.number}: {reason}")
            self.results.append(line.custom_id, result)

    def _record_batch(self, batch_id: Optional[str], custom_ids: Sequence[str]) -> None:
        """Write the journal: before a batch is created (no id yet), and when its id is known."""
        if batch_id is None:
            digests = {name: self._digests[name] for name in custom_ids}
            self._journal.creating(digests, claude_throttle.SYSTEM_CLOCK.wall())
        else:
            self._journal.created(batch_id, digest_of(custom_ids))
            self._in_batches += len(custom_ids)

    # -- results ---------------------------------------------------------------------------------

    def _results_of(
        self, handle: claude_throttle.BatchHandle
    ) -> Iterator[claude_throttle.BatchResult]:
        """Wait for the results, yield them, and record that they are in the output."""
        complete, count = True, 0
        for result in handle.results():
            count += 1
            complete = complete and result.kind != "missing"
            # Some may be in the output already: an earlier run was killed while it wrote them.
            if not self._is_written(result.custom_id):
                yield result
        if complete and count >= handle.progress().total:  # otherwise the next run asks again
            for batch_id in handle.ids:
                if batch_id not in handle.gone:
                    self._journal.collected(batch_id)
        self._in_batches = 0

    def _is_written(self, name: str) -> bool:
        custom_id, digest = own_name(name, self._digests), self._digests.get(name)
        if digest is None:
            return custom_id in self.results.recorded.succeeded
        return self.results.has_answer(custom_id, digest)

    def _keep(self, result: claude_throttle.BatchResult) -> outcomes.Result:
        """Write one result to the output, and remember a success: its line is not sent again."""
        name, digest = result.custom_id, self._digests.get(result.custom_id, "")
        custom_id = own_name(name, self._digests)
        if result.error is not None or result.message is None:
            outcome = outcomes.errored(result.error or ValueError("no message"))
        else:
            outcome = outcomes.succeeded(result.message)
            # Its line need not be sent again.
            self.results.recorded.add_newest(custom_id, True, digest)
        self.results.append(custom_id, outcome, digest)
        return outcome

    def _count(self, result: claude_throttle.BatchResult, outcome: outcomes.Result) -> None:
        if result.error is None:
            self.tally.succeeded += 1
        else:
            self.tally.add_failure(outcome)


def _several(ids: Sequence[str]) -> str:
    return "a batch" if len(ids) == 1 else f"{len(ids):,} batches"


def _may_be(state: claude_throttle.BatchState, attempt: JournalEntry) -> bool:
    """Whether the batch *state* can be the one of *attempt*, by its size and its time of creation.

    A date that cannot be read does not rule it out: then its results decide.
    """
    # The total may be 0 until the batch has ended.
    if state.progress.total not in (0, attempt.count):
        return False
    try:
        created = datetime.fromisoformat(state.created_at[:19]).replace(tzinfo=timezone.utc)
    except ValueError:
        return True
    return created.timestamp() >= attempt.at - CLOCK_SLACK_SECONDS

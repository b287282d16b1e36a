"""One ``run``: lines are sent as calls through the throttler, and their results are written.

There are three kinds of threads. A reader submits the lines; it may block for long, in a full queue
or an empty pipe, and the throttler's ``max_queue`` limits how far it reads ahead. The throttler's
sender threads write the answers, in the futures' callbacks, so an answer is written at once. The
main thread only waits, so Ctrl-C never interrupts the holder of a lock.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

import claude_throttle
from claude_throttle.cli import CannotStart, outcomes
from claude_throttle.cli.lines import Line, LineErrors, LineRequest, Problem
from claude_throttle.cli.outage_watch import OutageWatch
from claude_throttle.cli.progress import Snapshot, counted, in_words, learned_rpm
from claude_throttle.cli.results import Results

#: Seconds of one wait. Ctrl-C can be lost during a longer one, if it comes just before the wait
#: begins or the system delivers it to another thread.
SLICE_SECONDS = 0.25

#: Seconds for which a run that was stopped waits for what is on the wire, since it is paid for.
FINISH_SECONDS = 60.0

#: Seconds between looks at what is still on the wire.
FINISH_LOOK_SECONDS = 0.05

#: Seconds that the end waits for the reader. It may be blocked in an empty pipe, which nothing can
#: interrupt; it is a daemon thread, and the process ends without it.
READER_GRACE_SECONDS = 1.0


#: Said of a line whose answer in the output is to another request of its id.
OTHER_REQUEST = (
    "OUT answers another request for it (other text, model, system, max_tokens or options, or "
    "--fake), so it is sent again; to keep both answers, give another OUT"
)


class JobStopped(Exception):
    """The run ends early, although lines are left. Its text is the reason, for the user."""


@dataclass
class Tally:
    """Counts of lines, by how they ended.

    Guarded by the lock of its job, where threads share it.
    """

    succeeded: int = 0
    failed: int = 0
    #: Never sent: broken lines, and requests that are certain to be refused.
    unusable: int = 0
    #: Answered by an earlier run.
    skipped: int = 0
    #: Cut off on the wire, and not written: each may be billed.
    cut_off: int = 0
    #: Failed ones without a whole answer, each of which may be billed.
    unanswered: int = 0
    #: Failed ones by type of error.
    reasons: Counter[str] = field(default_factory=Counter)
    #: The message of the first error of each type.
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Lines that need no more work in this run."""
        return self.succeeded + self.failed + self.unusable + self.skipped

    def add_failure(self, result: outcomes.Result) -> None:
        """Count one failed line, and its error."""
        self.failed += 1
        kind = outcomes.kind(result)
        self.reasons[kind] += 1
        self.examples.setdefault(kind, outcomes.words(result))


class Job:
    """One run over one input. :meth:`progress` may be called from any thread.

    Enter it before its throttler, as in ``with job, job.throttler``. The throttler is then closed
    first, which ends the reader's wait in a full queue, and the reader is joined afterwards.
    """

    def __init__(
        self,
        throttler: claude_throttle.Throttler,
        results: Results,
        total: Optional[int] = None,
        outage_watch: Optional[OutageWatch] = None,
    ) -> None:
        self.tally = Tally()
        self.throttler = throttler
        self.results = results
        self._line_errors = LineErrors(print)
        # A listener of the throttler's events.
        self._outage_watch = outage_watch if outage_watch is not None else OutageWatch()
        self._say: Callable[[str], None] = print
        self._total = total
        self._started_at = claude_throttle.SYSTEM_CLOCK.monotonic()
        # Guards tally and _open; notified when a call ends or everything stops.
        self._changed = threading.Condition()
        self._open = 0
        # Set once, by the first thread that stops the run. The main thread takes no lock for it.
        self._stopped_by: Optional[BaseException] = None
        # The run was stopped, and waits for what is on the wire. Written by the main thread only.
        self._finishing = False
        # Whether the output could take all results so far; then more answers can be kept.
        self._keeps = True
        self._reader: Optional[threading.Thread] = None

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait for the reader. Close the throttler first: that ends its wait in a full queue."""
        if self._reader is not None and self._reader.ident is not None:
            self._reader.join(READER_GRACE_SECONDS)

    def work(self, lines: Generator[Line, None, None], say: Callable[[str], None]) -> None:
        """Send the lines that have no answer yet, and wait; raise whatever stopped the run.

        A run that is stopped waits for the answers on the wire first; Ctrl-C ends that wait. *say*
        is called with messages about outages and lines that cannot be sent. The thread that reads
        *lines* closes it.
        """
        self._say = say
        self._line_errors = LineErrors(say)
        self._outage_watch.say = say
        # A daemon thread: nothing can interrupt its read from a terminal or a pipe.
        self._reader = threading.Thread(
            target=self._read, args=(lines,), name="claude-throttle-reader", daemon=True
        )
        try:
            self._reader.start()
            while self._reader.is_alive() and self._stopped_by is None:
                self._reader.join(SLICE_SECONDS)
                self._check_server()
        except BaseException as error:  # noqa: BLE001 - raised below
            self._stopped_by = error
        if self._stopped_by is not None:
            self._finish()
            raise self._stopped_by

    def _finish(self) -> None:
        """Let nothing new leave, and wait for what is on the wire: it is paid for.

        It does not wait where no answer can be kept, or none is to be expected.
        """
        self._finishing = True
        try:
            self.throttler.pause()
            seconds = min(FINISH_SECONDS, self.throttler.settings.timeout or FINISH_SECONDS)
            now = claude_throttle.SYSTEM_CLOCK.monotonic
            give_up_at = now() + seconds
            if self._is_expecting():
                self._say(_finishing_words(self._on_the_wire(), seconds))
            never = threading.Event()
            while self._is_expecting() and now() < give_up_at:
                never.wait(FINISH_LOOK_SECONDS)
        finally:
            self._finishing = False

    def _is_expecting(self) -> bool:
        """Whether an answer that can be kept is on its way."""
        return self._keeps and not self._outage_watch.never_answered and self._on_the_wire() > 0

    def _on_the_wire(self) -> int:
        """Calls whose answer is on its way; one that was refused and waits for a retry is not."""
        return self.throttler.stats().in_flight

    def _read(self, lines: Generator[Line, None, None]) -> None:
        """What the reader thread does: take each line, then wait for the outstanding answers.

        An exception here would be lost in the thread; it is kept and raised by work().
        """
        try:
            with contextlib.closing(lines):
                for line in lines:
                    self._take(line)
                    if self._stopped_by is not None:
                        return
            self._line_errors.sum_up()
            self._wait_for_answers()
        except BaseException as error:  # noqa: BLE001 - work() raises it
            self._stop(error)

    def _check_server(self) -> None:
        """Stop the run if its server has never answered for too long; see :class:`OutageWatch`."""
        reason = self._outage_watch.give_up_reason(claude_throttle.SYSTEM_CLOCK.monotonic())
        if reason is not None:
            self._stop(JobStopped(f"{self.throttler.settings.base_url}: {reason}"))

    def progress(self) -> Snapshot:
        """The progress so far."""
        stats = self.throttler.stats()
        tally = self.tally
        minutes = (claude_throttle.SYSTEM_CLOCK.monotonic() - self._started_at) / 60
        # Skipped lines took no time, so they do not count for the estimate.
        rate = (tally.succeeded + tally.failed) / minutes if minutes > 0 else 0.0
        left = None if self._total is None else max(0, self._total - tally.finished)
        if self._finishing:
            on_the_wire = f"finishing {self._on_the_wire():,}"
            return Snapshot(tally.finished, self._total, "Ctrl-C cuts them off", on_the_wire)
        words = in_words(
            rate_per_minute=rate,
            waiting=stats.waiting,
            refused=stats.rate_limited,
            tokens=stats.input_tokens + stats.output_tokens,
            eta=left * 60 / rate if rate and left is not None else None,
            learned=learned_rpm(self.throttler.limits()),
        )
        return Snapshot(tally.finished, self._total, words)

    def closing_words(self) -> str:
        """Totals that follow the counts in the last line: tokens, refusals, the rate learned."""
        stats, learned = self.throttler.stats(), learned_rpm(self.throttler.limits())
        text = f"; {stats.input_tokens:,} input and {stats.output_tokens:,} output tokens, "
        text += counted(stats.rate_limited, "429")
        return text + (f", {learned:,.0f} rpm learned" if learned is not None else "")

    def _take(self, line: Line) -> None:
        """Skip, refuse or send one line. Runs in the reader thread."""
        if is_answered(line, self.results, self._line_errors):
            self.tally.skipped += 1
        elif isinstance(line, Problem):
            self._refuse(line, "InvalidLine", line.reason)
        else:
            self._send(line)

    def _send(self, line: LineRequest) -> None:
        """Submit one line, and wait while the queue is full.

        A wrong setting concerns all lines and ends the run; any other refusal before sending
        belongs to the line, unless the run has been stopped meanwhile.
        """
        try:
            future = self.throttler.submit(raw=True, block=True, **line.params)
        except claude_throttle.ConfigurationError as error:
            raise CannotStart(str(error)) from None
        except (claude_throttle.ThrottleError, TypeError, ValueError) as error:
            if outcomes.stops_all(error):
                self._stop(JobStopped(outcomes.suspended(error)))
            # After a stop the line is not the cause of the error.
            if self._stopped_by is None:
                self._refuse(line, type(error).__name__, str(error))
            return
        with self._changed:
            self._open += 1
        future.add_done_callback(partial(self._ended, line))

    def _refuse(self, line: Line, kind: str, reason: str) -> None:
        """Report a line that cannot be sent."""
        self.tally.unusable += 1
        fixed_by_option = isinstance(line, Problem) and line.fixed_by_option
        self._line_errors.report(line.number, reason, fixed_by_option)
        # Each run finds the same fault in the same line; one entry in the output is enough.
        if line.custom_id not in self.results.recorded.errored:
            self._write(line, outcomes.refused(kind, f"line {line.number}: {reason}"))

    def _ended(self, line: Line, future: Future[Any]) -> None:
        """A future's callback, in the thread that resolved the future.

        ``concurrent.futures`` only logs what a callback raises, so a bug here also stops the run.
        The call is counted down on every path: otherwise the run would wait for it without end.
        """
        try:
            if not future.cancelled():
                self._record(line, future)
        except BaseException as bug:
            self._stop(bug)
            raise
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _record(self, line: Line, future: Future[Any]) -> None:
        """Write the result of one call, and stop the run if it shows a problem of the account.

        Calls that fail because the run was stopped are not written: the next run sends them.
        """
        error = future.exception()
        if error is None:
            if self._write(line, outcomes.succeeded(future.result())):
                self._count(None)
        elif outcomes.stops_all(error):
            self._stop(JobStopped(outcomes.suspended(error)))
        elif self._stopped_by is not None and isinstance(error, claude_throttle.Closed):
            self._count_cut_off(error.sent)
        elif self._stopped_by is None or (self._finishing and outcomes.was_sent(error)):
            result = outcomes.errored(error)
            if self._write(line, result):
                self._count(result, outcomes.may_be_paid(error))
            # One call's refusal does not stop the others while the API takes them.
            if getattr(error, "status_code", 500) < 500 and self._is_account_suspended():
                self._stop(JobStopped(outcomes.refused_account(error)))

    def _is_account_suspended(self) -> bool:
        """Whether nothing is sent any more; a 403 may be about one model only."""
        reasons = {lane.suspended for lane in self.throttler.limits().values()}
        return bool(reasons - {None, "not permitted"})

    def _count(self, failure: Optional[outcomes.Result], may_be_paid: bool = False) -> None:
        with self._changed:
            if failure is None:
                self.tally.succeeded += 1
                return
            self.tally.add_failure(failure)
            self.tally.unanswered += may_be_paid

    def _count_cut_off(self, sent: bool) -> None:
        """Count a call that ended because the run was stopped, if it was on the wire."""
        with self._changed:
            self.tally.cut_off += sent

    def _write(self, line: Line, result: outcomes.Result) -> bool:
        """Append one result. False if that failed: the run is then stopped."""
        try:
            digest = line.digest if isinstance(line, LineRequest) else ""
            self.results.append(line.custom_id, result, digest)
        except (OSError, ValueError) as error:
            # A full disk or a closed pipe: no further answer could be kept, so none is paid for.
            self._keeps = False
            self._stop(error)
            return False
        return True

    def _stop(self, reason: BaseException) -> None:
        """End the run for *reason*; the first reason is the one that is reported."""
        with self._changed:
            if self._stopped_by is None:
                self._stopped_by = reason
            self._changed.notify_all()

    def _wait_for_answers(self) -> None:
        """Wait until all submitted calls have ended, or the run was stopped.

        In slices, like every wait here: a Ctrl-C that arrives as a long wait begins could be lost.
        """
        with self._changed:
            while self._open and self._stopped_by is None:
                self._changed.wait(SLICE_SECONDS)


def is_answered(line: Line, results: Results, line_errors: LineErrors) -> bool:
    """Whether an earlier run answered *line*. An answer to another request is reported."""
    if isinstance(line, Problem):
        return line.custom_id in results.recorded.succeeded
    if results.has_answer(line.custom_id, line.digest):
        return True
    if line.custom_id in results.recorded.succeeded:
        results.recorded.forget(line.custom_id)
        line_errors.report(line.number, OTHER_REQUEST, True)
    return False


def _finishing_words(count: int, seconds: float) -> str:
    """What a run says that was stopped while *count* answers were on the wire."""
    calls = "1 call that is" if count == 1 else f"{count:,} calls that are"
    return (
        f"nothing more is sent; waiting for {calls} on the wire, {seconds:g} s at most. "
        "Ctrl-C cuts them off, and they may be billed all the same"
    )

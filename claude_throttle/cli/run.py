"""Send every line of IN to Claude, at the pace your quotas allow, and keep every answer.

A line of IN (UTF-8; - reads stdin) is a prompt as a JSON string, an object with "prompt", a
Messages request, or a line of a Message Batch: {"custom_id": ..., "params": {...}}. --model,
--system and --max-tokens fill in what a line leaves out. The key is read from ANTHROPIC_API_KEY.

You need not know your quotas: the first few calls return your limits, and all of them are used.
Quotas that you give (--rpm, --itpm ...) are never exceeded, either.

A line of OUT is a Message Batch result, in the order of arrival:
  {"custom_id": ..., "result": {"type": "succeeded", "message": {...}}}
  {"custom_id": ..., "result": {"type": "errored", "error": {...}}}
A line without a custom_id gets line-NUMBER-HASH, made from its number and its content. A third
field, request_digest, tells whether the same request was answered.

Every answer is written to OUT at once, so a kill loses no answer. Run the same command again to
continue: lines that succeeded are skipped, all others (missing, errored, cut off by a kill) are
sent again, and the newest line of a custom_id counts. OUT is only appended to. With another model,
system, max_tokens or text for a custom_id its answer does not count, and the run says so; if OUT
has an older line with the right answer, that is copied to the end. Without -o answers go to stdout,
and the run cannot be resumed.

Ctrl-C, or SIGTERM, sends nothing more and waits for the answers that are on the wire, 60 s or the
--timeout of a call at most: they are paid for. A second one cuts them off.

A line that cannot be sent (broken, over 32 MB, not UTF-8, a custom_id an earlier line has) is
reported on stderr with its number and goes to OUT as errored; a second use of a custom_id gets an
id of its own there. Empty lines are skipped. The other lines are sent. A refusal that concerns the
whole account (a bad key, a spend limit) stops the run; the next run sends the rest. A server that
never answers stops it, too; the end of a later outage is waited for.

With --batch the lines are sent as Message Batches: at half the price, within a day, with limits of
their own (up to 100,000 lines or 256 MB each, split as needed). Their ids are recorded in
OUT.batches as soon as they are known: after a kill the same command waits for those batches instead
of paying again, and sends only lines that are in none. A custom_id then has 1 to 64 of a-z A-Z 0-9
_ -.

Exit code: 0 all lines succeeded, 1 some did not, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO, Optional, Union

import claude_throttle
from claude_throttle.cli import (
    ALL_WELL,
    INTERRUPTED,
    SOME_FAILED,
    CannotStart,
    quota_options,
    serve_fake,
)
from claude_throttle.cli.batch_job import BatchJob
from claude_throttle.cli.batch_journal import journal_beside
from claude_throttle.cli.job import Job, JobStopped, Tally
from claude_throttle.cli.lines import Line, count_lines, read_lines
from claude_throttle.cli.outage_watch import OutageWatch
from claude_throttle.cli.progress import Progress, counted, is_shown
from claude_throttle.cli.results import Recorded, Results, results_file

#: Types of errors that are quoted at the end, the most frequent ones, one message each.
QUOTED_FAILURES = 3

#: Stands before the digests of answers that ``--fake`` gave: they are no answers of the API.
FAKE_ORIGIN = "fake-"

SUMMARY = "send a file of requests, one per line; resumes where it was stopped"

#: Calls that are read ahead: enough that the worker never waits for the file, few enough that a
#: file of any length fits in memory.
LOOK_AHEAD = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("input", metavar="IN", help="file with one request per line; - is stdin")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=_output, help="file to add answers to (- is stdout)"
    )
    parser.add_argument("--model", help="for lines without one")
    parser.add_argument("--system", metavar="TEXT", help="for lines without one")
    parser.add_argument(
        "--max-tokens", type=quota_options.whole(1), metavar="N", help="for lines without one"
    )
    parser.add_argument(
        "--batch", action="store_true", help="as Message Batches: half the price, within a day"
    )
    parser.add_argument(
        "--poll-seconds",
        type=quota_options.amount,
        metavar="N",
        help="seconds between requests for a batch's state (default: 5 at first, 60 in the end)",
    )
    parser.add_argument("--quiet", action="store_true", help="no bar and no summary on stderr")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--base-url", metavar="URL", help="another server than the Claude API")
    where.add_argument(
        "--fake",
        action="store_true",
        help="try it with a fake API of tier Start: no key, no network",
    )
    quota_options.add_arguments(parser)


def _output(path: str) -> Optional[str]:
    return None if path == "-" else path


def execute(arguments: argparse.Namespace) -> int:
    """Send all lines; return the exit code.

    Resources are closed in the reverse order of their opening. The input is the exception: once the
    reader thread runs, the file is its own, because no other thread may close it during a read.
    """
    with (
        _sigterm_as_ctrl_c(),
        contextlib.ExitStack() as stack,
        contextlib.ExitStack() as until_started,
    ):
        source = until_started.enter_context(_source(arguments.input))
        results = stack.enter_context(_destination(arguments, source))
        outage_watch = OutageWatch()
        journal = None
        if arguments.batch:
            journal = stack.enter_context(journal_beside(arguments.output))
        throttler = _throttler(arguments, stack, outage_watch)
        total = count_lines(source) if is_shown(_hides_bar(arguments)) else None
        lines = _lines(source, quota_options.given(arguments, "model", "max_tokens", "system"))
        if journal is not None:
            batch = BatchJob(throttler, results, journal, total, arguments.poll_seconds)
            return _run(batch, lines, arguments)
        # From here on the reader closes it: only the reader knows when reading has ended.
        until_started.pop_all()
        return _run(Job(throttler, results, total, outage_watch), lines, arguments)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """End the run on SIGTERM as on Ctrl-C, unless the program does something else with it."""
    number = getattr(signal, "SIGTERM", None)
    ours = number is not None and signal.getsignal(number) is signal.SIG_DFL
    # Only the main thread may set what a signal does, and an application may run this in another.
    if number is None or not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def _hides_bar(arguments: argparse.Namespace) -> bool:
    """Whether there is no progress bar: with ``--quiet``, or if answers go to the terminal."""
    # Answers on the same terminal would be mixed with the bar.
    return arguments.quiet or (arguments.output is None and sys.stdout.isatty())


def _run(
    job: Union[Job, BatchJob], lines: Generator[Line, None, None], arguments: argparse.Namespace
) -> int:
    """Run *job* to its end; return the exit code, with a summary on stderr however it ended.

    A BrokenPipeError goes on to main(), which must also discard what is left in stdout's buffer.
    """
    summary = _Summary(arguments)
    bar = Progress(job.progress, quiet=_hides_bar(arguments))
    try:
        with bar as progress, job, job.throttler:
            if job.results.recorded.unreadable:
                unreadable = counted(job.results.recorded.unreadable, "line")
                progress.say(f"{unreadable} of OUT cannot be read as a result")
            job.work(lines, progress.say)
    except KeyboardInterrupt:
        return summary.interrupted(job.tally)
    except BrokenPipeError:
        raise
    except (JobStopped, OSError) as reason:
        return summary.stopped(job.tally, reason)
    return summary.done(job)


def _source(path: str) -> BinaryIO:
    """Open the input. For stdin a new file object over its descriptor, which stays open."""
    # Not sys.stdin.buffer: Python closes it at exit, and aborts if the reader is still in it.
    stdin = path == "-"
    try:
        return open(0 if stdin else path, "rb", closefd=not stdin)
    except OSError as error:
        raise CannotStart(f"cannot read {path}: {error.strerror}") from None


def _lines(source: BinaryIO, fill: dict[str, Any]) -> Generator[Line, None, None]:
    """The lines of *source*, which is closed when the generator is exhausted or closed."""
    with source:
        yield from read_lines(source, fill)


@contextlib.contextmanager
def _destination(arguments: argparse.Namespace, source: BinaryIO) -> Iterator[Results]:
    """The results of the run: appended to a file, or printed, where nothing can be resumed."""
    if arguments.output is None:
        _refuse_same_file(source, sys.stdout.buffer)
        yield Results(sys.stdout.buffer, Recorded())
        return
    origin = FAKE_ORIGIN if arguments.fake else ""
    with results_file(arguments.output, origin) as (stream, results):
        _refuse_same_file(source, stream)
        yield results


def _refuse_same_file(source: BinaryIO, output: BinaryIO) -> None:
    """Raise :class:`CannotStart` if input and output are one file, under whatever names."""
    # Otherwise every answer would become a prompt, and the run would never end.
    try:
        one, other = os.fstat(source.fileno()), os.fstat(output.fileno())
    except OSError:
        return
    if stat.S_ISREG(one.st_mode) and os.path.samestat(one, other):
        raise CannotStart("IN and OUT are the same file")


def _throttler(
    arguments: argparse.Namespace, stack: contextlib.ExitStack, outage_watch: OutageWatch
) -> claude_throttle.Throttler:
    """The throttler of the run. Options given here go before the application's settings.

    What neither has comes from the environment. The API's own address is used unless ``--base-url``
    or ``--fake`` says otherwise.
    """
    settings = quota_options.given(arguments)
    if arguments.fake:
        limits = quota_options.given(arguments, "rpm", "itpm", "otpm", "max_concurrency")
        fake = stack.enter_context(serve_fake.fake_api(latency=0.3, **limits))
        settings.update(serve_fake.settings_for_fake(fake))
    else:
        settings = {**quota_options.application_settings(arguments), **settings}
        if arguments.base_url is not None:
            settings["base_url"] = arguments.base_url
    settings.update(max_queue=LOOK_AHEAD, on_event=outage_watch)
    throttler = quota_options.open_throttler(**settings)
    quota_options.require_key(throttler)
    return throttler


class _Summary:
    """Prints the summary of a run on stderr, and returns its exit code."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._output = arguments.output
        self._quiet = arguments.quiet
        self._batch = arguments.batch

    def interrupted(self, tally: Tally) -> int:
        self._print(f"interrupted: {_counts(tally)}. {self._how_to_continue(tally)}")
        return INTERRUPTED

    def stopped(self, tally: Tally, reason: BaseException) -> int:
        print(f"claude-throttle run: stopped: {reason}", file=sys.stderr)
        self._print(f"{_counts(tally)}. {self._how_to_continue(tally)}")
        self._quote(tally, but=str(reason))
        return SOME_FAILED

    def done(self, job: Union[Job, BatchJob]) -> int:
        tally = job.tally
        self._print(_counts(tally) + job.closing_words())
        self._quote(tally)
        return SOME_FAILED if tally.failed or tally.unusable else ALL_WELL

    def _quote(self, tally: Tally, but: str = "") -> None:
        for kind, _ in tally.reasons.most_common(QUOTED_FAILURES):
            if tally.examples[kind] not in but:
                self._print(f"{kind}: {tally.examples[kind]}")

    def _how_to_continue(self, tally: Tally) -> str:
        if self._output is None:
            return "Without -o there is nothing to resume from."
        if self._batch:
            return "Batches continue at the API; run the same command again to get their results."
        text = "Run the same command again to send the rest"
        if tally.cut_off:
            text += "; what was cut off is then sent once more"
        if tally.unanswered:
            text += f"; {tally.unanswered:,} that failed without an answer may be billed, and are "
            text += "then sent and paid once more, unless you take them out of IN"
        return text + "."

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _counts(tally: Tally) -> str:
    """The tally in words, without the kinds that did not occur."""
    words = [f"{tally.succeeded:,} answered"]
    if tally.skipped:
        words.append(f"{tally.skipped:,} answered before")
    if tally.failed:
        reasons = ", ".join(f"{name} {count:,}" for name, count in tally.reasons.most_common())
        words.append(f"{tally.failed:,} failed ({reasons})")
    if tally.unusable:
        words.append(f"{tally.unusable:,} not usable")
    if tally.cut_off:
        words.append(f"{tally.cut_off:,} cut off on the wire, which may be billed")
    return ", ".join(words)

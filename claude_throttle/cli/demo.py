"""See it work: no key, no network, less than half a minute.

Starts a pretended Claude API with a tight quota and sends it the same work three times: first as
many programs do, from a pool of threads that knows nothing of quotas; then through a Throttler that
was told the quota; then through one that was told nothing and learns it from the answers. The table
at the end is on stdout; its 429s are those the server counted, its least seconds what nobody can
beat: the quota's own pace after a full burst, and one answer's time.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Optional

from claude_throttle import SYSTEM_CLOCK
from claude_throttle.cli import baseline, quota_options
from claude_throttle.cli.exits import ALL_WELL, SOME_FAILED
from claude_throttle.cli.progress import Progress, Snapshot
from claude_throttle.testing import FakeClaude

SUMMARY = "see it work, without a key and without a network"

MODEL = "claude-sonnet-5-5"

#: Sends all bodies to a URL, and tells of each whether it succeeded.
Way = Callable[[str, Sequence[dict[str, Any]], Callable[[bool], None]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything ``demo`` takes."""
    amount, whole = quota_options.amount, quota_options.whole
    for name, kind, default, meaning in (
        ("calls", whole(1), 100, "calls to make, each way"),
        ("rpm", amount, 600, "the server's quota, requests a minute"),
        ("burst", amount, 5, "requests the server lets come at once"),
        ("latency", quota_options.seconds, 0.2, "seconds the server takes to answer"),
        ("threads", whole(1), 20, "size of the thread pool"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar="N", help=f"{meaning} ({default})"
        )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


@dataclass(frozen=True)
class ResultRow:
    """What came of sending the work one way."""

    name: str
    calls: int
    succeeded: int
    #: 429s the server sent.
    refused: int
    seconds: float
    #: A full burst, then the quota's own pace, then one answer's time.
    least_seconds: float


class CallCounter:
    """Ended calls, counted from many threads."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        # Guards the two numbers; notified when one changes.
        self._changed = threading.Condition()
        self._succeeded = 0
        self._failed = 0

    def ended(self, well: bool) -> None:
        """One more."""
        with self._changed:
            self._succeeded += well
            self._failed += not well
            self._changed.notify_all()

    def succeeded(self) -> int:
        """How many succeeded, once all have ended.

        A future tells its waiters before it calls its callbacks: to wait for the futures alone
        would miss the last ones.
        """
        with self._changed:
            while self._succeeded + self._failed < self._calls:
                # Ctrl-C can be lost on a wait without an end.
                self._changed.wait(0.25)
            return self._succeeded

    def snapshot(self) -> Snapshot:
        """For the bar."""
        words = f"{self._succeeded} succeeded, {self._failed} failed"
        return Snapshot(self._succeeded + self._failed, self._calls, words)


def execute(arguments: argparse.Namespace) -> int:
    """All ways, one after the other; returns the exit code."""
    before = _try(f"{arguments.threads} threads", _naively(arguments), arguments)
    told = _try(f"Throttler(rpm={arguments.rpm})", _throttled(rpm=arguments.rpm), arguments)
    learned = _try("Throttler()", _throttled(), arguments)
    print(table([before, told, learned], _columns()))
    # Who is told nothing may be refused once or twice while it learns.
    well = all(row.succeeded == row.calls for row in (told, learned))
    return ALL_WELL if well and not told.refused else SOME_FAILED


def _columns() -> Optional[int]:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _naively(arguments: argparse.Namespace) -> Way:
    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        baseline.send_all(url, bodies, arguments.threads, ended)

    return send


def _throttled(**told: float) -> Way:
    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        def done(future: futures.Future[Any]) -> None:
            if not future.cancelled():  # by Ctrl-C
                ended(future.exception() is None)

        with quota_options.open_throttler(
            api_key="demo-key", base_url=url, proxies={}, testing=False, **told
        ) as throttler:
            for body in bodies:
                throttler.submit(raw=True, block=True, **body).add_done_callback(done)

    return send


def _try(name: str, send: Way, arguments: argparse.Namespace) -> ResultRow:
    # A server of its own for each: the first way leaves its quota empty.
    gc.collect()  # what the last server left: a Ctrl-C that comes in a destructor is lost
    server = FakeClaude(rpm=arguments.rpm, burst=arguments.burst, latency=arguments.latency)
    count = CallCounter(arguments.calls)
    with server as fake, Progress(count.snapshot, quiet=arguments.quiet) as progress:
        if not arguments.quiet:
            progress.say(f"{arguments.calls} calls at {arguments.rpm} a minute: {name}")
        started_at = SYSTEM_CLOCK.monotonic()
        send(fake.url, _bodies(arguments.calls), count.ended)
        succeeded = count.succeeded()
        seconds = SYSTEM_CLOCK.monotonic() - started_at
        refused = sum(arrival.status == 429 for arrival in fake.arrivals)
    return ResultRow(name, arguments.calls, succeeded, refused, seconds, _least_seconds(arguments))


def _least_seconds(arguments: argparse.Namespace) -> float:
    paced = max(0.0, arguments.calls - arguments.burst) * 60 / arguments.rpm
    return float(paced + arguments.latency)


def _bodies(calls: int) -> list[dict[str, Any]]:
    return [
        {
            "model": MODEL,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"Hello, this is call {number}."}],
        }
        for number in range(1, calls + 1)
    ]


def table(rows: Sequence[ResultRow], columns: Optional[int] = None) -> str:
    """Rows as text, with a head; one under the other if the terminal has too few *columns*."""
    width = max(len(row.name) for row in rows)
    head = (
        f"{'':<{width}}{'calls':>7}{'succeeded':>11}{'429s':>7}{'seconds':>9}{'least seconds':>15}"
    )
    if columns is not None and columns < len(head):
        return "\n".join(map(_block, rows))
    return "\n".join([head, *(_line(row, width) for row in rows)])


def _line(row: ResultRow, width: int) -> str:
    return (
        f"{row.name:<{width}}{row.calls:>7,}{row.succeeded:>11,}{row.refused:>7,}"
        f"{row.seconds:>9.1f}{row.least_seconds:>15.1f}"
    )


def _block(row: ResultRow) -> str:
    return (
        f"{row.name}:\n"
        f"  {row.succeeded:,} of {row.calls:,} calls, {row.refused:,} 429s\n"
        f"  {row.seconds:.1f} s (least: {row.least_seconds:.1f} s)"
    )

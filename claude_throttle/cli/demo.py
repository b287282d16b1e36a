"""See it work: no key, no network, less than half a minute.

Starts a fake Claude API with a tight quota and sends it the same calls three times: from a pool of
threads without regard to the quota, as many programs do; through a Throttler that is given the
quota; and through one that learns it from the answers. The table at the end goes to stdout. Its
429s are those that the server counted; its least seconds are a lower bound: a full burst, then the
quota's pace, then the time of one answer.
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

import requests

from claude_throttle import SYSTEM_CLOCK, ThrottleError
from claude_throttle.cli import ALL_WELL, SOME_FAILED, quota_options
from claude_throttle.cli.progress import Progress, Snapshot, counted
from claude_throttle.testing import FakeClaude

SUMMARY = "see it work, without a key and without a network"

MODEL = "claude-sonnet-5-5"

#: Sends all bodies to a URL, and reports for each whether it succeeded.
Send = Callable[[str, Sequence[dict[str, Any]], Callable[[bool], None]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``demo``."""
    amount, whole = quota_options.amount, quota_options.whole
    for name, kind, default, meaning in (
        ("calls", whole(1), 100, "calls to make, three times"),
        ("rpm", amount, 600, "the server's quota, requests a minute"),
        ("burst", amount, 5, "requests that the server admits at once"),
        ("latency", quota_options.seconds, 0.2, "seconds the server takes to answer"),
        ("threads", whole(1), 20, "size of the thread pool"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar="N", help=f"{meaning} ({default})"
        )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


@dataclass(frozen=True)
class ResultRow:
    """The result of sending the calls in one way: one row of the table."""

    name: str
    calls: int
    succeeded: int
    #: 429s the server sent.
    refused: int
    seconds: float
    #: A full burst, then the quota's own pace, then one answer's time.
    least_seconds: float


class FinishedCalls:
    """Counts finished calls, and lets the main thread wait for the last one. Thread-safe."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        # Guards the two numbers; notified when one changes.
        self._changed = threading.Condition()
        self._succeeded = 0
        self._failed = 0

    def count(self, well: bool) -> None:
        """Count one call that ended, well or not."""
        with self._changed:
            self._succeeded += well
            self._failed += not well
            self._changed.notify_all()

    def succeeded(self) -> int:
        """Wait until all calls have ended; return how many succeeded.

        Waiting for the futures would miss the last ones: a future wakes its waiters before it
        calls its callbacks.
        """
        with self._changed:
            while self._succeeded + self._failed < self._calls:
                # In slices: Ctrl-C can be lost during a wait without a timeout.
                self._changed.wait(0.25)
            return self._succeeded

    def progress(self) -> Snapshot:
        """The progress so far."""
        words = f"{self._succeeded} succeeded, {self._failed} failed"
        return Snapshot(self._succeeded + self._failed, self._calls, words)


def execute(arguments: argparse.Namespace) -> int:
    """Send the calls in three ways, print the table, return the exit code.

    0 if both throttlers got every call answered and the one that was given the quota met no 429.
    """
    naive = _try(counted(arguments.threads, "thread"), _unthrottled(arguments), arguments)
    configured = _try(f"Throttler(rpm={arguments.rpm})", _throttled(rpm=arguments.rpm), arguments)
    learned = _try("Throttler()", _throttled(), arguments)
    print(table([naive, configured, learned], _columns()))
    # While it learns the quota, a throttler may be refused once or twice.
    well = all(row.succeeded == row.calls for row in (configured, learned))
    return ALL_WELL if well and not configured.refused else SOME_FAILED


def _columns() -> Optional[int]:
    """The terminal's width; None if stdout is a file or a pipe, where the table is never folded."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _unthrottled(arguments: argparse.Namespace) -> Send:
    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        send_unthrottled(url, bodies, arguments.threads, ended)

    return send


def send_unthrottled(
    url: str, bodies: Sequence[dict[str, Any]], threads: int, ended: Callable[[bool], None]
) -> None:
    """Post every body from a pool of threads, as many programs do; *ended* gets each result.

    Nothing is retried: that is what the demonstration compares with.
    """
    pool = futures.ThreadPoolExecutor(threads)
    try:
        for body in bodies:
            pool.submit(_post, url, body, ended)
        pool.shutdown()
    except BaseException:
        # Ctrl-C must not wait for the whole queue.
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _post(url: str, body: dict[str, Any], ended: Callable[[bool], None]) -> None:
    """Post one body and report whether a success came back. Never raises a network error.

    Called in the pool's threads, where an exception would be lost and its call never counted.
    """
    try:
        answer = requests.post(
            f"{url}/v1/messages",
            json=body,
            headers={"x-api-key": "demo-key", "anthropic-version": "2023-06-01"},
            timeout=60,
            # A proxy in the environment does not reach the server on this machine.
            proxies={"no_proxy": "127.0.0.1"},
        )
    except requests.RequestException:
        ended(False)
    else:
        ended(answer.ok)


def _throttled(**quotas: float) -> Send:
    """A function that sends through a Throttler with these quotas; without any it learns them.

    The environment must not reach it: a proxy or the testing mode would lead past the fake server.
    """

    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        def done(future: futures.Future[Any]) -> None:
            if not future.cancelled():  # by Ctrl-C
                ended(future.exception() is None)

        with quota_options.open_throttler(
            api_key="demo-key", base_url=url, proxies={}, testing=False, **quotas
        ) as throttler:
            for body in bodies:
                try:
                    future = throttler.submit(raw=True, block=True, **body)
                except ThrottleError:  # the answers before it have suspended the account
                    ended(False)
                else:
                    future.add_done_callback(done)

    return send


def _try(name: str, send: Send, arguments: argparse.Namespace) -> ResultRow:
    """Send the calls in one way to a fresh server, and measure time and refusals."""
    # Each way has its own server: the first one leaves its quota empty.
    gc.collect()  # objects of the last server: a Ctrl-C that comes in a destructor is lost
    server = FakeClaude(rpm=arguments.rpm, burst=arguments.burst, latency=arguments.latency)
    count = FinishedCalls(arguments.calls)
    with server as fake, Progress(count.progress, quiet=arguments.quiet) as progress:
        if not arguments.quiet:
            progress.say(f"{counted(arguments.calls, 'call')} at {arguments.rpm} a minute: {name}")
        started_at = SYSTEM_CLOCK.monotonic()
        send(fake.url, _bodies(arguments.calls), count.count)
        succeeded = count.succeeded()
        seconds = SYSTEM_CLOCK.monotonic() - started_at
        refused = sum(arrival.status == 429 for arrival in fake.arrivals)
    return ResultRow(name, arguments.calls, succeeded, refused, seconds, _least_seconds(arguments))


def _least_seconds(arguments: argparse.Namespace) -> float:
    """The least time that the quota allows: the burst leaves at once, the rest at its rate."""
    paced = max(0.0, arguments.calls - arguments.burst) * 60 / arguments.rpm
    return float(paced + arguments.latency)


def _bodies(calls: int) -> list[dict[str, Any]]:
    """The requests, each with a text of its own."""
    return [
        {
            "model": MODEL,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"Hello, this is call {number}."}],
        }
        for number in range(1, calls + 1)
    ]


def table(rows: Sequence[ResultRow], columns: Optional[int] = None) -> str:
    """The rows as a table with a heading, or as a list if the terminal has too few *columns*."""
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
        f"  {row.succeeded:,} of {counted(row.calls, 'call')}, {counted(row.refused, '429')}\n"
        f"  {row.seconds:.1f} s (least: {row.least_seconds:.1f} s)"
    )

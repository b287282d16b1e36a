"""See it work: no key, no network, about a quarter of a minute.

Starts a pretended Claude API with a tight quota and sends it the same work twice: first as many
programs do, from a pool of threads that knows nothing of quotas; then through a Throttler that was
told the quota. The table at the end is on stdout; its 429s are those the server counted.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from claude_throttle.cli import naive, quota_options
from claude_throttle.cli.exits import ALL_WELL, SOME_FAILED
from claude_throttle.cli.progress import Progress, Snapshot
from claude_throttle.flow.clock import SYSTEM_CLOCK
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
class Row:
    """What came of sending the work one way."""

    name: str
    calls: int
    succeeded: int
    #: 429s the server sent.
    refused: int
    seconds: float
    #: The quota's own pace: calls - 1 intervals.
    least_seconds: float


class Count:
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
    """Both ways, one after the other; returns the exit code."""
    before = _try(f"{arguments.threads} threads", _naively(arguments), arguments)
    after = _try("claude_throttle", _throttled(arguments), arguments)
    print(table([before, after]))
    return ALL_WELL if not after.refused and after.succeeded == after.calls else SOME_FAILED


def _naively(arguments: argparse.Namespace) -> Way:
    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        naive.send_all(url, bodies, arguments.threads, ended)

    return send


def _throttled(arguments: argparse.Namespace) -> Way:
    def send(url: str, bodies: Sequence[dict[str, Any]], ended: Callable[[bool], None]) -> None:
        def done(future: futures.Future[Any]) -> None:
            ended(not future.cancelled() and future.exception() is None)

        with quota_options.open_throttler(
            api_key="demo-key", base_url=url, rpm=arguments.rpm, proxies={}
        ) as throttler:
            for body in bodies:
                throttler.submit(raw=True, block=True, **body).add_done_callback(done)

    return send


def _try(name: str, send: Way, arguments: argparse.Namespace) -> Row:
    # A server of its own for each: the first way leaves its quota empty.
    server = FakeClaude(rpm=arguments.rpm, burst=arguments.burst, latency=arguments.latency)
    count = Count(arguments.calls)
    with server as fake, Progress(count.snapshot, quiet=arguments.quiet) as progress:
        if not arguments.quiet:
            progress.say(f"{arguments.calls} calls at {arguments.rpm} a minute: {name}")
        started_at = SYSTEM_CLOCK.monotonic()
        send(fake.url, _bodies(arguments.calls), count.ended)
        succeeded = count.succeeded()
        seconds = SYSTEM_CLOCK.monotonic() - started_at
        refused = sum(arrival.status == 429 for arrival in fake.arrivals)
    least_seconds = (arguments.calls - 1) * 60 / arguments.rpm
    return Row(name, arguments.calls, succeeded, refused, seconds, least_seconds)


def _bodies(calls: int) -> list[dict[str, Any]]:
    return [
        {
            "model": MODEL,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"Hello, this is call {number}."}],
        }
        for number in range(1, calls + 1)
    ]


def table(rows: Sequence[Row]) -> str:
    """Rows as text, with a head."""
    head = f"{'':<18}{'calls':>7}{'succeeded':>11}{'429s':>7}{'seconds':>9}{'least seconds':>15}"
    return "\n".join([head, *map(_line, rows)])


def _line(row: Row) -> str:
    return (
        f"{row.name:<18}{row.calls:>7,}{row.succeeded:>11,}{row.refused:>7,}"
        f"{row.seconds:>9.1f}{row.least_seconds:>15.1f}"
    )

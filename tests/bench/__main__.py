"""``python -m tests.bench [NAME …]``: prints the table; exit code 1 if a figure is missed."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.bench import (
    cold,
    cost,
    django_thread,
    fleet,
    gaps,
    httpx_client,
    imports,
    learned,
    memory,
    official_sdk,
    pace,
    peers,
    refusals,
    reserving,
    sharing,
    streams,
)
from tests.bench.figures import Figure, print_table

#: In the order of the issues: what it is, and who measures it. From ``learn-1200`` on nothing is
#: told, unless it says so.
ROWS = {
    "burst-20": ("500 calls at 1,200 RPM, server burst 20", pace.wide_burst),
    "burst-2": ("500 calls at 1,200 RPM, server burst 2", pace.narrow_burst),
    "slow": ("300 calls of 4 s each at 1,800 RPM", pace.slow_answers),
    "itpm": ("300 calls under a told ITPM, sizes spread tenfold", pace.input_tokens),
    "otpm": ("300 calls under a told OTPM, lengths spread tenfold", pace.output_tokens),
    "cpu-raw": ("raw=True against requests from 32 threads", cost.raw),
    "cpu-typed": ("typed against the official SDK from 32 threads", cost.typed),
    "cold-calls": ("3,000 typed calls in a fresh process", cold.calls),
    "cold-pace": ("300 calls of 4 s each at 1,800 RPM in a fresh process", cold.pace),
    "latency": ("an idle throttler against Session.post", cost.latency),
    "django": ("a Django view's request thread against Session.post", django_thread.request_thread),
    "stream": ("stream() against raw requests", streams.first_event),
    "gaps": ("departures at 10,000 RPM, anthropic loaded", gaps.departures),
    "queued": ("100,000 queued calls", memory.queued),
    "many": ("200,000 calls through one throttler", memory.many_calls),
    "import": ("import claude_throttle", imports.importing),
    "learn-1200": ("500 calls at 1,200 RPM, server burst 20", learned.requests),
    "learn-minute": ("960 calls from idle at 480 RPM, server burst 480", learned.whole_minute),
    "learn-short": ("120 calls from idle at 240 RPM, server burst 16", learned.short_burst),
    "idle-ten": ("ten calls at once after a minute without any", learned.ten_after_idling),
    "learn-itpm": ("300 calls under an ITPM, sizes spread tenfold", learned.input_tokens),
    "learn-otpm": ("300 calls under an OTPM, lengths spread tenfold", learned.output_tokens),
    "learn-otpm-wide": ("the same, answers as long in seconds", learned.wide_output_tokens),
    "cap-4": ("120 calls of 0.3 s each, four at once", refusals.four_at_once),
    "faults": ("5 % 529, 3 % 500, 2 % resets on top of 2,400 RPM", refusals.faults),
    "faults-told": ("the same, the rate told", refusals.faults_told),
    "lying-burst": ("headers promise a whole minute, the server lets 16 in", learned.lying_burst),
    "half-eaten": ("another client takes half of 1,200 RPM", learned.half_eaten),
    "changed-limit": ("1,200 RPM halved, then doubled", learned.changed_limit),
    "outage": ("60 s of 529s, 1,000 calls waiting", refusals.outage),
    "spend-cap": ("a spend cap in the middle of a run", refusals.spend_cap),
    "tenants": ("one queues 10,000, another 1", refusals.tenants),
    "redis-8": ("8 processes on Redis, 1,000 calls at a told 1,200 RPM", sharing.eight_on_redis),
    "sqlite-4": ("4 processes on a SQLite file, the same", sharing.four_on_sqlite),
    "learn-4": ("4 processes on Redis, nothing told, the same", sharing.four_untold),
    "reserve": ("one reservation, nobody else", reserving.alone),
    "reserve-redis": ("8 processes flat out, batches of 10, Redis", reserving.together_on_redis),
    "reserve-sqlite": ("the same, one SQLite file", reserving.together_on_sqlite),
    "killed": ("kill -9 of one of 4 that hold 8 permits", sharing.killed),
    "frozen": ("Redis stands still for 10 s", sharing.frozen),
    "restarted": ("Redis comes back empty", sharing.restarted),
    "skewed": ("clocks of processes 30 s apart", sharing.skewed),
    "sdk-pace": ("300 calls of the official SDK from 32 threads at 1,200 RPM", official_sdk.pace),
    "sdk-cpu": ("the official SDK, against a middleware that passes", official_sdk.cpu),
    "httpx-cpu": ("httpx under transport(), against its own transport", httpx_client.cpu),
    "fleet-1000": ("1,000 processes in virtual time", fleet.thousand),
}

REACHED, MISSED = "ok", "FALLS SHORT"

HEAD = ("row", "what", "asked", "measured", "")

#: A table of its own, printed only when it is asked for: nothing of it is asked of us.
PEERS = "peers"


def main(arguments=None):
    options = _parser().parse_args(arguments)
    if options.list:
        for name, (what, _) in ROWS.items():
            print(f"{name:<15} {what}")
        print(f"{PEERS:<15} others at the same work: a table of its own, by itself, 7 minutes")
        return 0
    if options.rows == [PEERS]:
        print_table(peers.side_by_side(options.share))
        return 0
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        print(f"no such row: {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 2
    lines = [_line(name, figure) for name in options.rows or ROWS for figure in _run(name, options)]
    print_table([HEAD, *lines])
    return 0 if all(line[-1] == REACHED for line in lines) else 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="NAME", help="measure only these")
    parser.add_argument("--list", action="store_true", help="name the rows, measure nothing")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the calls the table asks for; less than 1 is for trying the benchmark itself",
    )
    return parser


def _run(name, options):
    """Its figures, measured in a fresh process."""
    print(f"{name}: {ROWS[name][0]} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            figures = process.submit(ROWS[name][1], options.share).result()
        except Exception as error:
            figures = [Figure("could not be measured", "", repr(error), False)]
    print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


def _line(name, figure):
    return (name, figure.what, figure.asked, figure.measured, REACHED if figure.reached else MISSED)


if __name__ == "__main__":
    sys.exit(main())

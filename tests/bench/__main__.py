"""``python -m tests.bench [NAME …]``: prints the table; exit code 1 if a figure is missed."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.bench import cost, gaps, imports, memory, pace
from tests.bench.figures import Figure

#: In the order of the issue: what it is, and who measures it.
ROWS = {
    "burst-20": ("500 calls at 1,200 RPM, server burst 20", pace.wide_burst),
    "burst-2": ("500 calls at 1,200 RPM, server burst 2", pace.narrow_burst),
    "slow": ("300 calls of 4 s each at 1,800 RPM", pace.slow_answers),
    "itpm": ("300 calls under a told ITPM, sizes spread tenfold", pace.input_tokens),
    "otpm": ("300 calls under a told OTPM, lengths spread tenfold", pace.output_tokens),
    "cpu-raw": ("raw=True against requests from 32 threads", cost.raw),
    "cpu-typed": ("typed against the official SDK from 32 threads", cost.typed),
    "latency": ("an idle throttler against Session.post", cost.latency),
    "gaps": ("departures at 10,000 RPM, anthropic loaded", gaps.departures),
    "queued": ("100,000 queued calls", memory.queued),
    "many": ("200,000 calls through one throttler", memory.many_calls),
    "import": ("import claude_throttle", imports.importing),
}


def main(arguments=None):
    options = _parser().parse_args(arguments)
    if options.list:
        for name, (what, _) in ROWS.items():
            print(f"{name:<10} {what}")
        return 0
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        print(f"no such row: {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 2
    lines = [_line(name, figure) for name in options.rows or ROWS for figure in _run(name, options)]
    _print_table(lines)
    return 0 if all(reached for *_, reached in lines) else 1


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
    return (name, *figure)


def _print_table(lines):
    cells = [("row", "what", "asked", "measured", "")]
    for name, what, asked, measured, reached in lines:
        cells.append((name, what, asked, measured, "ok" if reached else "FALLS SHORT"))
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())

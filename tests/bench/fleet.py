"""``python -m tests.bench.fleet``: 1,000 processes and one quota, in virtual time; 10 minutes."""

from __future__ import annotations

import sys

from claude_throttle.simulation.fleet_process import Workload
from claude_throttle.simulation.fleet_report import report_on
from tests.bench.figures import Figure, at_most, print_table
from tests.simulation.fleet_scenes import (
    BACKLOGGED,
    FAR,
    batch_of,
    fleet,
    fullest_second,
    left_between,
    one_batch_of_each,
)

#: Virtual seconds before anything is judged.
SINCE = 2.0

#: Calls a second that are urgent, of each backlogged process.
URGENT = 0.002

HEAD = (
    "processes, quota",
    "used",
    "excess",
    "Jain, least to most",
    "reservations/s (a call)",
    "all exchanges/s",
    "reservations missed",
    "urgent p99, longest",
    "store busy",
)


def thousand(share):
    """1,000 backlogged processes, some urgent calls among theirs, 6,000 RPM."""
    rpm, count, seconds = 6000, 1000, max(4.0, 60.0 * share)
    works = [Workload(backlogged=True, urgent_per_second=URGENT)] * count
    # In the first seconds they do not know of each other.
    done = report_on(fleet(rpm, works).run(seconds), rpm / 60, since=min(10.0, seconds / 2.0))
    batch, turn = batch_of(rpm), one_batch_of_each(count, rpm)
    return [
        Figure("of the quota used", "≥ 0.990", f"{done.utilisation:.3f}", done.utilisation >= 0.99),
        at_most("beyond the quota in any window", done.excess, 0.0, "{:.1f}"),
        at_most("one had more calls than another", done.most - done.least, 2 * batch, "{:.0f}"),
        at_most("urgent beyond its place", done.urgent_longest_seconds, turn, "{:.1f} s"),
        at_most("reservations missed", done.missed, 0, "{:.0f}"),
    ]


def _row(name, simulation, rpm, seconds):
    done = report_on(simulation.run(seconds), rpm / 60, since=SINCE)
    urgent = f"{done.urgent_p99_seconds:.1f}, {done.urgent_longest_seconds:.1f} s"
    asks = done.exchanges_per_second.get("reservations", 0.0)
    return (
        name,
        f"{100 * done.utilisation:.1f} %",
        "none" if done.excess <= 0 else f"{done.excess:.1f}",
        f"{done.fairness:.3f}, {done.least} to {done.most}" if done.most else "-",
        f"{asks:.0f} ({done.reservations_per_call:.2f})",
        f"{sum(done.exchanges_per_second.values()):.0f}",
        f"{done.missed}",
        urgent if done.urgent else "-",
        f"{100 * done.store_busy:.2f} %",
    )


def rows():
    """The table, line by line."""
    yield HEAD
    busy = Workload(backlogged=True, urgent_per_second=URGENT)
    yield _row("1,000 backlogged, 6,000 RPM", fleet(6000, [busy] * 1000), 6000, 60.0)
    some = [Workload(per_second=0.09)] * 1000
    yield _row("1,000, Poisson, 90 % of 6,000 RPM", fleet(6000, some), 6000, 60.0)
    busy = Workload(backlogged=True, urgent_per_second=10 * URGENT)
    yield _row("100 x 10 backlogged, 60,000 RPM", fleet(60000, [busy] * 1000), 60000, 22.0)
    far = fleet(60000, [busy] * 1000, round_trip=FAR)
    yield _row("the same, the store 10 ms away", far, 60000, 22.0)
    yield _row("100 backlogged, 60,000 RPM", fleet(60000, [busy] * 100), 60000, 22.0)
    single = fleet(60000, [busy] * 100, batches=False)
    yield _row("the same, one reservation at a time", single, 60000, 22.0)
    busy = Workload(backlogged=True, urgent_per_second=0.1)
    yield _row("10 backlogged, 1,200 RPM", fleet(1200, [busy] * 10), 1200, 120.0)


def frozen():
    """The store stands still for 10 s."""
    yield ("frozen for 10 s", "fullest second", "pace meanwhile", "pace 2 to 4 s after")
    for count, rpm in ((10, 1200), (100, 6000)):
        simulation = fleet(rpm, [BACKLOGGED] * count)
        simulation.freeze_store(20.0, 10.0)
        simulation.run(40.0)
        meanwhile = left_between(simulation, 22.0, 30.0) / 8.0 / (rpm / 60)
        after = left_between(simulation, 32.0, 34.0) / 2.0 / (rpm / 60)
        fullest, most = fullest_second(simulation.departures), rpm / 60 * 1.05 + count
        yield (
            f"{count} backlogged, {rpm:,} RPM",
            f"{fullest} (≤ {most:.0f})",
            f"{meanwhile:.3f}",
            f"{after:.3f}",
        )


def main():
    """Print both tables."""
    print_table(list(rows()))
    print()
    print_table(list(frozen()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

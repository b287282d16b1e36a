"""How much of a quota is used by a throttler that was told nothing, by the fake API's own log."""

from __future__ import annotations

import random
import time
from concurrent.futures import wait

from tests.bench import pace
from tests.bench.figures import Figure, at_most, none_of, scaled
from tests.bench.logs import few_refused, let_in, over_least, refused, token_figure
from tests.bench.logs import pace as pace_of
from tests.bench.server import Server
from tests.bench.work import ask, between, failures, let_pass, push, throttler

#: Seconds of 80 tokens each: answers of 1.3 to 12.5 s.
SECONDS_PER_TOKEN = 1 / 80

#: Share of a quota's pace that counts as all of it: a window cuts off an interval at either end.
FULL_PACE = 0.95


def requests(share):
    """500 calls at 1,200 a minute."""
    with Server(rpm=1200, burst=20, latency=0.2) as server:
        log, failed = push(server, [ask() for _ in range(scaled(500, share))])
    ratio, seconds = over_least(let_in(log), 1200)
    note = f"({seconds:.2f} s)"
    return [at_most("time / least", ratio, 1.05, note=note), *few_refused(log, failed, 2)]


def whole_minute(share):
    """A server that lets a whole minute's worth in at once."""
    return _from_idle(share, count=960, rpm=480, burst=480, most_seconds=66)


def short_burst(share):
    """The same code, and a server that forgives a few."""
    return _from_idle(share, count=120, rpm=240, burst=16, most_seconds=30)


def _from_idle(share, *, count, rpm, burst, most_seconds):
    part = scaled(count, share, least=6) / count
    with Server(rpm=rpm, burst=max(1, burst * part), latency=0.2) as server:
        began = time.monotonic()
        log, failed = push(server, [ask() for _ in range(round(count * part))])
    seconds = let_in(log)[-1].at - began
    asked = at_most("seconds until the last is let in", seconds, most_seconds * part, "{:.1f}")
    return [asked, *few_refused(log, failed, 2)]


def ten_after_idling(share):
    """Ten calls of an idle web application, on a server known to let a minute's worth in."""
    with Server(rpm=600, latency=0.05) as server, throttler(server.url) as throttle:
        failed = failures([throttle.submit(raw=True, **ask()) for _ in range(20)])
        let_pass(60 * share)
        submitted = time.monotonic()
        failed += failures([throttle.submit(raw=True, **ask()) for _ in range(10)])
        log = server.arrivals()
    ten = [arrival.at for arrival in let_in(log) if arrival.at > submitted]
    note = f"(apart {(ten[-1] - ten[0]) * 1000:.0f} ms)"
    late = (ten[-1] - submitted) * 1000
    return [
        at_most("from submit to the last arrival", late, 50, "{:.0f} ms", note),
        *few_refused(log, failed, 0),
    ]


def input_tokens(share):
    """An ITPM nobody told, prompts that differ tenfold."""
    count = scaled(300, share)
    log, failed = pace.input_mix(count, 600_000)
    return _mixed(log, failed, "input_tokens", 600_000, 1.08)


def output_tokens(share):
    """An OTPM nobody told, answers that differ tenfold, each a second long."""
    count = scaled(300, share)
    log, failed = pace.output_mix(count, 300_000)
    return _mixed(log, failed, "output_tokens", 300_000, 1.08)


def wide_output_tokens(share):
    """The same, and each answer as long in seconds as in tokens: more in flight than the burst."""
    source, per_minute = random.Random(4), 300_000
    lengths = [between(source, *pace.OUTPUT_SPREAD) for _ in range(scaled(300, share))]
    each = SECONDS_PER_TOKEN * min(1, 4 * share)
    with Server(otpm=per_minute, otpm_burst=20_000, seconds_per_token=each) as server:
        log, failed = push(server, [ask(f"{length} tokens", 1500) for length in lengths])
    return _mixed(log, failed, "output_tokens", per_minute, 1.3)


def _mixed(log, failed, kind, per_minute, most):
    in_hundred = len(let_in(log)) // 100
    return [token_figure(log, kind, per_minute, most), *few_refused(log, failed, in_hundred)]


def lying_burst(share):
    """Headers that promise a whole minute's worth, and a server that lets 16 in."""
    rpm, count = 480, scaled(320, share)
    with Server(rpm=rpm, burst=16, promised_burst=rpm, latency=0.2) as server:
        log, failed = push(server, [ask() for _ in range(count)])
    later = let_in(log)[count // 2 :]
    once = sum(at >= later[0].at for at in refused(log))
    ratio, seconds = over_least(later, rpm)
    return [
        *few_refused(log, failed, 25),
        none_of("429s in the second half", once),
        at_most("time / least of that half", ratio, 1 / FULL_PACE, note=f"({seconds:.2f} s)"),
    ]


def half_eaten(share):
    """Somebody else spends half of the quota, unannounced."""
    rpm, count = 1200, scaled(300, share)
    with Server(rpm=rpm, burst=20, others_rpm=rpm / 2, latency=0.2) as server:
        log, failed = push(server, [ask() for _ in range(count)])
        others = server.others_taken()
    ratio, seconds = over_least(let_in(log), rpm / 2)
    note = f"({seconds:.1f} s; they got {others / seconds * 60:.0f} a minute)"
    return [
        _at_least("our share of what is left", 1 / ratio, 0.9, note),
        *few_refused(log, failed, 0.02 * count),
    ]


def changed_limit(share):
    """1,200 a minute, then half, then 1,200 again: ten seconds each."""
    phase = 10 * share
    limits = [{"rpm": 600, "burst": 10}, {"rpm": 1200, "burst": 20}]
    changed_at = []
    with Server(rpm=1200, burst=20, latency=0.2) as server, throttler(server.url) as throttle:
        # Enough for all three, and some to spare.
        futures = [throttle.submit(raw=True, **ask()) for _ in range(scaled(560, share))]
        for changes in limits:
            wait(futures, phase)  # they are not all done before
            server.change(limits=changes)
            changed_at.append(time.monotonic())
        failed = failures(futures)
        log = server.arrivals()
    names = ("halved: share of the pace", "doubled: share of the pace")
    # From two seconds after the change on.
    reached = [
        pace_of(log, at + 0.2 * phase, 0.8 * phase) / (changes["rpm"] / 60)
        for at, changes in zip(changed_at, limits)
    ]
    return [
        *(_at_least(name, ratio, FULL_PACE) for name, ratio in zip(names, reached)),
        *few_refused(log, failed, 3),
    ]


def _at_least(what, measured, least, note=""):
    shown = f"{measured:.3f} {note}".rstrip()
    return Figure(what, f"≥ {least:.2f}", shown, measured >= least)

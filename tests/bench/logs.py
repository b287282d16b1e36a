"""What the fake API's log tells: how much of a quota was used, and what was refused.

*Least time* is the quota's own pace without credit for the server's burst: n - 1 intervals, or all
tokens but the last call's over their rate.
"""

from __future__ import annotations

from tests.bench.figures import at_most, none_of


def let_in(log):
    """Those that were given a good answer."""
    return [arrival for arrival in log if arrival.admitted]


def refused(log):
    """The instants at which there was a 429."""
    return [arrival.at for arrival in log if arrival.status == 429]


def over_least(admitted, rpm):
    """Time over the least time, and the seconds it took."""
    seconds = admitted[-1].at - admitted[0].at
    return seconds / ((len(admitted) - 1) * 60 / rpm), seconds


def tokens_over_least(admitted, kind, per_minute):
    """The same of tokens."""
    tokens = sum(getattr(arrival, kind) for arrival in admitted[:-1])
    seconds = admitted[-1].at - admitted[0].at
    return seconds / (tokens * 60 / per_minute), seconds


def pace(log, since, seconds):
    """Admissions a second in a window."""
    return sum(since <= arrival.at < since + seconds for arrival in let_in(log)) / seconds


def token_figure(log, kind, per_minute, most):
    """How much of a token quota was used."""
    admitted = let_in(log)
    ratio, seconds = tokens_over_least(admitted, kind, per_minute)
    # The first half holds what our own burst lets leave at once; the second shows the pace.
    steady, _ = tokens_over_least(admitted[len(admitted) // 2 :], kind, per_minute)
    note = f"({seconds:.2f} s; second half {steady:.3f})"
    return at_most("time / least", ratio, most, note=note)


def few_refused(log, failed, most):
    """At most so many 429s, and nothing failed."""
    return [at_most("429s", len(refused(log)), most, "{:.0f}"), none_of("failed", failed)]
